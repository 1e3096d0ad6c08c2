"""Files as torch.save writes them, put together by hand, so that tests need no PyTorch.

Their pickles are opcodes of protocol 2, with the names that torch gives to its classes and functions.
"""

import struct
import zipfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

STORAGES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}


class Name(NamedTuple):
    """A global by module and name."""

    module: str
    name: str


class Call(NamedTuple):
    """A function, by name, to be called when it is unpickled."""

    function: Name
    arguments: tuple


class Persistent(NamedTuple):
    """An object outside the pickle."""

    identity: tuple


class Attributes(NamedTuple):
    """An object, and what to set its attributes to."""

    target: Any
    state: dict


EMPTY = Call(Name("collections", "OrderedDict"), ())


def opcodes(value) -> bytes:
    """A value without its frame: no PROTO, no STOP."""
    many = lambda values: b"".join(map(opcodes, values))
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if abs(value) < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case dict():
            return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
        case list():
            return b"](" + many(value) + b"e"
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return opcodes(value.function) + opcodes(value.arguments) + b"R"
        case Persistent():
            return opcodes(value.identity) + b"Q"
        case Attributes():
            return opcodes(value.target) + opcodes(value.state) + b"b"
        case tuple():
            return b"(" + many(value) + b"t"
    raise TypeError(type(value))


def pickled(value) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + opcodes(value) + b"."


def tensor(key, array, shape=None, strides=None, offset=0, count=None, dtype=None):
    """What torch writes in the place of a tensor whose storage is the row of the array's values."""
    shape = array.shape if shape is None else shape
    strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides
    storage = Name("torch", f"{STORAGES[dtype or jnp.dtype(array.dtype).name]}Storage")
    identity = ("storage", storage, str(key), "cpu", array.size if count is None else count)
    arguments = (Persistent(identity), offset, tuple(shape), tuple(strides), False, EMPTY)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def write(path, tree, storages=(), order=b"little", compression=zipfile.ZIP_STORED, data=None):
    """A file with the pickle of a tree (or the given one) and arrays as its storages."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled(tree) if data is None else data)
        if order is not None:
            file.writestr("archive/byteorder", order)
        for key, array in enumerate(storages):
            file.writestr(f"archive/data/{key}", np.asarray(array).tobytes())
        file.writestr("archive/version", b"3\n")
    return path


def save(path, state, wrap=lambda tree: tree):
    """A state dict of arrays, each in a storage of its own; `wrap` puts the tree into another."""
    arrays = {name: np.array(array, order="C") for name, array in state.items()}
    tree = {name: tensor(key, array) for key, (name, array) in enumerate(arrays.items())}
    return write(path, wrap(tree), arrays.values())

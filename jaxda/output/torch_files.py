"""State dicts of PyTorch as NumPy arrays, without PyTorch and without running what is in the file.

Two formats: safetensors, and the zip files of torch.save (a pickle that describes the arrays, `torch_pickle`, beside
their bytes). Every size that a file claims is checked against the bytes that it holds before anything is made of it.
"""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from jaxda.output import torch_pickle
from jaxda.output.netcdf import FileError
from jaxda.output.torch_pickle import Tensor

#: safetensors' names of types; its own reader for NumPy leaves bfloat16 out
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
#: what wrappers put before every name: Lightning modules, data parallelism, torch.compile
PREFIXES = ("net.", "model.", "module.", "_orig_mod.", "_forward_module.")
#: descriptions of arrays are small; this many bytes of opcodes take seconds
LARGEST_PICKLE = 2**22
#: axes of an array; products of many more take long
LARGEST_RANK = 8
CURE = "save the weights alone as safetensors, or copy the file again"


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by name, read-only, in the types of the file.

    A Lightning checkpoint's `state_dict` is taken, and a prefix that all names share (`PREFIXES`) left out.

    Raises:
        FileError: no such file, another format, names that would run code, sizes that the file does not hold, or
            values that are no arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file; give a .safetensors file or one of torch.save")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[:4] == b"PK\x03\x04":
            state = _of_zip(path)
        elif start[8:] == b"{":
            state = _of_safetensors(path)
        elif start[:1] == b"\x80":
            raise ValueError("a bare pickle, or torch.save's format from before 1.6, which cannot be read safely")
        else:
            raise ValueError("neither safetensors nor a zip file of torch.save")
        return without_prefix(_named(state))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}); {CURE}") from None
    except (ValueError, RuntimeError, zipfile.BadZipFile, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or "damaged"
        raise FileError(f"{path}: {reason}; {CURE}") from None


def without_prefix(state: dict[str, Any]) -> dict[str, Any]:
    """The same, without the prefixes that all names share."""
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _named(state: dict) -> dict[str, np.ndarray]:
    """The same, with names that may stand in messages."""
    if not state:
        raise ValueError("holds no arrays")
    for name in state:
        if not (isinstance(name, str) and name.isprintable() and len(name) < 200):
            raise ValueError(f"{_shown(name)} is no name of an array")
    return state


def _shown(name) -> str:
    """A name from a file as it may stand in a message."""
    return ascii(str(name))[1:-1][:80]


def _of_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        found = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    state = {}
    for name, one in found:
        if one["dtype"] not in TYPES:
            raise ValueError(f"{_shown(name)} is of type {one['dtype']}, which is not read")
        flat = np.frombuffer(one["data"], jnp.dtype(TYPES[one["dtype"]]))
        flat.flags.writeable = False
        state[name] = flat.reshape(one["shape"])
    return state


def _of_zip(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as file:
            return _arrays(file, path.stat().st_size)
    except (KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"not a readable zip file ({error})") from None


def _arrays(file: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    members = {member.filename: member for member in file.infolist()}
    for member in members.values():
        if member.flag_bits & 1:
            raise ValueError(f"{_shown(member.filename)} is encrypted")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its members are compressed, which torch.save never does")
    # members that lie over each other would let a small file claim any amount of memory
    if sum(member.file_size for member in members.values()) > size:
        raise ValueError(f"its members claim more bytes than the {size} of the file")
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("holds no data.pkl, so torch.save did not write it")
    folder = pickles[0].removesuffix("data.pkl")
    if members[pickles[0]].file_size > LARGEST_PICKLE:
        raise ValueError(f"its pickle has {members[pickles[0]].file_size} bytes, more than arrays need")
    # older versions of torch do not say, and were little-endian
    order = file.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
    if order != b"little":
        raise ValueError("it is big-endian")
    tree = torch_pickle.read(file.read(pickles[0]))
    if type(tree) is dict and type(tree.get("state_dict")) is dict:
        tree = tree["state_dict"]
    if type(tree) is not dict:
        raise ValueError(f"holds no state dict, but a value of type {type(tree).__name__}")
    storages: dict[str, bytes] = {}

    def values(key: str) -> bytes:
        if key not in storages:
            if f"{folder}data/{key}" not in members:
                raise ValueError(f"its bytes data/{_shown(key)} are missing")
            storages[key] = file.read(f"{folder}data/{key}")
        return storages[key]

    return {name: _array(name, tensor, values) for name, tensor in tree.items()}


def _array(name, tensor, values) -> np.ndarray:
    """A view of its storage's bytes, `values(key)`, if they are all there."""
    shown = _shown(name)
    if type(tensor) is not Tensor:
        raise ValueError(f"{shown} is of type {type(tensor).__name__}, not an array")
    storage, offset, shape, strides = tensor
    numbers = (storage.count, offset, *shape, *strides)
    if not len(shape) == len(strides) <= LARGEST_RANK or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError(f"{shown} has sizes that are no counts")
    dtype, held = jnp.dtype(storage.dtype), values(storage.key)
    if len(held) != storage.count * dtype.itemsize:
        raise ValueError(f"{shown} is of {storage.count} values of {storage.dtype}, but {len(held)} bytes are there")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"{shown} claims the shape {str(shape)[:60]}, but {storage.count} values are there")
    if not count:
        return np.zeros(shape, dtype)
    # the stride of a single row is never walked, and may be anything
    steps = [stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    flat = np.frombuffer(held, dtype)[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

"""The pickle inside a file of torch.save, read without running it.

A pickle is a program: `pickle.load` calls whatever function it names. Here its opcodes, from `pickletools.genops`, go
through a stack machine that can build nothing but dicts, lists, tuples, strings, numbers, and descriptions of arrays.
The names that a state dict needs are in a table; any other name ends the reading before it means anything, so that
nothing is imported, and nothing is called.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

#: torch's storages and the types of their values; bfloat16 is of ml_dtypes, which comes with JAX
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_DICT = "collections OrderedDict"

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_LITERALS |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Storage(NamedTuple):
    """Values in a row: their type, the name of their bytes in the file, and how many the pickle says there are."""

    dtype: str
    key: str
    count: int


class Tensor(NamedTuple):
    """An array as the pickle describes it: a view of a storage, strides in values. None of it is checked yet."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


class _Name(NamedTuple):
    """What GLOBAL leaves: a name from the table, never the thing itself."""

    text: str


def read(data: bytes) -> Any:
    """The tree of a pickle: dicts, lists, tuples, plain values, and `Tensor`s.

    Raises:
        ValueError: a name or an opcode that state dicts do not need, or a pickle that is cut off or damaged.
    """
    try:
        return _run(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError("its pickle is damaged") from None


def _run(data: bytes) -> Any:
    stack: list = []
    below: list[list] = []  # the stacks under each MARK
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _PUTS:
            memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [_last(stack, _TUPLES[name])]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "SETITEMS":
                _set(stack[-1], items)
            else:
                _a(list, stack[-1]).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], [key, value])
        elif name == "APPEND":
            value = stack.pop()
            _a(list, stack[-1]).append(value)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "GLOBAL":
            stack.append(_allowed(argument))
        elif name == "STACK_GLOBAL":
            own, module = _a(str, stack.pop()), _a(str, stack.pop())
            stack.append(_allowed(f"{module} {own}"))
        elif name == "REDUCE":
            arguments, function = _a(tuple, stack.pop()), _a(_Name, stack.pop())
            stack.append(_made(function.text, arguments))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "BUILD":
            stack.pop()  # attributes of an OrderedDict: torch's versions of modules, which no array depends on
            _a(dict, stack[-1])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle uses the opcode {name}, which no state dict needs")
    raise ValueError("its pickle is cut off")


def _a(kind: type, value):
    """The value, if it is of this very type: subclasses are other things here."""
    if type(value) is not kind:
        raise TypeError
    return value


def _last(stack: list, count: int) -> tuple:
    if len(stack) < count:
        raise IndexError
    return tuple(stack[-count:])


def _set(target, items: list) -> None:
    """Put keys and values, in turns, into a dict; keys are plain, because the hashes of others can take forever."""
    _a(dict, target)
    if len(items) % 2:
        raise IndexError
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
            raise TypeError
        target[key] = value


def _allowed(name: str) -> _Name:
    """A name of the table; raises ValueError for any other."""
    module, _, own = name.partition(" ")
    if name in (_TENSOR, _PARAMETER, _DICT) or (module == "torch" and own in STORAGES):
        return _Name(name)
    shown = ascii(f"{module}.{own}")[1:-1][:80]
    raise ValueError(f"its pickle names {shown}, which no state dict needs; nothing of it was run")


def _made(name: str, arguments: tuple):
    """What the named function would make of the arguments."""
    if name == _DICT and not arguments:
        return {}
    if name == _TENSOR and len(arguments) in (6, 7):
        storage, offset, shape, strides = arguments[:4]
        return Tensor(_a(Storage, storage), _a(int, offset), _a(tuple, shape), _a(tuple, strides))
    if name == _PARAMETER and len(arguments) == 3:
        return _a(Tensor, arguments[0])
    raise TypeError


def _storage(identity) -> Storage:
    """Of torch's tuple ("storage", its class, its file's name, device, count)."""
    kind, named, key, _, count = _a(tuple, identity)
    if kind != "storage":
        raise TypeError
    return Storage(STORAGES[_a(_Name, named).text.removeprefix("torch ")], _a(str, key), _a(int, count))

"""Reads pickled dictionaries of lists and byte arrays without unpickling: nothing is imported or called.

CIFAR-10's Python version is such a file. A pickle is a program for a small stack machine. The standard
library's `pickletools` lists its instructions, and the machine here knows only those that build plain values.
If the program asks for a NumPy array, the machine keeps the array's parts. Any other request is an error.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.task import DataError


@dataclass
class Array:
    """The parts of a NumPy array."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    content: bytes = b""


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class _Type:
    code: str


_MARK = object()
_INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
_STRINGS = ("BINSTRING", "SHORT_BINSTRING")
_VALUES = (*_INTEGERS, *_STRINGS, "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read(file: Path) -> dict[str, Any]:
    """Reads the dictionary in a pickle file: keys as text, arrays as `Array`. Raises `DataError` naming the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from `pickletools`, on odd escapes in names
            result = _execute(file.read_bytes())
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except (ValueError, IndexError, TypeError, AttributeError, KeyError, UnicodeError) as error:
        raise DataError(f"{file}: truncated or not a pickle ({error})") from None
    if not isinstance(result, dict):
        raise DataError(f"{file}: not a pickled dictionary")
    return {_text(key): value for key, value in result.items()}


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _execute(program: bytes) -> Any:
    """Runs the pickle program; returns its value."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            # Python 2 wrote bytes as strings, which pickletools shows as Latin-1.
            stack.append(argument.encode("latin-1") if name in _STRINGS else argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in _TUPLES:
            count = _TUPLES[name]
            values = stack[len(stack) - count :]
            del stack[len(stack) - count :]
            stack.append(tuple(values))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            values = since_mark()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_answer_call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _set_state(stack[-1], state)
        else:
            raise DataError(f"a pickle with the instruction {name}, which is refused")
    raise ValueError("it has no end")


def _set_state(target: Any, state: Any) -> None:
    """Sets an array's parts; a dtype's state is ignored."""
    if isinstance(target, Array):
        _, shape, dtype, fortran, content = state
        if fortran:
            raise DataError("an array in column order, which CIFAR-10 never has")
        target.shape, target.dtype, target.content = shape, dtype.code, content
    elif not isinstance(target, _Type):
        raise DataError("a pickle that builds an object, which is refused")


def _answer_call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """The stand-in for the result of a call that the program asks for."""
    name = function.name if isinstance(function, _Name) else str(function)
    if name in ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"):
        return Array()
    if name == "numpy dtype":
        return _Type(_text(arguments[0]))
    if name == "_codecs encode":  # how Python 3 writes bytes in an old protocol
        return arguments[0].encode("latin-1")
    raise DataError(f"a pickle that asks for {name}, which is refused")

"""Pickles of NumPy's bytes as Python 2 wrote them, such as CIFAR's, without unpickling.

Python's own `pickle` would call whatever a file names. Here the few steps that such a file needs
are followed one by one: strings, whole numbers, lists, dicts, and arrays of uint8. A file that asks
for anything else is refused before it gets it.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 1_000_000
"""CIFAR-100's training file takes some 300,000: two labels and a name for each of 50,000 images."""

_RECONSTRUCT, _NDARRAY, _DTYPE = (
    "numpy.core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
)


class NumpyPickleError(ValueError):
    """A pickle that is not to be read; says why."""


@dataclass(slots=True, eq=False)
class _Named:
    """A Python object that the pickle names, by its name alone."""

    name: str


@dataclass(slots=True, eq=False)
class _Made:
    """What a call made: an array, or the type uint8."""

    function: str
    array: NDArray[np.uint8] | None = None


def read(content: bytes) -> dict[bytes, object]:
    """The dict that a pickle of protocol 2 holds.

    Returns:
        By keys of bytes: bytes, int, bool, None, arrays of uint8 (which cannot be written to), and
        tuples, lists and dicts of these.

    Raises:
        NumpyPickleError: for one that is damaged, or holds or does anything else.
    """
    machine = _Machine()
    try:
        for number, (name, argument) in enumerate(_steps(content)):
            if number >= STEPS:
                raise NumpyPickleError(f"takes more than {STEPS:,} steps to read")
            machine.step(name, argument)
        (found,) = machine.stack
    except NumpyPickleError:
        raise
    except (struct.error, ValueError, IndexError, KeyError):  # ends too soon, or takes from nothing
        raise NumpyPickleError("is cut off or damaged") from None
    if not isinstance(found, dict) or machine.below:
        raise NumpyPickleError("holds no dict")
    return {key: _finished(value) for key, value in found.items()}


def _finished(value: object) -> object:
    """Looks no deeper than the dict's own values; what uses them checks what is in them."""
    if not isinstance(value, _Made):
        return value
    if value.array is None:
        raise NumpyPickleError("has an array without its values")
    return value.array


_SIMPLE = {
    "(": "MARK",
    ")": "EMPTY_TUPLE",
    "N": "NONE",
    "R": "REDUCE",
    "]": "EMPTY_LIST",
    "a": "APPEND",
    "b": "BUILD",
    "e": "APPENDS",
    "s": "SETITEM",
    "t": "TUPLE",
    "u": "SETITEMS",
    "}": "EMPTY_DICT",
    "\x85": "TUPLE1",
    "\x86": "TUPLE2",
    "\x87": "TUPLE3",
    "\x88": "NEWTRUE",
    "\x89": "NEWFALSE",
}
_WITH_NUMBER = {
    "J": ("NUMBER", "<i"),
    "K": ("NUMBER", "<B"),
    "M": ("NUMBER", "<H"),
    "T": ("STRING", "<i"),
    "U": ("STRING", "<B"),
    "h": ("GET", "<B"),
    "j": ("GET", "<I"),
    "q": ("PUT", "<B"),
    "r": ("PUT", "<I"),
    "\x80": ("PROTO", "<B"),
}
"""Names of steps, and how the number behind each is written; of a string that is its length."""


def _steps(content: bytes) -> Iterator[tuple[str, object]]:
    """Each step's name and its argument, up to the one that says stop."""
    place = 0
    while (code := chr(content[place])) != ".":
        place += 1
        if code in _SIMPLE:
            yield _SIMPLE[code], None
        elif code in _WITH_NUMBER:
            name, form = _WITH_NUMBER[code]
            (number,) = struct.unpack_from(form, content, place)
            place += struct.calcsize(form)
            if name != "STRING":
                yield name, number
                continue
            if not 0 <= number <= len(content) - place:
                raise NumpyPickleError("is cut off or damaged")
            yield name, content[place : place + number]
            place += number
        elif code == "\x8a":  # a long whole number
            end = place + 1 + content[place]
            if not place < end <= place + 9:
                raise NumpyPickleError("has a number of more than 64 bits")
            yield "NUMBER", int.from_bytes(content[place + 1 : end], "little", signed=True)
            place = end
        elif code == "c":
            middle = content.index(b"\n", place)
            end = content.index(b"\n", middle + 1)
            yield "GLOBAL", content[place:end].replace(b"\n", b" ").decode("latin-1")
            place = end + 1
        else:
            raise NumpyPickleError(
                f"does what Python 2 does not for arrays of bytes ({content[place - 1]:#04x})"
            )


class _Machine:
    """A stack, the stacks below its marks, a memo."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[object, object] = {}

    def step(self, name: str, argument: object) -> None:
        if name in ("STRING", "NUMBER"):
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "PUT":
            self.memo[argument] = self.stack[-1]
        elif name == "GET":
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "TUPLE" or name in _TUPLES:
            items = self.taken(_TUPLES.get(name))
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = self.taken(1 if name == "APPEND" else None)
            target = self.stack[-1]
            if not isinstance(target, list):
                raise NumpyPickleError("appends to what is no list")
            target += items
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.taken(2 if name == "SETITEM" else None))
        elif name == "GLOBAL":
            if argument not in (_RECONSTRUCT, _NDARRAY, _DTYPE):
                shown = str(argument).replace(" ", ".")[:80]
                raise NumpyPickleError(f"names {shown!r}, which arrays of bytes do not need")
            self.stack.append(_Named(str(argument)))
        elif name == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            self.stack.append(_called(function, arguments))
        elif name == "BUILD":
            state = self.stack.pop()
            _build(self.stack[-1], state)
        elif argument != 2:  # PROTO
            raise NumpyPickleError(f"is a pickle of protocol {argument}, not 2")

    def taken(self, count: int | None) -> list[object]:
        """The last few of the stack, or those after the last mark."""
        if count is None:
            items, self.stack = self.stack, self.below.pop()
            return items
        if len(self.stack) < count:
            raise NumpyPickleError("takes what is not there")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise NumpyPickleError("has a key without its value or its dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, bytes):
                raise NumpyPickleError("has a dict with other keys than strings")
            target[key] = value


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _called(function: object, arguments: object) -> _Made:
    """NumPy pickles an array as an empty one and a state, and so its type."""
    if isinstance(function, _Named) and isinstance(arguments, tuple):
        # Of the type's other arguments, and of its state, nothing hangs on for bytes.
        if function.name == _DTYPE and arguments[:1] == (b"u1",):
            return _Made(_DTYPE)
        if function.name == _RECONSTRUCT and len(arguments) == 3:
            kind, *rest = arguments
            if isinstance(kind, _Named) and kind.name == _NDARRAY and rest == [(0,), b"b"]:
                return _Made(_RECONSTRUCT)
    raise NumpyPickleError("makes something else than an array of bytes")


def _build(target: object, state: object) -> None:
    if not isinstance(target, _Made) or not isinstance(state, tuple):
        raise NumpyPickleError("sets the state of what is no array")
    if target.function == _DTYPE:
        if not all(part is None or isinstance(part, int | bytes) for part in state):
            raise NumpyPickleError("has an array of other values than bytes")
        return
    if len(state) != 5:
        raise NumpyPickleError("has an array of unknown form")
    version, shape, kind, fortran, values = state
    if (
        version != 1
        or not isinstance(kind, _Made)
        or kind.function != _DTYPE
        or not isinstance(fortran, bool | int)
        or not isinstance(values, bytes)
        or not isinstance(shape, tuple)
        or len(shape) > 8
        or not all(type(side) is int and side >= 0 for side in shape)
    ):
        raise NumpyPickleError("has an array of unknown form")
    if math.prod(shape) != len(values):
        raise NumpyPickleError(
            f"has an array of {'×'.join(map(str, shape))} with {len(values):,} values"
        )
    target.array = np.frombuffer(values, np.uint8).reshape(shape, order="F" if fortran else "C")

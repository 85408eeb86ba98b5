"""MATLAB's MAT-files of level 5 (`save -v6`, `-v7`), after MathWorks' public description.

Written for files from anywhere: SciPy's reader kills its process on some damaged ones. Nothing is
allocated that a file only claims: memory grows with the bytes that are really there.
"""

import io
import zlib
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from vggnet.errors import InputError

_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""NumPy's types by the type of a data element."""
_MATRIX, _COMPRESSED = 14, 15
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""How the letters of a char array are encoded, by the type of their data element."""
_CELL, _STRUCT, _CHAR, _OPAQUE = 1, 2, 4, 17
_NUMERIC = range(6, 16)
"""Classes of arrays of numbers: double, single and eight of integers, logical among them."""
_COMPLEX = 0x08

_CHUNK = 1 << 16
_MOST_BYTES = 4 << 30
"""Of a variable, unpacked."""
_FREE_BYTES, _MOST_PACKED = 64 << 20, 100
"""A variable is unpacked to 64 MiB and 100 times its packed size at most. Weights hardly shrink."""
_MOST_ARRAYS = 100_000
"""In a file. The authors' nets have about 2,500, two for each class among them."""
_DEEPEST = 16
"""Cells and structs within each other; nets have 5."""
_MOST_ROWS = 10_000
"""Of a char array."""


def read(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The variables of a file by their names: those wanted, and None for the others.

    Numbers come as arrays of the shape and order that MATLAB shows, in the type that they are
    stored in, which may be narrower than their class. Char arrays come as a string, or a list of
    strings of several rows; a cell array as a list, column by column; a struct as a dict; a struct
    array as a list of dicts. What is none of these (sparse, complex, objects, functions) is None.

    Raises:
        InputError: for a file that is damaged, of another version, or of sizes that no net has.
    """
    try:
        with path.open("rb") as file:
            return _File(path, file).variables(wanted)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


class _File:
    """An open file with the order of its bytes, which counts what has been read of it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.arrays = 0
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        header = file.read(128)
        if header[:10] == b"MATLAB 7.3":
            raise InputError(
                f"{path}: is of MATLAB's version 7.3: load it there, and save it with save -v7"
            )
        endian = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if endian is None:
            raise self.damaged("its header is not that of a MAT-file of level 5")
        self.endian = endian

    def damaged(self, why: str) -> InputError:
        return InputError(
            f"{self.path}: cannot be read as a MAT-file ({why}): copy or download it again"
        )

    def number(self, data: bytes | bytearray, at: int) -> int:
        """The unsigned 32 bits at a place."""
        return int.from_bytes(data[at : at + 4], "little" if self.endian == "<" else "big")

    def variables(self, wanted: Collection[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        position = 128
        while position < self.size:
            self.file.seek(position)
            tag = self.file.read(8)
            kind, size = self.number(tag, 0), self.number(tag, 4)
            position += 8 + size
            if len(tag) < 8 or position > self.size:
                raise self.damaged("it is truncated")
            if kind == _COMPRESSED:
                limit = min(_MOST_BYTES, _FREE_BYTES + _MOST_PACKED * size)
                unpacked = io.BufferedReader(_Unpacked(self.file, size), _CHUNK)
                elements = _Elements(self, cast(BinaryIO, unpacked), limit)
                kind, size = elements.tag(limit)
            else:
                elements = _Elements(self, self.file, size)
            if kind != _MATRIX:
                raise self.damaged(f"it has a variable of type {kind}")
            if size > elements.left(elements.end):
                raise self.damaged("a variable claims more bytes than there can be")
            self.arrays += 1
            if self.arrays > _MOST_ARRAYS:
                raise self.too_many()
            name, value = elements.variable(elements.position + size, wanted)
            found[name] = value
        return found

    def too_many(self) -> InputError:
        return InputError(f"{self.path}: has more than {_MOST_ARRAYS:,} arrays: no net has")


class _Unpacked(io.RawIOBase):
    """The next `left` bytes of a file, unpacked as they are read."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file, self.left = file, left
        self.zlib = zlib.decompressobj()
        self.packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self.zlib.eof:
            if not self.packed:
                self.packed = self.file.read(min(self.left, _CHUNK))
                self.left -= len(self.packed)
            last = not self.packed
            data = self.zlib.decompress(self.packed, len(target))
            self.packed = self.zlib.unconsumed_tail
            if data:
                target[: len(data)] = data
                return len(data)
            if last:
                break
        return 0


class _Elements:
    """The data elements of a variable, one after the other.

    An array is four elements or more within one: flags, sizes, name and content. Wherever an
    `end` is passed, it is the position at which the element that holds the next one ends.
    """

    def __init__(self, file: _File, stream: BinaryIO, end: int) -> None:
        self.file, self.stream, self.end = file, stream, end
        self.position = 0

    def left(self, end: int) -> int:
        return end - self.position

    def next(self, most: int) -> bytes:
        try:
            return self.stream.read(most)
        except zlib.error as error:
            raise self.file.damaged(str(error)) from None

    def take(self, size: int, end: int) -> bytearray:
        """The next bytes, as they come: a size that is only claimed costs nothing."""
        if size > self.left(end):
            raise self.file.damaged("an element is longer than what holds it")
        data = bytearray()
        while len(data) < size:
            piece = self.next(min(size - len(data), 1 << 20))
            if not piece:
                raise self.file.damaged("it is truncated")
            data += piece
        self.position += size
        return data

    def skip(self, size: int, end: int) -> None:
        while size:
            size -= len(self.take(min(size, 1 << 20), end))

    def tag(self, end: int) -> tuple[int, int]:
        """Type and size in bytes of the next element, which is none of the small ones."""
        tag = self.take(8, end)
        return self.file.number(tag, 0), self.file.number(tag, 4)

    def element(self, end: int) -> tuple[int, bytearray]:
        """Type and data of the next element; up to four bytes stand within the tag itself."""
        tag = self.take(8, end)
        first = self.file.number(tag, 0)
        if size := first >> 16:
            if size > 4:
                raise self.file.damaged(f"a small element of {size} bytes")
            return first & 0xFFFF, tag[4 : 4 + size]
        size = self.file.number(tag, 4)
        data = self.take(size, end)
        self.take(min(-size % 8, self.left(end)), end)
        return first, data

    def integers(self, end: int) -> list[int]:
        kind, data = self.element(end)
        if kind not in (5, 6) or len(data) % 4 or len(data) > 4 * 32:
            raise self.file.damaged("the sizes of an array are not understood")
        return [int(value) for value in np.frombuffer(data, f"{self.file.endian}i4")]

    def head(self, end: int) -> tuple[int, list[int], str]:
        """Class with its flags, sizes and name of an array."""
        kind, flags = self.element(end)
        if kind != 6 or len(flags) != 8:
            raise self.file.damaged("an array has no flags")
        opaque = self.file.number(flags, 0) & 0xFF == _OPAQUE  # objects of today: without sizes
        sizes = [1, 1] if opaque else self.integers(end)
        if len(sizes) < 2 or min(sizes) < 0:
            raise self.file.damaged("an array has no sizes")
        name = self.element(end)[1]
        return self.file.number(flags, 0), sizes, name.decode("latin-1")

    def variable(self, end: int, wanted: Collection[str]) -> tuple[str, Any]:
        flags, sizes, name = self.head(end)
        if name not in wanted:
            return name, None
        value = self.content(flags, sizes, end, 0)
        self.skip(self.left(end), end)
        self.next(1)  # at the end of what is packed stands its checksum
        return name, value

    def array(self, end: int, depth: int) -> Any:
        """The next element, which is an array within another."""
        kind, size = self.tag(end)
        self.file.arrays += 1
        if self.file.arrays > _MOST_ARRAYS:
            raise self.file.too_many()
        if kind != _MATRIX or size > self.left(end):
            raise self.file.damaged("a cell or a field is no array")
        if depth > _DEEPEST:
            raise self.file.damaged(f"cells and structs are more than {_DEEPEST} deep")
        if size == 0:
            return np.zeros((0, 0))
        own_end = self.position + size
        flags, sizes, _ = self.head(own_end)
        value = self.content(flags, sizes, own_end, depth)
        self.skip(self.left(own_end), own_end)
        return value

    def content(self, flags: int, sizes: list[int], end: int, depth: int) -> Any:
        cls = flags & 0xFF
        if cls in _NUMERIC and not (flags >> 8) & _COMPLEX:
            return self.numbers(sizes, end)
        if cls == _CHAR:
            return self.text(sizes, end)
        if cls == _CELL:
            return [self.array(end, depth + 1) for _ in range(self.count(sizes, 1, end))]
        if cls == _STRUCT:
            return self.structs(sizes, end, depth)
        return None

    def count(self, sizes: list[int], each: int, end: int) -> int:
        """How many arrays of `each` elements there are: none of them is shorter than its tag."""
        count = prod(sizes)
        if count * each > self.left(end) // 8:
            raise self.file.damaged("a cell or struct array claims more than it has")
        return count

    def numbers(self, sizes: list[int], end: int) -> Any:
        kind, data = self.element(end)
        if kind not in _NUMBERS:
            raise self.file.damaged(f"an array of numbers has data of type {kind}")
        dtype = np.dtype(self.file.endian + _NUMBERS[kind])
        if prod(sizes) * dtype.itemsize != len(data):
            raise self.file.damaged("an array of numbers has more or fewer bytes than its sizes")
        if not data:
            return np.zeros((0, 0))
        return np.frombuffer(data, dtype).reshape(sizes, order="F")

    def text(self, sizes: list[int], end: int) -> str | list[str]:
        kind, data = self.element(end)
        if kind not in _TEXT:
            raise self.file.damaged(f"a char array has data of type {kind}")
        encoding = _TEXT[kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.file.endian == "<" else "-be"
        text = data.decode(encoding, "replace")
        rows = sizes[0]
        if rows <= 1 or not text:
            return text
        if rows > _MOST_ROWS or len(text) % rows:
            raise self.file.damaged("a char array has other letters than its sizes")
        return [text[row::rows] for row in range(rows)]

    def structs(self, sizes: list[int], end: int, depth: int) -> Any:
        length = (self.integers(end) or [0])[0]
        names = self.element(end)[1]
        if not names:
            return {}
        if not 0 < length <= 1024 or len(names) % length or len(names) // length > 1000:
            raise self.file.damaged("the names of a struct's fields are not understood")
        fields = [
            names[at : at + length].split(b"\0")[0].decode("latin-1")
            for at in range(0, len(names), length)
        ]
        structs = [
            {field: self.array(end, depth + 1) for field in fields}
            for _ in range(self.count(sizes, len(fields), end))
        ]
        return structs[0] if len(structs) == 1 else structs

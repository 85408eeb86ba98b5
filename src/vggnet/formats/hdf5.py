"""HDF5 as Keras writes it: groups, plain arrays in one piece, and short texts beside them.

The file may come from anywhere. What describes the arrays is parsed by pyfive, which is Python and
has no memory to overrun, through a handle that hands out only so much; an array is read only when
its shape, its type and the bytes that it claims have been checked.
"""

import math
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError

TEXTS = ("name", "model_config", "backend")
"""The attributes that are read: of a layer's variables, a whole model, what wrote the file."""

# VGG19 saved as a whole takes 3,000 reads, 60 thousand bytes and 150 objects.
_READS, _BYTES, _LARGEST_READ = 20_000, 4 << 20, 256 << 10
_OBJECTS, _DEPTH, _LONGEST_NAME = 1_000, 12, 100
_ATTRIBUTE, _CONTIGUOUS = 12, 1  # numbers of the HDF5 file format: a message, a layout
_FLOATS = ("<f2", "<f4", "<f8")


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the file, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy's name."""
    start: int
    """Of its values, from the beginning of the HDF5 part; meaningless unless `plain`."""
    plain: bool
    """Whether the values lie there in one piece, as they are: not in chunks, not compressed."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, by path: `layers/conv2d/vars/0`."""

    arrays: dict[str, Array]
    groups: list[str]
    texts: dict[tuple[str, str], str]
    """By a group's path, "" for the root, and one of TEXTS."""


def contents(path: Path, file: BinaryIO, start: int, size: int) -> Contents:
    """What is in an HDF5 file, or in the part of a file that is one.

    Args:
        path: named in errors.
        file: open for reading.
        start: first byte of the part.
        size: its bytes.

    Raises:
        InputError: for a damaged file, for links other than those that hold the file together, for
            more objects than a VGG has, or without pyfive.
    """
    try:
        import pyfive  # noqa: F401
    except ImportError:
        raise InputError(
            f"{path}: reading Keras' files needs pyfive: pip install 'vggnet[keras]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _walk(path, _Bounded(file, start, size))
    except InputError:
        raise
    except Exception as error:  # pyfive raises nearly anything on damaged files
        raise InputError(
            f"{path}: cannot be read as Keras' HDF5 ({why(error)}): copy or download it again"
        ) from None


def read(
    path: Path, file: BinaryIO, start: int, size: int, name: str, array: Array
) -> NDArray[np.floating[Any]]:
    """The values of one array.

    Args:
        path, file, start, size: as for `contents`.
        name: of the array, for errors.
        array: from `contents`.

    Raises:
        InputError: for an array that is not plain, not of floating-point numbers, or not all in
            the file.
    """
    if not array.plain:
        raise InputError(
            f"{path}: {name} is compressed or in chunks, as Keras writes none: load it in Keras "
            "and save it again"
        )
    if array.dtype not in _FLOATS:
        raise InputError(
            f"{path}: {name} is of {array.dtype}, not of float16, float32 or float64: convert it "
            "in Keras and save it again"
        )
    if not array.nbytes:
        raise InputError(f"{path}: {name} is empty: save the file again in Keras")
    if array.start + array.nbytes > size:
        raise InputError(
            f"{path}: {name} claims {array.nbytes:,} bytes, more than there are: the file is "
            "truncated or damaged: copy or download it again"
        )
    file.seek(start + array.start)
    values = np.fromfile(file, array.dtype, math.prod(array.shape))
    if values.size < math.prod(array.shape):
        raise InputError(f"{path}: ended while {name} was read: is it being written?")
    return values.reshape(array.shape)


def why(error: Exception) -> str:
    """What an exception says, on one line."""
    text = (str(error).splitlines() or [""])[0][:120].strip()
    return "".join(c if c.isprintable() else "?" for c in text) or type(error).__name__


class _Bounded:
    """A part of a file for pyfive, to be read only in small pieces and not too often.

    A few damaged or forged bytes can make a reader follow addresses for hours, or ask for more
    memory than there is.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self.position = self.reads = self.bytes = 0

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = origin + position
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        self.reads += 1
        self.bytes += count
        if not 0 <= count <= _LARGEST_READ or self.reads > _READS or self.bytes > _BYTES:
            raise ValueError("describes more than a VGG")
        if not 0 <= self.position <= self.size - count:
            raise ValueError("truncated")
        self.file.seek(self.start + self.position)
        self.position += count
        return self.file.read(count)


def _walk(path: Path, file: _Bounded) -> Contents:
    from pyfive.dataobjects import DataObjects
    from pyfive.misc_low_level import SuperBlock

    found = Contents({}, [], {})
    waiting = [("", SuperBlock(file, 0).offset_to_dataobjects)]
    seen = set()
    while waiting:
        name, address = waiting.pop()
        if isinstance(address, str):
            raise InputError(f"{path}: {name} is a link to {address[:60]!r}, as Keras writes none")
        if address in seen:
            raise InputError(
                f"{path}: {name} is there under another name too, or is its own parent"
            )
        seen.add(address)
        if len(seen) + len(waiting) > _OBJECTS or name.count("/") > _DEPTH:
            raise InputError(f"{path}: has more groups and arrays than any VGG's file")
        item = DataObjects(file, address)
        if item.is_dataset:
            found.arrays[name] = _array(item)
            continue
        found.groups.append(name)
        found.texts.update({(name, key): text for key, text in _texts(item)})
        for key, target in reversed(item.get_links().items()):
            if "/" in key or not key.isprintable() or len(key) > _LONGEST_NAME:
                raise InputError(f"{path}: has a name {key[:60]!r}, as Keras writes none")
            waiting.append((f"{name}/{key}" if name else key, target))
    return found


def _array(item: Any) -> Array:
    _, layout, offset = item.get_id_storage_params()
    plain = layout == _CONTIGUOUS and item.filter_pipeline is None
    start = struct.unpack_from("<Q", item.msg_data, offset)[0] if plain else 0
    return Array(tuple(item.shape), np.dtype(item.ptype.dtype).str, start, plain)


def _texts(item: Any) -> list[tuple[str, str]]:
    """Single strings among the attributes; an array's claimed length is never believed."""
    from pyfive.dataobjects import determine_data_shape

    texts = []
    for message in item.find_msg_type(_ATTRIBUTE):
        start = message["offset_to_message"]
        version, lengths = item.msg_data[start], struct.unpack_from("<3H", item.msg_data, start + 2)
        name_at = start + (9 if version == 3 else 8)
        key = item.msg_data[name_at : name_at + lengths[0]].rstrip(b"\0").decode("utf-8", "replace")
        padded = [length if version == 3 else -(-length // 8) * 8 for length in lengths]
        shape, _ = determine_data_shape(item.msg_data, name_at + padded[0] + padded[1])
        if key in TEXTS and shape == ():
            value = item.unpack_attribute(start)[1]
            texts.append((key, value.decode() if isinstance(value, bytes) else str(value)))
    return texts

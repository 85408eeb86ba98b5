"""The rows of `index.Index`: their columns, their keys, and the file that they are kept in."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.files import write_atomically
from vggnet.storage import EncodedImages, Names

FORMAT = 1
ROW = np.dtype(
    [
        ("key", "S16"),  # BLAKE2b of the name relative to the data set's folder
        ("size", "i8"),  # in bytes; −1 for a file that is gone
        ("changed", "i8"),  # as `storage.stamp` has it
        ("reason", "i4"),  # an index into the reasons, the first of which is none; or UNCHECKED
        ("height", "i4"),
        ("width", "i4"),
        ("format", "u1"),  # an index into the formats
        ("digest", "S16"),
        ("mean", "f4", 3),
        ("second", "f4", 6),
        ("damaged", "u1"),
    ]
)
"""98 bytes an image. The names are with the images; here they would take as much again."""
UNCHECKED = -1
Rows = tuple[NDArray[Any], list[str], list[str]]
"""Rows sorted by key, and the formats and the reasons that they point to."""


def empty() -> Rows:
    return np.empty(0, ROW), [], [""]


def read(path: Path) -> Rows:
    """What a file holds; nothing where there is none, it is damaged, or of another format."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(file["header"].item())
            rows = file["rows"]
        formats, reasons = header["formats"], header["reasons"]
        fits = (
            header["format"] == FORMAT
            and rows.dtype == ROW
            and rows.ndim == 1
            and bool((rows["key"][1:] > rows["key"][:-1]).all())
            and all(isinstance(text, str) for text in (*formats, *reasons))
            and reasons[0] == ""
            and bool(((rows["reason"] >= UNCHECKED) & (rows["reason"] < len(reasons))).all())
            and bool(((rows["format"] < len(formats)) | (rows["reason"] < 0)).all())
        )
    except Exception:  # whatever a damaged archive brings NumPy, zipfile or json to raise
        return empty()
    return (rows, formats, reasons) if fits else empty()


def write(path: Path, content: Rows) -> None:
    """Writes the file atomically.

    Raises:
        InputError, RunError: as `write_atomically`.
    """
    rows, formats, reasons = content
    header = {"format": FORMAT, "formats": formats, "reasons": reasons}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, rows=rows, header=np.array(json.dumps(header).encode()))

    write_atomically(path, save)


def keys(names: Names) -> NDArray[np.bytes_]:
    """What the rows of images are found by: BLAKE2b of their names, 16 bytes."""
    found = (hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names)
    return np.fromiter(found, "S16", len(names))


def stamps(images: EncodedImages) -> NDArray[np.int64]:
    """n×2: each image's size and its file's time of change; −1 and 0 for a file that is gone."""
    try:
        return np.array([stamp[1:] for stamp in images.stamps()], np.int64).reshape(-1, 2)
    except InputError:  # one is gone: halve the images until it is found
        if len(images) == 1:
            return np.array([[-1, 0]])
        half = len(images) // 2
        return np.concatenate([stamps(images[:half]), stamps(images[half:])])

"""Descriptors of a part's images in a file.

It is written in place, chunk by chunk: however many images there are, a few of them are in memory.
A chunk that is done is on disk: stopped and called again it goes on, on any number of processes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggnet import checkpoint
from vggnet.descriptors import CHUNK, Recipe, describe, length
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.files import check_writable, sha256, write_atomically
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.predictions import pyarrow

SUFFIXES = (".npy", ".npz", ".parquet")
IMAGES = "names_sha256", "images_sha256"
"""In the manifest: names and labels; `Part.fingerprint` but for boxes, which count as in names."""
_ALONE = World()


class DescriptorFile:
    """A file of descriptors while it comes into being, and what goes beside it.

    `NAME.npy` is float32, n×length, for `numpy.load(…, mmap_mode="r")`; rows of images that cannot
    be read are NaN. `NAME.json` says how it was made, with which weights; `NAME.names.txt` has an
    image's name a line, after a tab its label, -1 where none is known. An .npz holds the same as
    `descriptors`, `names` and `labels`, a Parquet file as columns.

    Args:
        out: the path, ending in one of `SUFFIXES`.
        manifest: what makes two files the same.
    """

    def __init__(self, out: Path, manifest: dict[str, Any], n: int, width: int) -> None:
        check(out)
        self.out, self.n, self.width = out, n, width
        stem = out.with_suffix("")
        self.rows = stem.with_name(f"{stem.name}.part.npy")
        self.done = stem.with_name(f"{stem.name}.part.done.npy")
        self.json = stem.with_name(f"{stem.name}.json")
        self.names = stem.with_name(f"{stem.name}.names.txt")
        self.manifest = manifest | {"images": n, "length": width}

    def is_finished(self) -> bool:
        """Whether the file is there, made in the same way.

        Raises:
            InputError: when it is there, or begun, but made in another way.
        """
        if not self.json.exists():
            if self.out.exists():
                raise InputError(
                    f"{self.out}: exists, without {self.json.name}: choose another --out, or "
                    "delete it"
                )
            return False
        known = self._known()
        files = (self.json, self.out, self.rows, self.done, self.names)
        there = ", ".join(str(path) for path in files if path.exists())
        for key, value in self.manifest.items():
            if known.get(key) != value:
                how = f"with {key} {known.get(key)!r}, not {value!r}"
                if key in IMAGES:
                    how = "with other images, or before some of these were changed"
                raise InputError(
                    f"{self.out}: was begun {how}: choose another --out, or delete {there}"
                )
        return self.out.exists() and not self.rows.exists()

    def unreadable(self) -> list[str]:
        """Of a finished file: names of the images that have rows of NaN."""
        return [str(name) for name in self._known().get("unreadable", ())]

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self.json.read_text("utf-8"))
        except ValueError:
            known = None
        if not isinstance(known, dict):
            raise InputError(
                f"{self.json}: does not say how descriptors were made: choose another --out"
            )
        return known

    def start(self, part: Part) -> None:
        """Makes room for all rows, where it is not made yet."""
        # What a deleted manifest has left is of who knows which recipe.
        if self.json.exists() and self.rows.exists() and self.done.exists():
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{part.name(i)}\t{part.labels[i]}\n" for i in range(self.n))
        _write(self.names, "".join(lines))
        np.lib.format.open_memmap(self.rows, "w+", np.float32, (self.n, self.width))
        np.lib.format.open_memmap(self.done, "w+", np.uint8, (-(-self.n // CHUNK),))
        self._write_manifest({})

    def _write_manifest(self, more: dict[str, Any]) -> None:
        _write(self.json, json.dumps(self.manifest | more, indent=1) + "\n")

    def opened(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The rows, and for each chunk whether it is done; both write to disk."""
        rows: Any = np.lib.format.open_memmap(self.rows, "r+")
        done: Any = np.lib.format.open_memmap(self.done, "r+")
        return rows, done

    def finish(self, part: Part) -> None:
        """Gives the file its form and its name."""
        rows = np.load(self.rows, mmap_mode="r")
        unread = np.flatnonzero(np.isnan(rows[:, 0]))
        self._write_manifest({"unreadable": [part.name(i) for i in unread.tolist()]})
        if self.out.suffix == ".npy":
            del rows
            self.rows.replace(self.out)
        else:
            names = [part.name(i) for i in range(self.n)]
            save = _npz if self.out.suffix == ".npz" else _parquet
            write_atomically(self.out, lambda file: save(file, rows, names, part.labels))
            self.rows.unlink()
        self.done.unlink()


def check(out: Path) -> None:
    """Raises InputError for a name that is of no known form, or cannot be written."""
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out}: give a name that ends in {', '.join(SUFFIXES)}")
    check_writable(out)
    if out.suffix == ".parquet":
        pyarrow(out)


def describe_files(
    weights: Sequence[Path],
    part: Part,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    world: World = _ALONE,
    progress: bool = False,
) -> list[tuple[str, str]]:
    """Writes the descriptors of a part's images into a file; goes on where it was stopped.

    Args:
        weights: weight files, of one net or several.
        part: the images.
        recipe: what is done with each.
        out: the file; see `DescriptorFile`.
        device: cpu or cuda.
        workers: processes that read images.
        world: processes that share the images, with a disk that all of them see.
        progress: show a bar on a terminal.

    Returns:
        The images that could not be read, with the reason; of this rank, and of this call or, where
        the file was finished before, of the call that finished it.

    Raises:
        InputError: for weights, a recipe or a file that does not fit.
    """
    models = [checkpoint.load(path).to(device) for path in weights]
    manifest = json.loads(json.dumps(asdict(recipe))) | {
        "nets": [model.config.title for model in models],
        "weights_sha256": [sha256(path) for path in weights],
        IMAGES[0]: _names_digest(part),
        IMAGES[1]: replace(part, boxes=None).fingerprint,
    }
    file = DescriptorFile(out, manifest, len(part), length(models, recipe))
    if file.is_finished():
        reason = f"could not be read when {out} was made"
        return [(name, f"{name}: {reason}") for name in file.unreadable() if world.is_first]
    if world.is_first:
        file.start(part)
    world.wait()
    rows, done = file.opened()
    open_chunks = np.flatnonzero(done == 0)
    world.wait()  # all have looked
    bad = []
    bar = tqdm(
        total=len(open_chunks) * CHUNK, unit="image", leave=False,
        disable=None if progress and world.is_first else True,
    )  # fmt: skip
    with bar:
        for indices, found in _chunks(models, part, recipe, open_chunks[world.rank :: world.ranks],
                                      workers):  # fmt: skip
            for i, row in zip(indices.tolist(), found, strict=True):
                if isinstance(row, InputError):
                    bad.append((part.name(i), str(row)))
                    rows[i] = np.nan
                else:
                    rows[i] = row
            rows.flush()  # type: ignore[attr-defined]
            done[indices[0] // CHUNK] = 1
            done.flush()  # type: ignore[attr-defined]
            bar.update(CHUNK * world.ranks)
    del rows, done
    world.wait()
    if world.is_first:
        file.finish(part)
    world.wait()
    return bad


def _chunks(
    models: Sequence[VGG], part: Part, recipe: Recipe, chunks: NDArray[np.int64], workers: int
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32] | InputError]]]:
    """The images' indices of each chunk, and what is found of them."""
    of_chunks = [np.arange(c * CHUNK, min((c + 1) * CHUNK, len(part))) for c in chunks.tolist()]
    if not of_chunks:
        return
    indices = np.concatenate(of_chunks)
    found = describe(models, part.subset(indices).images, recipe, workers=workers)
    for chosen in of_chunks:
        yield chosen, [next(found) for _ in chosen]


def _names_digest(part: Part) -> str:
    digest = hashlib.sha256()
    for i in range(len(part)):
        digest.update(f"{part.name(i)}\t{part.labels[i]}\n".encode())
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _npz(
    path: Path, rows: NDArray[np.float32], names: list[str], labels: NDArray[np.int64]
) -> None:
    with path.open("wb") as file:
        np.savez(file, descriptors=rows, names=np.array(names), labels=labels)


def _parquet(
    path: Path, rows: NDArray[np.float32], names: list[str], labels: NDArray[np.int64]
) -> None:
    pa, parquet = pyarrow(path)
    kind = pa.list_(pa.float32(), rows.shape[1])
    schema = pa.schema([("name", pa.string()), ("label", pa.int64()), ("descriptor", kind)])
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, len(rows), 1024):
            some = slice(first, first + 1024)
            flat = pa.array(np.ascontiguousarray(rows[some]).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
            writer.write_table(pa.table([names[some], labels[some], column], schema=schema))

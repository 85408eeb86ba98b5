"""What is known of every image file of a data set, in a file, so that it is found out once."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggnet import indexfile
from vggnet.bad_images import BadImages
from vggnet.errors import InputError, RunError
from vggnet.home import cache_home
from vggnet.images import finds_damage
from vggnet.indexfile import ROW, UNCHECKED, keys, stamps
from vggnet.measuring import UNKNOWN, Measured, measure_all
from vggnet.parts import Dataset, Part
from vggnet.storage import EncodedImages

_SECONDS_BETWEEN_SAVES = 60
_BLOCK = 1 << 14  # images at a time

PartName = Literal["train", "validation", "test"]
OnBad = Literal["stop", "skip"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")
_WORDS: dict[PartName, str] = {"train": "training", "validation": "validation", "test": "test"}


class Index:
    """What is known of a data set's image files, in `rows`, sorted by key.

    What was found in a file that could be read holds until its size or time of change is another.
    One that could not be read is tried again at each check: a permission, a connection or a newer
    Pillow may mend that without a change of the file.

    Args:
        path: of the file that keeps it. One that is damaged or of another format is not used, and
            written anew; where none can be written, a warning says so, and the work goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows, formats, reasons = indexfile.read(path)
        self._formats = {text: code for code, text in enumerate(formats)}
        self._reasons = {text: code for code, text in enumerate(reasons)}
        self._found: WeakKeyDictionary[EncodedImages, NDArray[np.int64]] = WeakKeyDictionary()
        self._warned = False

    @classmethod
    def of(cls, data: Dataset) -> "Index":
        """The index of a data set whose images are in files, in `home.cache_home()`."""
        assert isinstance(data.train.images, EncodedImages)
        root = data.train.images.root
        whole = str(root.resolve() if isinstance(root, Path) else root)
        key = hashlib.blake2b(whole.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return cls(cache_home() / f"index-{key}.npz")

    def check(
        self, parts: Sequence[EncodedImages], *, workers: int = 0, progress: bool = False
    ) -> None:
        """Brings the index up to date for some images.

        What is done is kept when the work is interrupted, and every minute.

        Args:
            parts: images of this data set.
            workers: processes that read; 0 for this one.
            progress: show a bar on standard error, if that is a terminal.

        Raises:
            RunError: when one of the processes dies.
        """
        self._make_room(parts)
        todo = [self._stale(images) for images in parts]
        part = np.repeat(np.arange(len(parts)), [len(found) for found in todo])
        index, row = np.concatenate(todo).T
        # An image may be in two parts, as ImageNet's validation images are.
        once = np.sort(np.unique(row, return_index=True)[1])
        part, index, row = part[once], index[once], row[once]
        if not len(row):
            return
        bar = tqdm(
            total=len(row),
            desc="checking images",
            unit="image",
            disable=None if progress else True,
            leave=False,
        )
        saved = time.monotonic()

        def take(i: int, found: Measured) -> None:
            nonlocal saved
            self._put(row[i], found)
            bar.update()
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                self._save()
                saved = time.monotonic()

        try:
            with bar:
                measure_all(parts, part, index, workers, take)
        finally:
            self._save()

    @property
    def formats(self) -> list[str]:
        """What the column `format` counts through."""
        return list(self._formats)

    def column(self, images: EncodedImages, name: str) -> NDArray[Any]:
        """A column of `rows` for images that were checked, in their order."""
        return np.asarray(self.rows[name][self._rows_of(images)])

    def statistics(
        self, images: EncodedImages
    ) -> tuple[tuple[float, float, float], NDArray[np.float64]]:
        """Of the images that can be read, the mean RGB and the 3×3 covariance of RGB, 0–255.

        In the mean each image weighs the same, in the covariance each pixel of the whole image; as
        `Dataset.mean_rgb` and `Dataset.colour_pca`, but of all images.

        Raises:
            InputError: when none can be read.
        """
        rows = self._rows_of(images)
        rows = rows[self.rows["reason"][rows] == 0]
        if not len(rows):
            raise InputError("none of the images can be read, so they have no mean")
        means, sums, products, pixels = np.zeros(3), np.zeros(3), np.zeros(6), 0.0
        for start in range(0, len(rows), _BLOCK):
            block = self.rows[rows[start : start + _BLOCK]]
            weights = block["height"].astype(np.float64) * block["width"]
            means += block["mean"].sum(axis=0, dtype=np.float64)
            sums += (weights[:, None] * block["mean"]).sum(axis=0)
            products += (weights[:, None] * block["second"]).sum(axis=0)
            pixels += weights.sum()
        r, g, b = (means / len(rows)).tolist()
        second = np.empty((3, 3))
        second[np.triu_indices(3)] = products / pixels
        second.T[np.triu_indices(3)] = products / pixels
        return (r, g, b), second - np.outer(sums / pixels, sums / pixels)

    def bad(self, images: EncodedImages) -> list[tuple[int, str]]:
        """The indices of the images that cannot be read, and why, without their paths."""
        codes, reasons = self.column(images, "reason"), list(self._reasons)
        return [(i, reasons[codes[i]]) for i in np.flatnonzero(codes).tolist()]

    def count(self, parts: Iterable[EncodedImages]) -> int:
        """How many different images the parts have, which were checked."""
        return len(np.unique(np.concatenate([self._rows_of(images) for images in parts])))

    def _stale(self, images: EncodedImages) -> NDArray[np.int64]:
        """m×2: index and row of each image that is to be checked anew; its row has its stamp."""
        rows = self._rows_of(images)
        found = []
        for start in range(0, len(rows), _BLOCK):
            row, now = rows[start : start + _BLOCK], stamps(images[start : start + _BLOCK])
            known = self.rows[row]
            changed = (known["size"] != now[:, 0]) | (known["changed"] != now[:, 1])
            unknown = (known["damaged"] == UNKNOWN) & finds_damage()
            stale = np.flatnonzero(changed | (known["reason"] != 0) | unknown)
            known["size"], known["changed"] = now.T
            known["reason"][stale] = UNCHECKED
            self.rows[row] = known
            found.append(np.stack([start + stale, row[stale]], axis=1))
        return np.concatenate(found) if found else np.empty((0, 2), np.int64)

    def _rows_of(self, images: EncodedImages) -> NDArray[np.int64]:
        rows = self._found.get(images)
        if rows is None:
            rows = self._lookup(images)
            if (rows < 0).any():
                raise ValueError("images that were not checked: call Index.check with them first")
            self._found[images] = rows
        return rows

    def _lookup(self, images: EncodedImages) -> NDArray[np.int64]:
        """The row of each image, −1 where there is none."""
        if not len(self.rows):
            return np.full(len(images), -1)
        known, found = self.rows["key"].copy(), np.empty(len(images), np.int64)
        for start in range(0, len(images), _BLOCK):
            wanted = keys(images.names[start : start + _BLOCK])
            rows = np.searchsorted(known, wanted)
            there = known.take(rows, mode="clip") == wanted
            found[start : start + _BLOCK] = np.where(there, rows, -1)
        return found

    def _make_room(self, parts: Sequence[EncodedImages]) -> None:
        """Rows for images that have none."""
        if all((self._lookup(images) >= 0).all() for images in parts if images not in self._found):
            return
        whole = np.unique(
            np.concatenate([self.rows["key"], *(keys(images.names) for images in parts)])
        )
        rows = np.zeros(len(whole), ROW)
        rows["key"], rows["reason"] = whole, UNCHECKED
        rows[np.searchsorted(whole, self.rows["key"])] = self.rows
        self.rows = rows
        self._found.clear()

    def _put(self, row: int, found: Measured) -> None:
        reason = self._reasons.setdefault(found.reason, len(self._reasons))
        kind = self._formats.setdefault(found.format, len(self._formats))
        _, height, width, _, *rest = found
        self.rows[row] = (*self.rows[row].item()[:3], reason, height, width, kind, *rest)

    def _save(self) -> None:
        try:
            indexfile.write(self.path, (self.rows, self.formats, list(self._reasons)))
        except (InputError, RunError, OSError) as error:
            if not self._warned and sys.stderr:
                line = " ".join(str(error).split())
                tqdm.write(f"what is known of the images is not kept: {line}", file=sys.stderr)
            self._warned = True


def checked(
    data: Dataset,
    parts: Sequence[PartName],
    *,
    on_bad: OnBad,
    workers: int,
    progress: bool,
    log: Callable[[str], None],
    listed: Path = Path("bad-images.jsonl"),
) -> Dataset:
    """A data set whose images can all be read; images in memory always can.

    Args:
        data: the data set.
        parts: which to check; with train, the result has the statistics of all training images.
        on_bad: with images that cannot be read: raise (stop), or leave them out (skip); then the
            data set's note says how many.
        workers: processes that read; 0 for this one.
        progress: show a bar on standard error, if that is a terminal.
        log: gets a line on what was left out.
        listed: the file that lists bad images, with path, reason and part; made if there are any.

    Raises:
        InputError: for images that cannot be read; for a part, or a class of the training part,
            that has no others.
        RunError: when one of the processes dies.
    """
    images = files_of(data, parts)
    if not images:
        return data
    index = Index.of(data)
    index.check(list(images.values()), workers=workers, progress=progress)
    bad = {name: index.bad(encoded) for name, encoded in images.items()}
    first = next(((name, *found[0]) for name, found in bad.items() if found), None)
    if first is not None:
        report = list_bad(data, bad, BadImages(listed, anew=listed.parent == Path()))
        if on_bad == "stop":
            name, i, reason = first
            raise InputError(
                f"{report.count:,} of {index.count(images.values()):,} images cannot be read, "
                f"first {images[name].where(i)}: {reason}"
                + f"; all are listed in {report.path}" * report.path.exists()
                + ": mend or remove them, or leave them out with --on-bad-image skip"
            )
        for name, found in bad.items():
            if found:
                data = _without(data, name, [i for i, _ in found])
                log(f"{_left_out(name, len(found), len(images[name]))}: see {report.path}")
    if "train" not in images:
        return data
    return replace(data, statistics=index.statistics(images["train"]))


def list_bad(
    data: Dataset, bad: dict[PartName, list[tuple[int, str]]], report: BadImages
) -> BadImages:
    """Writes down what `Index.bad` gives for some parts."""
    for name, found in bad.items():
        for i, reason in found:
            report.add(part_of(data, name).where(i), reason, part=name)
    return report


def part_of(data: Dataset, name: PartName) -> Part:
    """The part of this name."""
    return {"train": data.train, "validation": data.validation, "test": data.test}[name]


def files_of(data: Dataset, parts: Sequence[PartName]) -> dict[PartName, EncodedImages]:
    """The images of those parts that are in files."""
    found = {name: part_of(data, name).images for name in parts}
    return {name: images for name, images in found.items() if isinstance(images, EncodedImages)}


def _left_out(name: PartName, count: int, total: int) -> str:
    return (
        f"{count:,} of {total:,} {_WORDS[name]} images cannot be read and are left out: "
        f"n = {total - count:,}"
    )


def _without(data: Dataset, name: PartName, bad: list[int]) -> Dataset:
    """The data set without some images of a part."""
    part = part_of(data, name)
    assert isinstance(part.images, EncodedImages)
    kept = np.delete(np.arange(len(part)), bad)
    if not len(kept):
        raise InputError(f"{data.name}: no {_WORDS[name]} image can be read: copy them again")
    classes = range(len(data.class_names))
    lost = np.setdiff1d(classes, part.labels[kept])
    if name == "train" and len(lost):
        raise InputError(
            f"{data.name}: of class {data.class_names[lost[0]]!r} no training image can be read: "
            "copy them again, or move the class away"
        )
    rest = replace(part.subset(kept), left_out=part.left_out + len(bad))
    note = "; ".join(filter(None, (data.note, _left_out(name, len(bad), len(part)))))
    return replace(data, **{name: rest, "note": note})  # type: ignore[arg-type]

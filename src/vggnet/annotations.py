"""Boxes of images in files: ImageNet's XML, or a table.

A box's numbers are left, top, right and bottom in pixels of the upright image, whatever the file
calls them; ImageNet's, which count from 0 or from 1, are taken as they are.
"""

import csv
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.parts import Dataset, Part

COLUMNS = ("image", "xmin", "ymin", "xmax", "ymax")
_KAGGLE = ("ImageId", "PredictionString")
_CORNERS = COLUMNS[1:]

Boxes = NDArray[np.float64]
"""k×4, a row an instance of the image's class."""


def with_boxes(data: Dataset, source: str | Path) -> Dataset:
    """The data set with its boxes; images that have none are left out of their parts.

    Args:
        data: images in files.
        source: a folder of XML files as ImageNet's (those of PASCAL VOC), one an image, of any
            depth; or a CSV file with a line a box and the columns `COLUMNS`; or Kaggle's of
            ImageNet, with `ImageId` and `PredictionString` (synset and four numbers, repeated). A
            file or line belongs to the image of the same name without its ending; where several
            images are called so, its folders must be called as the image's. Every box of an object
            counts as one of the image's class.

    Raises:
        InputError: for a source that is missing or damaged, a box without area, a name that could
            be two images', or a part of which no image has a box.
    """
    path = Path(source)
    if data.train.names is None:
        raise InputError(
            f"{data.name}: boxes are for images in files, not for this data set: {path}"
        )
    parts_of = data.train, data.validation, data.test
    # Each once: ImageNet's validation images are the test images too.
    images = {name for part in parts_of for name in part.names or ()}
    if path.is_dir():
        found = _Named(
            ((file.relative_to(path).with_suffix(""), file) for file in path.rglob("*.xml")), images
        )
        if not found.known:
            raise InputError(f"{path}: has no .xml files in it")
        read: Callable[[Any], Boxes] = _of_xml
    else:
        found, read = _Named(_of_table(path), images), np.array
    parts: dict[str, Any] = {
        name: _located(part, found, read, f"{data.name}: {name}", path)
        for name in ("train", "validation", "test")
        if len(part := getattr(data, name))
    }
    missing = {name: len(getattr(data, name)) - len(part) for name, part in parts.items()}
    without = ", ".join(f"{count:,} of {name}" for name, count in missing.items() if count)
    note = f"images without a box are left out: {without}" if without else ""
    return replace(data, **parts, note="; ".join(filter(None, (data.note, note))))


def _located(
    part: Part, found: "_Named", read: Callable[[Any], Boxes], what: str, source: Path
) -> Part:
    assert part.names is not None
    boxes: dict[int, Boxes] = {}
    for i, name in enumerate(part.names):
        if (own := found.of(name)) is not None:
            boxes[i] = read(own)
    if not boxes:
        raise InputError(
            f"{what}: no image has a box in {source}; the first is {part.names[0]}, "
            f"{source} names {next(iter(found.known))}"
        )
    kept = part.subset(np.array(list(boxes), np.int64))
    return replace(kept, boxes=list(boxes.values()))


class _Named:
    """What belongs to images, by their names without endings.

    Args:
        items: names, possibly with folders, and values.
        images: all names of the data set, each once: where several are called the same, an item's
            folders have to be theirs.
    """

    def __init__(self, items: Iterable[tuple[Path, Any]], images: Iterable[str]) -> None:
        self.known: dict[str, list[tuple[PurePosixPath, Any]]] = defaultdict(list)
        for path, value in items:
            self.known[path.name].append((PurePosixPath(path.as_posix()), value))
        self.called = Counter(PurePosixPath(name).stem for name in images)

    def of(self, name: str) -> Any:
        """None where there is nothing."""
        image = PurePosixPath(name)
        found = self.known.get(image.stem, [])
        if self.called[image.stem] > 1:
            if image.parent.parts and any(not path.parent.parts for path, _ in found):
                raise InputError(
                    f"{name}: {self.called[image.stem]} images are called {image.stem}: name the "
                    "folder of the one that has these boxes"
                )
            found = [one for one in found if _fits(one[0].parent, image.parent)]
        if len(found) < 2:
            return found[0][1] if found else None
        # As many folders as it takes to tell them apart, from the innermost outwards.
        for depth in range(1, len(image.parts)):
            folders = image.parent.parts[-depth:]
            found = [one for one in found if one[0].parent.parts[-depth:] == folders]
            if len(found) < 2:
                return found[0][1] if found else None
        both = " and ".join(str(path) for path, _ in found[:2])
        raise InputError(
            f"{name}: {both} could both be its boxes: name their folders as the image's"
        )


def _fits(own: PurePosixPath, images: PurePosixPath) -> bool:
    """Whether two folders end alike, `dog` and `train/dog`."""
    fewer = min(len(own.parts), len(images.parts))
    return own == images or (fewer > 0 and own.parts[-fewer:] == images.parts[-fewer:])


def _of_xml(path: Path) -> Boxes:
    try:
        # Not those of an object's parts, a person's head and hands, which PASCAL VOC has too.
        objects = ElementTree.parse(path).getroot().iterfind("object/bndbox")
        boxes = [[float(found.findtext(name, "")) for name in _CORNERS] for found in objects]
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: is no annotation as ImageNet's ({error}): copy it again"
        ) from None
    if not boxes:
        raise InputError(f"{path}: has no box (bndbox) in it: remove it")
    return _checked(boxes, str(path))


def _of_table(path: Path) -> list[tuple[Path, list[list[float]]]]:
    """Names without endings, and their boxes."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = tuple(rows.fieldnames or ())
            if not set(COLUMNS) <= set(columns) and not set(_KAGGLE) <= set(columns):
                raise InputError(
                    f"{path}: has the columns {', '.join(columns) or 'none'}: give "
                    f"{', '.join(COLUMNS)} (or Kaggle's {', '.join(_KAGGLE)})"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if set(COLUMNS) <= set(columns):
                    name, words = row["image"], [row[name] for name in _CORNERS]
                else:
                    name, words = row[_KAGGLE[0]], (row[_KAGGLE[1]] or "").split()
                    words = [word for i, word in enumerate(words) if i % 5]
                if not name or not words:
                    raise InputError(f"{where}: names no {'box' if name else 'image'}: complete it")
                try:
                    numbers = [float(word) for word in words]
                    boxes = np.array(numbers).reshape(-1, 4).tolist()
                except (TypeError, ValueError):
                    raise InputError(f"{where}: {words} are not the numbers of a box") from None
                _checked(boxes, where)
                found[str(PurePosixPath(name).with_suffix(""))] += boxes
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file or folder of boxes") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file ({error})") from None
    return [(Path(name), boxes) for name, boxes in found.items()]


def _checked(boxes: list[list[float]], where: str) -> Boxes:
    for x0, y0, x1, y1 in boxes:
        if not (x0 < x1 and y0 < y1):
            raise InputError(
                f"{where}: a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) has no area: correct it"
            )
    return np.array(boxes, np.float64)

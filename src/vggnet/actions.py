"""PASCAL VOC's action classification: persons in images, each with a box (Appendix B)."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.images import EncodedImage
from vggnet.parts import Part
from vggnet.splits import Task
from vggnet.storage import EncodedImages, Place
from vggnet.voc import Lists

_LISTS, _BOXES = "ImageSets/Action", "Annotations"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Box = NDArray[np.float64]
"""Left, top, right and bottom in pixels, from 0 on: 4."""


def has_actions(root: Path) -> bool:
    """Whether a folder has VOC's lists of actions."""
    return (root / _LISTS).is_dir()


def read_actions(root: Place) -> Task:
    """Reads `ImageSets/Action/CLASS_SET.txt` and `Annotations/ID.xml`, and no image.

    A line has an image, the number of an object in its XML file, from 1 on, and a label as
    `voc.read_voc` has them; sets are as there. The task's examples are these persons: a part has
    the image of each, as often as it has persons, and the person's box.

    Raises:
        InputError: for lists, images, annotations or boxes that are missing, or do not fit.
    """
    # The devkit has "other" beside the ten actions, and does not learn it either.
    lists = Lists.read(root, _LISTS, ("image", "object"), without="other")
    parts, known = {}, dict[str, list[Box | None]]()
    for name, examples in lists.examples.items():
        boxes, names = [], []
        for one, number in examples:
            path = lists.root / _BOXES / f"{one}.xml"
            if one not in known:
                known[one] = _objects(path)
            boxes.append(_box(path, known[one], number)[None])
            names.append(f"JPEGImages/{one}.jpg#{number}")
        parts[name] = replace(lists.images(name), names=names, boxes=boxes)
    ids = [example[0] for examples in lists.examples.values() for example in examples]
    images = np.unique(ids, return_inverse=True)[1]
    return replace(lists.task("voc-action", parts), images=images)


def _objects(path: Path) -> list[Box | None]:
    """The boxes of an XML file's objects, in its order; None where an object has none."""
    try:
        found = ElementTree.parse(path).getroot().findall("object")
        # The box of the object itself: parts of a person, such as a hand, have their own.
        boxes = [one.find("bndbox") for one in found]
        return [
            None if box is None else np.array([float(box.findtext(x, "")) for x in _CORNERS])
            for box in boxes
        ]
    except FileNotFoundError:
        raise InputError(f"{path}: is not there: unpack the annotations too") from None
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise InputError(f"{path}: is no annotation as VOC's ({error}): copy it again") from None


def _box(path: Path, objects: list[Box | None], number: str) -> Box:
    """VOC counts pixels from 1, and the last is within the box."""
    if not number.isdecimal() or not 0 < int(number) <= len(objects):
        raise InputError(
            f"{path}: has {len(objects)} objects, and the lists name object {number}: copy it or "
            f"{_LISTS} again"
        )
    box = objects[int(number) - 1]
    if box is None:
        raise InputError(f"{path}: object {number} has no box (bndbox): copy it again")
    left, top, right, bottom = box.tolist()
    if not (np.isfinite(box).all() and left < right and top < bottom):
        raise InputError(
            f"{path}: object {number} has a box from ({left:g}, {top:g}) to ({right:g}, "
            f"{bottom:g}), which has no area: correct it"
        )
    return box - (1, 1, 0, 0)


def cut_to_boxes(task: Task) -> Task:
    """The same task on the boxes' parts of its images, its parts called NAME-box.

    An image's name says its box, so that descriptors of another box are others.
    """
    return replace(task, parts={f"{name}-box": _cut(part) for name, part in task.parts.items()})


def _cut(part: Part) -> Part:
    assert part.boxes is not None
    assert isinstance(part.images, EncodedImages)
    boxes = [box[0] for box in part.boxes]
    names = [
        f"{part.name(i)} {','.join(f'{x:g}' for x in box.tolist())}" for i, box in enumerate(boxes)
    ]
    return Part(CutImages(part.images, boxes), part.labels, names)


class CutImages(EncodedImages):
    """Parts of images that stay in their files; each access decodes one and cuts it.

    A part has the pixels that its box touches. A box outside its image cannot be read.

    Args:
        whole: the images.
        boxes: one for each.
    """

    def __init__(self, whole: EncodedImages, boxes: Sequence[Box]) -> None:
        self.root, self.names, self.sequential = whole.root, whole.names, whole.sequential
        self.whole, self.boxes = whole, boxes

    def open(self, index: int) -> EncodedImage:
        return _CutImage(self.read(index), self.where(index), self.boxes[index])

    def where(self, index: int) -> str:
        return self.whole.where(index)

    def read(self, index: int) -> bytes:
        return self.whole.read(index)

    def subset(self, chosen: NDArray[np.int64]) -> "CutImages":
        return CutImages(self.whole.subset(chosen), [self.boxes[i] for i in chosen.tolist()])

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        for (name, size, changed), box in zip(self.whole.stamps(), self.boxes, strict=True):
            yield f"{name} {box.tolist()}", size, changed


class _CutImage(EncodedImage):
    """The part of an image in a box; no less than the whole image is decoded for it."""

    def __init__(self, content: bytes, name: str, box: Box) -> None:
        super().__init__(content, name)
        whole = self.pixels()
        left, top = (max(0, math.floor(x)) for x in box[:2].tolist())
        right, bottom = (max(0, math.ceil(x)) for x in box[2:].tolist())
        self._all = whole[top:bottom, left:right].copy()
        self.shape = self._all.shape[:2]
        if not self._all.size:
            raise InputError(
                f"{name}: the box from ({left}, {top}) to ({right}, {bottom}) is outside the image "
                f"of {whole.shape[1]}×{whole.shape[0]} pixels: correct it"
            )

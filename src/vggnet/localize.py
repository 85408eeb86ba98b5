"""Where the object of an image's class is: Appendix A's two protocols.

Protocol 1: the class is known, and the box is what the net gives of the crop in the middle.

Protocol 2: nothing is known. The net is applied densely, at one scale or several, and so is a
classifier. For each of the five classes that the classifier finds likeliest, every window's box is
taken, of all scales and nets; boxes that lie close are merged; the one of the highest rating stays.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.boxes import in_image, merged, of_class
from vggnet.distributed import World
from vggnet.errors import InputError, RunError
from vggnet.evaluate import check_scales
from vggnet.images import Pixels
from vggnet.inference import Fast, engine
from vggnet.model import VGG
from vggnet.protocols import Term
from vggnet.readers import TestImages, Views

MERGE = 0.5
"""IoU from which two boxes are merged. The paper gives no number."""
GUESSES = 5
Windows = Literal["dense", "crops"]
_CHUNK = 32
"""Images that are looked at together."""
_BATCH_PIXELS = 8 * 224 * 224
_CELL = 32
"""Pixels between neighbouring windows."""
_ALONE = World()


@dataclass(frozen=True, slots=True)
class Localiser:
    """A net that gives boxes, the classifier that rates them, and their test scales."""

    boxes: VGG
    classifier: VGG
    scales: tuple[int, ...]
    """Smallest sides Q in pixels."""

    def check(self) -> None:
        """Raises InputError for nets that are not of these kinds, or do not fit each other."""
        check_boxes(self.boxes)
        self.classifier.config.check_vgg("localisation")
        self.classifier.config.check_classes()
        for name in ("num_classes", "crop"):
            ours, theirs = (getattr(net.config, name) for net in (self.boxes, self.classifier))
            if ours != theirs:
                raise InputError(f"the boxes' net has {name} {ours}, the classifier {theirs}")
        one, other = (net.provenance.class_names for net in (self.boxes, self.classifier))
        if one is not None and other is not None and one != other:
            raise InputError("the boxes' net and the classifier know other classes")
        if not self.scales:
            raise InputError("no test scales: give at least one")
        check_scales(self.boxes.config, self.scales)


@dataclass(frozen=True, slots=True)
class Guess:
    """What may be in an image, and where."""

    label: int
    posterior: float
    """The classifier's, 0 to 1: of the whole image, dense, averaged over scales and classifiers."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in pixels of the whole image."""
    rating: float
    """The classifier's posteriors of this class in the windows whose boxes were merged, added."""


def check_boxes(model: VGG) -> None:
    """Raises InputError for a net that gives no boxes."""
    model.config.check_head()
    if model.config.boxes is None:
        raise InputError(
            f"net {model.config.title} gives classes, no boxes: vggnet train-boxes makes one that "
            "does from it"
        )


def known_class_boxes(
    model: VGG,
    images: Sequence[Pixels],
    labels: NDArray[np.int64],
    scale: int,
    *,
    workers: int = 0,
) -> Iterator[Tensor | InputError]:
    """Protocol 1: for each image the box of its class, or why the image cannot be read.

    Args:
        model: a net that gives boxes.
        images: H×W×3 of uint8, RGB.
        labels: n.
        scale: Q in pixels, smallest side of the image whose centre crop is looked at.
        workers: processes that read images.

    Returns:
        Left, top, right and bottom in pixels of the whole image.
    """
    check_boxes(model)
    check_scales(model.config, [scale])
    crop, net = model.config.crop, _engine(model)
    term = Term(scale, "centre-crop", "scores", False)
    for start, chunk in _chunks(images, [scale], workers):
        found: dict[int, Tensor] = {}
        read = [(i, views) for i, views in enumerate(chunk) if isinstance(views, Views)]
        sizes = [views[0].shape for _, views in read]
        windows = [next(iter(term.windows(rows, columns, crop))) for rows, columns, _ in sizes]
        crops = [
            views[0][top : top + crop, left : left + crop]
            for (_, views), (top, left, _, _) in zip(read, windows, strict=True)
        ]
        for one, outputs in _dense(net, crops):
            i, of_image = read[one]
            numbers = of_class(outputs.flatten()[None], torch.tensor([labels[start + i]]))[0]
            corner, scaled = torch.tensor(windows[one][:2]), sizes[one][:2]
            found[i] = in_image(numbers, corner, crop, of_image.shape, scaled)
        for i, views in enumerate(chunk):
            yield views if isinstance(views, InputError) else found[i]


def localise(
    members: Sequence[Localiser],
    images: Sequence[Pixels],
    *,
    labels: NDArray[np.int64] | None = None,
    guesses: int = GUESSES,
    windows: Windows = "dense",
    merge: float = MERGE,
    flips: bool = True,
    workers: int = 0,
) -> Iterator[list[Guess] | InputError]:
    """Protocol 2: for each image what is in it and where, or why the image cannot be read.

    Args:
        members: nets whose boxes are taken together; the classifiers' posteriors are averaged. On a
            CPU all are computed by `vggnet.fast`.
        images: H×W×3 of uint8, RGB.
        labels: n, where the classes are known: each image's is its one guess.
        guesses: classes that get a box, 1 or more; fewer where there are not so many.
        windows: dense: the nets look at the whole image, and what is beside a window is seen too,
            as in the paper. crops: at each of the same windows alone, as in training. That matters
            where crops are small beside what a value of pool5 sees, 212 pixels in net D: there
            dense boxes are worse.
        merge: IoU from which boxes are merged, above 0 and up to 1.
        flips: whether the classes' posteriors are averaged with those of the mirrored image.
        workers: processes that read images.

    Returns:
        The guesses, the likeliest class first.

    Raises:
        InputError: for nets, scales or numbers that do not fit.
        RunError: when a net gives values that are not finite.
    """
    if not members:
        raise InputError("no nets: give at least one")
    for member in members:
        member.check()
    classes = {member.boxes.config.num_classes for member in members}
    if len(classes) > 1:
        raise InputError(f"the nets have other numbers of classes: {sorted(classes)}")
    if guesses < 1:
        raise InputError(f"guesses {guesses} is not 1 or more")
    if not 0 < merge <= 1:
        raise InputError(f"merge {merge} is not an IoU above 0 and up to 1")
    scales = sorted({scale for member in members for scale in member.scales})
    if windows not in get_args(Windows):
        raise InputError(f"windows {windows!r} are not known: take dense or crops")
    maps = _dense if windows == "dense" else _crops
    guesser = _Guesser(members, scales, min(guesses, classes.pop()), merge, flips, maps)
    for start, chunk in _chunks(images, scales, workers):
        read = [(start + i, views) for i, views in enumerate(chunk) if isinstance(views, Views)]
        known = None if labels is None else torch.from_numpy(labels[[i for i, _ in read]])
        found = iter(guesser([views for _, views in read], known))
        yield from (views if isinstance(views, InputError) else next(found) for views in chunk)


class _Guesser:
    """Protocol 2 of some images at a time."""

    def __init__(
        self,
        members: Sequence[Localiser],
        scales: list[int],
        guesses: int,
        merge: float,
        flips: bool,
        maps: "_Maps",
    ) -> None:
        nets = [(_engine(one.boxes), _engine(one.classifier), one.scales) for one in members]
        # A net that gives boxes, its classifier, and which of an image's views they look at.
        self.terms = [(boxes, net, scales.index(Q)) for boxes, net, own in nets for Q in own]
        self.guesses, self.merge, self.flips, self.maps = guesses, merge, flips, maps

    def __call__(self, images: list[Views], known: Tensor | None) -> list[list[Guess]]:
        if not images:
            return []
        posteriors, cells = self._classified(images)
        likeliest = posteriors.topk(self.guesses, dim=1).indices
        labels = likeliest if known is None else known[:, None]
        boxes: list[list[Tensor]] = [[] for _ in images]
        ratings: list[list[Tensor]] = [[] for _ in images]
        for (net, _, scale), of_term in zip(self.terms, cells, strict=True):
            side = net.config.crop
            for i, numbers in self.maps(net, [views[scale] for views in images]):
                classes = labels[i]
                rows, columns = numbers.shape[1:]
                of_classes = numbers.reshape(-1, 4, rows * columns).mT
                own = of_classes[classes.clamp(max=len(of_classes) - 1)]
                corners = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) * _CELL
                shape, scaled = images[i].shape, images[i][scale].shape[:2]
                boxes[i].append(in_image(own, corners, side, shape, scaled))
                ratings[i].append(of_term[i][classes].flatten(1).double())
        sure = posteriors.gather(1, labels)
        return [
            self._guesses(sure[i], labels[i], torch.cat(boxes[i], 1), torch.cat(ratings[i], 1))
            for i in range(len(images))
        ]

    def _classified(self, images: list[Views]) -> tuple[Tensor, list[list[Tensor]]]:
        """Posteriors of the images, n×K, and for each term those of their windows, K×h×w."""
        total = torch.zeros(len(images), self.terms[0][1].config.num_classes, dtype=torch.float64)
        cells = []
        for _, net, scale in self.terms:
            of_term = [torch.empty(0)] * len(images)
            views = [of_image[scale] for of_image in images]
            for i, scores in self.maps(net, views):
                of_term[i] = scores.softmax(0)
                total[i] += scores.mean((1, 2)).double().softmax(0)
            if self.flips:
                for i, scores in self.maps(net, [view[:, ::-1] for view in views]):
                    total[i] += scores.mean((1, 2)).double().softmax(0)
            cells.append(of_term)
        return total / (len(self.terms) * (1 + self.flips)), cells

    def _guesses(
        self, posteriors: Tensor, labels: Tensor, boxes: Tensor, ratings: Tensor
    ) -> list[Guess]:
        """Args: the likeliest classes' G posteriors and labels, boxes G×n×4, ratings G×n."""
        boxes, ratings, left = merged(boxes, ratings, self.merge)
        best = ratings.masked_fill(~left, -1).argmax(1)
        found = []
        for g, (label, posterior) in enumerate(zip(labels, posteriors, strict=True)):
            x0, y0, x1, y1 = boxes[g, best[g]].tolist()
            rating = float(ratings[g, best[g]])
            found.append(Guess(int(label), float(posterior), (x0, y0, x1, y1), rating))
        return found


def _engine(model: VGG) -> Fast | VGG:
    """On a CPU the fast one; a GPU's rounds to bfloat16."""
    return engine(model) if model.mean.device.type == "cpu" else model.eval()


def _chunks(
    images: Sequence[Pixels], scales: list[int], workers: int
) -> Iterator[tuple[int, list[Views | InputError]]]:
    """Some images at a time, with the index of the first."""
    views = iter(TestImages(images, scales, workers))
    for start in range(0, len(images), _CHUNK):
        yield start, [next(views) for _ in range(min(_CHUNK, len(images) - start))]


def _dense(net: Fast | VGG, images: Sequence[Pixels]) -> Iterator[tuple[int, Tensor]]:
    """Of each image, by its index, the map of fc8, C×h×w in float32; those of one size together."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        groups[image.shape].append(i)
    for (height, width, _), group in groups.items():
        together = max(1, _BATCH_PIXELS // (height * width))
        for first in range(0, len(group), together):
            some = group[first : first + together]
            stacked = torch.from_numpy(np.stack([images[i] for i in some])).permute(0, 3, 1, 2)
            with torch.inference_mode():
                maps = net.score_map(stacked.to(net.mean.device)).float().cpu()
            if not maps.isfinite().all():
                raise RunError("the net's values are not finite: its weights are damaged")
            yield from zip(some, maps, strict=True)


def _crops(net: Fast | VGG, images: Sequence[Pixels]) -> Iterator[tuple[int, Tensor]]:
    """As `_dense`, but each of the map's windows is looked at alone."""
    crop = net.config.crop
    for i, image in enumerate(images):
        rows, columns = (side // _CELL - crop // _CELL + 1 for side in image.shape[:2])
        corners = [(_CELL * r, _CELL * c) for r in range(rows) for c in range(columns)]
        views = [image[top : top + crop, left : left + crop] for top, left in corners]
        found = torch.cat([outputs.flatten(1) for _, outputs in _dense(net, views)], dim=1)
        yield i, found.reshape(-1, rows, columns)


_Maps = Callable[[Fast | VGG, Sequence[Pixels]], Iterator[tuple[int, Tensor]]]

"""From images to class posteriors to errors, by the test protocols of §3.2."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet.accounting import account
from vggnet.configs import Config
from vggnet.distributed import World
from vggnet.errors import InputError, RunError
from vggnet.images import Pixels
from vggnet.inference import engine
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.protocols import Averaging, Fusion, Method, Protocol, Term, windows_of
from vggnet.readers import TestImages, check_pixels, shard
from vggnet.recipes import LARGEST_SCALE
from vggnet.scoring import Result, errors

Posteriors = NDArray[np.float64]
"""n×K; rows sum to 1."""

OnBad = Callable[[int, str], None]
"""Gets the index of an image that cannot be read, and why."""

_BATCH_PIXELS, _BATCH_PIXELS_ON_CPU = 64 * 224 * 224, 8 * 224 * 224
"""A processor is faster where activations are small enough to be used again (docs/LOG.md)."""
_BATCH_IMAGES = 256
_ALONE = World()
_WAITING_PIXELS = 2048 * 256 * 341
"""Views of all shapes together that wait for others of their shape: half a gigabyte."""


class Net(Interface):
    """What `measure` asks of a net: a `VGG`, or an exported file in its runtime."""

    training: bool

    @property
    def config(self) -> Config: ...
    @property
    def mean(self) -> Tensor:
        """One value a channel, on the device that images go to."""
        ...

    def eval(self) -> object: ...
    def train(self, mode: bool = True) -> object: ...
    def score_map(self, images: Tensor) -> Tensor:
        """N×3×H×W, uint8, to scores before the soft-max, N×K×h×w."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """The posteriors of a term, and what they cost if computed alone."""

    posteriors: Posteriors
    forwards: int
    """Views that went through the net, of all images together."""
    multiply_adds: int
    """Of those forwards."""
    as_crop: int = 0
    """Of a dense term: forwards of images that are no larger than the crop, so the very crop that
    multi-crop evaluation sees too."""

    @property
    def read(self) -> int:
        """How many of the images could be read; the others' posteriors are NaN."""
        return int((~np.isnan(self.posteriors[:, 0])).sum())

    def errors(self, part: Part, protocol: Protocol | Fusion) -> Result:
        """The errors on a part by a protocol, whose posteriors these are, the costs an image that
        was read, and how many could not be."""
        n = max(1, self.read)
        costs = self.forwards / n, self.multiply_adds / n
        found = errors(self.posteriors, part.labels, protocol, *costs)
        return replace(found, unread=found.unread + part.left_out)


@dataclass(slots=True)
class _Cost:
    forwards: int = 0
    multiply_adds: int = 0
    as_crop: int = 0


def posteriors(
    model: VGG,
    images: Sequence[Pixels],
    *,
    scales: Sequence[int],
    method: Method = "dense",
    averaging: Averaging = "scores",
    flips: bool = True,
    workers: int = 0,
    fast: bool = True,
    progress: bool = False,
) -> Posteriors:
    """Class posteriors of images (§3.2).

    Args:
        model: on any device; it is put into evaluation mode for the time of the call.
        images: H×W×3 arrays of uint8, RGB, of any sizes.
        scales: smallest sides Q in pixels; an image is rescaled to each, and the posteriors are
            averaged over them.
        method: dense: the net is applied to the whole rescaled image, its score map averaged.
            multi-crop: a regular grid of 5×5 crops a scale. multi-crop+dense: the mean of the two.
            centre-crop: only the crop in the middle. ten-crop: four corners and the middle.
        averaging: of the dense map, before (scores) or after (posteriors) the soft-max.
        flips: average with the posteriors of the mirrored image.
        workers: processes that read and rescale images; 0 for this one.
        fast: compute by `vggnet.fast` on a CPU, which differs by rounding; else by the model.
        progress: show a bar on a terminal.

    Returns:
        n×K, float64, rows summing to 1.

    Raises:
        InputError: for a scale below the net's crop, or an image that is no H×W×3 uint8 array.
        RunError: when the net gives scores that are not finite.
    """
    protocol = Protocol(model.config.title, None, tuple(scales), method, averaging, flips)
    (found,) = measure(
        [model], images, [protocol.terms], workers=workers, fast=fast, progress=progress
    )
    return combined(found, protocol.terms).posteriors


def evaluate(
    model: VGG,
    part: Part,
    *,
    scales: Sequence[int],
    method: Method = "dense",
    averaging: Averaging = "scores",
    flips: bool = True,
    workers: int = 0,
    on_bad: OnBad | None = None,
    progress: bool = False,
    world: World = _ALONE,
) -> Result:
    """Top-1 and top-5 error of a net on labelled images.

    Args:
        model: a net with classes, on any device.
        part: images and their classes.
        scales: every Q in pixels.
        method: what the net sees at each scale (`protocols.Method`).
        averaging: of the dense map: its scores before the soft-max, or its posteriors.
        flips: whether mirrored images are seen too.
        workers: processes that read files; 0 for this one.
        on_bad: as for `measure`; images that cannot be read are then left out, and the result says
            how many.
        progress: show a bar where standard error is a terminal.
        world: as for `measure`.
    """
    protocol = Protocol(
        model.config.title, model.provenance.S, tuple(scales), method, averaging, flips
    )
    (found,) = measure(
        [model],
        part.images,
        [protocol.terms],
        workers=workers,
        on_bad=on_bad,
        progress=progress,
        world=world,
    )
    whole = combined(found, protocol.terms)
    return whole.errors(part, protocol)


def combined(found: Mapping[Term, Measured], terms: Sequence[Term]) -> Measured:
    """The mean over a protocol's terms, and what they cost together: no view is paid twice."""
    parts = [found[term] for term in terms]
    forwards = sum(part.forwards for part in parts)
    multiply_adds = sum(part.multiply_adds for part in parts)
    crops = {term.Q: found[term] for term in terms if term.method == "multi-crop"}
    for term in terms:
        if term.method == "dense" and (grid := crops.get(term.Q)) is not None:
            shared = found[term].as_crop
            forwards -= shared
            multiply_adds -= shared * (grid.multiply_adds // grid.forwards)
    return Measured(mean([part.posteriors for part in parts]), forwards, multiply_adds)


def mean(parts: Sequence[Posteriors]) -> Posteriors:
    """The mean of several posteriors: over scales, methods (§3.2) or nets (§4.4)."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total /= len(parts)
    return total


def check_scales(config: Config, scales: Sequence[int]) -> None:
    """Raises InputError for a test scale Q that is below the net's crop, or too large."""
    crop = config.crop
    for scale in scales:
        if scale < crop:
            raise InputError(f"test scale {scale} is smaller than the net's crop {crop}")
        if scale > LARGEST_SCALE * crop:
            raise InputError(
                f"test scale {scale} is more than {LARGEST_SCALE} times the net's crop {crop}"
            )


def measure(
    models: Sequence[Net],
    images: Sequence[Pixels],
    wanted: Sequence[Collection[Term]],
    *,
    workers: int = 0,
    on_bad: OnBad | None = None,
    fast: bool = True,
    progress: bool = False,
    label: str = "evaluating",
    world: World = _ALONE,
) -> list[dict[Term, Measured]]:
    """Posteriors of several nets by several terms of protocols, in one pass over the images.

    An image is read once and rescaled once to each Q. What a net sees is computed once however
    many terms it counts for: a crop of the grid that is also the centre crop, crops that coincide,
    a dense image that is no larger than a crop. Views of one shape go through a net together, so
    that no image is padded or distorted.

    Args:
        models: each in evaluation mode for the time of the call.
        images: H×W×3 arrays of uint8, RGB, of any sizes.
        wanted: for each model its terms.
        workers: processes that read and rescale images; 0 for this one. The posteriors are the
            same for any number.
        on_bad: gets the index of an image that cannot be read, and why; its posteriors are NaN.
            Without it, such an image is an InputError.
        fast: compute a `VGG` on a CPU by `vggnet.fast`, which differs by rounding; else by the
            model itself.
        progress: show a bar on a terminal.
        label: shown before the bar.
        world: processes that look at the images together, each at its share, and all make this
            call; every one gets the posteriors of all images.

    Returns:
        For each model its terms.

    Raises:
        InputError: for a scale below a net's crop, an image that is no H×W×3 uint8 array, or,
            without `on_bad`, one that cannot be read.
        RunError: when a net gives scores that are not finite, or a worker dies.
    """
    for model, terms in zip(models, wanted, strict=True):
        model.config.check_classes()
        check_scales(model.config, [term.Q for term in terms])
    if isinstance(images, list):  # all of them are there: a wrong one costs no work
        for i, image in enumerate(images):
            check_pixels(image, i)
    if world.ranks > 1:
        return _measured_together(
            models, images, wanted, world, workers, on_bad, fast, progress, label
        )
    # A GPU's fast engine rounds to bfloat16, so it is not what errors are measured with.
    models = [
        engine(model)
        if fast and isinstance(model, VGG) and model.mean.device.type == "cpu"
        else model
        for model in models
    ]
    passes = [
        _Pass(model, list(dict.fromkeys(terms)), len(images), _WAITING_PIXELS // len(models))
        for model, terms in zip(models, wanted, strict=True)
    ]
    bad: list[int] = []
    scales = sorted({term.Q for terms in wanted for term in terms})
    bar = tqdm(
        total=len(images) * len(scales),
        unit="image",
        desc=label,
        leave=False,
        disable=None if progress else True,
    )
    with ExitStack() as stack:
        stack.enter_context(bar)
        stack.enter_context(torch.inference_mode())
        for model in models:
            stack.enter_context(_evaluating(model))
        for i, views in enumerate(TestImages(images, scales, workers)):
            if isinstance(views, InputError):
                if on_bad is None:
                    raise views
                on_bad(i, str(views))
                bad.append(i)
            else:
                for scale, view in zip(scales, views, strict=True):
                    for one in passes:
                        one.take(i, scale, view)
            bar.update(len(scales))
        return [one.finish(bad) for one in passes]


def _measured_together(
    models: Sequence[Net],
    images: Sequence[Pixels],
    wanted: Sequence[Collection[Term]],
    world: World,
    workers: int,
    on_bad: OnBad | None,
    fast: bool,
    progress: bool,
    label: str,
) -> list[dict[Term, Measured]]:
    chosen = shard(len(images), world.rank, world.ranks)
    own = images[world.rank :: world.ranks]
    bad: list[tuple[int, str]] = []
    parts = measure(
        models,
        own,
        wanted,
        workers=workers,
        on_bad=None if on_bad is None else lambda i, why: bad.append((int(chosen[i]), why)),
        fast=fast,
        progress=progress and world.is_first,
        label=label,
    )
    for i, why in sorted(one for of_rank in world.gathered(bad) for one in of_rank):
        assert on_bad is not None
        on_bad(i, why)
    return [{term: _whole(part, chosen, len(images), world) for term, part in found.items()}
            for found in parts]  # fmt: skip


def _whole(part: Measured, chosen: NDArray[np.int64], n: int, world: World) -> Measured:
    """Of all ranks' parts; zeros of the others are added, which changes nothing."""
    posteriors = torch.zeros(n, part.posteriors.shape[1], dtype=torch.float64)
    posteriors[chosen] = torch.from_numpy(part.posteriors)
    costs = torch.tensor([part.forwards, part.multiply_adds, part.as_crop])
    return Measured(world.sum(posteriors).numpy(), *world.sum(costs).tolist())


class _Pass:
    """One net's way through the images: views that wait for a full batch, and what came out."""

    def __init__(self, model: Net, terms: list[Term], n: int, most_waiting: int) -> None:
        self.model, self.terms, self.most_waiting = model, terms, most_waiting
        self.batch_pixels = (
            _BATCH_PIXELS_ON_CPU if model.mean.device.type == "cpu" else _BATCH_PIXELS
        )
        self.total = {term: torch.zeros(n, model.config.num_classes).double() for term in terms}
        self.cost = {term: _Cost() for term in terms}
        # By shape: image, pixels, and the weight that the view has in each of its terms.
        self.waiting: dict[tuple[int, int], list[tuple[int, Pixels, dict[Term, float]]]]
        self.waiting = defaultdict(list)
        self.waiting_pixels = 0

    def take(self, i: int, scale: int, view: Pixels) -> None:
        terms = [term for term in self.terms if term.Q == scale]
        rows, columns = view.shape[:2]
        found = windows_of(terms, rows, columns, self.model.config.crop)
        for (top, left, height, width), weights in found.items():
            # A copy: a crop that waits does not keep its whole image.
            window = view[top : top + height, left : left + width].copy()
            group = self.waiting[height, width]
            group.append((i, window, weights))
            self.waiting_pixels += height * width
            for term in weights:
                cost = self.cost[term]
                cost.forwards += 1 + term.flips
                cost.multiply_adds += (1 + term.flips) * _multiply_adds(
                    self.model.config, height, width
                )
                if term.method == "dense" and height == width == self.model.config.crop:
                    cost.as_crop += 1 + term.flips
            if len(group) >= min(_BATCH_IMAGES, self.batch_pixels // (height * width)):
                self._forward(self.waiting.pop((height, width)))
        while self.waiting_pixels > self.most_waiting:  # photographs come in many shapes
            largest = max(self.waiting, key=lambda size: len(self.waiting[size]))
            self._forward(self.waiting.pop(largest))

    def finish(self, bad: list[int]) -> dict[Term, Measured]:
        for group in self.waiting.values():
            self._forward(group)
        for total in self.total.values():
            if not total.isfinite().all():
                raise RunError(
                    "the net's scores are not finite: its weights are damaged or diverged"
                )
            total[bad] = torch.nan
        return {
            term: Measured(
                self.total[term].numpy(), cost.forwards, cost.multiply_adds, cost.as_crop
            )
            for term, cost in self.cost.items()
        }

    def _forward(self, group: list[tuple[int, Pixels, dict[Term, float]]]) -> None:
        self.waiting_pixels -= sum(view.shape[0] * view.shape[1] for _, view, _ in group)
        pixels = torch.from_numpy(np.stack([view for _, view, _ in group])).permute(0, 3, 1, 2)
        images = pixels.to(self.model.mean.device)
        needs = [any(term.flips for term in weights) for _, _, weights in group]
        # For every order of averaging the posteriors of the views, and of their mirror images.
        plain = self._posteriors(images)
        mirrored = dict(plain)
        if any(needs):
            # Views that only count unmirrored stay out.
            chosen = torch.tensor(needs)
            found = self._posteriors(images[chosen.to(images.device)].flip(3))
            for averaging, values in found.items():
                mirrored[averaging] = torch.zeros_like(plain[averaging])
                mirrored[averaging][chosen] = values
        for term in self.terms:
            rows = [row for row, (_, _, weights) in enumerate(group) if term in weights]
            if not rows:
                continue
            values = plain[term.averaging][rows]
            if term.flips:
                values = (values + mirrored[term.averaging][rows]) / 2
            weight = torch.tensor([group[row][2][term] for row in rows], dtype=torch.float64)
            index = torch.tensor([group[row][0] for row in rows])
            self.total[term].index_add_(0, index, values * weight[:, None])

    def _posteriors(self, images: Tensor) -> dict[Averaging, Tensor]:
        scores = self.model.score_map(images).double()
        found: dict[Averaging, Tensor] = {"scores": scores.mean(dim=(2, 3)).softmax(dim=1).cpu()}
        if any(term.averaging == "posteriors" for term in self.terms):
            found["posteriors"] = scores.softmax(dim=1).mean(dim=(2, 3)).cpu()
        return found


@contextmanager
def _evaluating(model: Net) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@lru_cache(maxsize=4096)
def _multiply_adds(config: Config, height: int, width: int) -> int:
    return account(config, (height, width)).multiply_adds

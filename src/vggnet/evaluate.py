"""From images to class posteriors to errors, by the test protocols of §3.2."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vggnet.configs import Config
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.images import Pixels
from vggnet.inference import engine
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.passes import Measured, Net, Pass, Posteriors
from vggnet.protocols import Averaging, Method, Protocol, Term
from vggnet.readers import TestImages, check_pixels, shard
from vggnet.recipes import LARGEST_SCALE
from vggnet.scoring import Result

OnBad = Callable[[int, str], None]
"""Gets the index of an image that cannot be read, and why."""

_ALONE = World()
_WAITING_PIXELS = 2048 * 256 * 341
"""Views of all shapes together that wait for others of their shape: half a gigabyte."""


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
    if isinstance(scales, int):
        raise InputError(f"scales {scales}: give a list: [{scales}]")
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
        grid = crops.get(term.Q) if term.method == "dense" else None
        if grid is not None and (shared := found[term].as_crop):
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
        Pass(model, list(dict.fromkeys(terms)), len(images), _WAITING_PIXELS // len(models))
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


@contextmanager
def _evaluating(model: Net) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

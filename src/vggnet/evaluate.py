"""From images to class posteriors to errors, by the test protocols of §3.2."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet.datasets import Part
from vggnet.errors import InputError, RunError
from vggnet.images import Pixels, centre_crop, rescale
from vggnet.model import VGG
from vggnet.recipes import LARGEST_SCALE

Method = Literal["dense", "centre-crop"]
Averaging = Literal["scores", "posteriors"]

_BATCH_PIXELS = 64 * 224 * 224
_BATCH_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Protocol:
    """How an error was measured; printed and saved with it.

    Raises:
        InputError: on a method or averaging that does not exist, or without a scale.
    """

    net: str
    S: int | None
    """Smallest side in training; None where the weights do not say."""
    Q: tuple[int, ...]
    """Smallest sides in testing; the posteriors are averaged over them (§3.2)."""
    method: Method = "dense"
    """dense: the net over the whole, uncropped image. centre-crop: one crop of the net's size."""
    averaging: Averaging = "scores"
    """Of the dense map: the scores before the soft-max, or the posteriors after it. The paper
    says that the score map is averaged and does not say on which side of the soft-max."""
    flips: bool = True
    """Whether the posteriors are averaged with those of the mirrored image."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(
                f"unknown method {self.method!r}: take {' or '.join(get_args(Method))}"
            )
        if self.averaging not in get_args(Averaging):
            known = " or ".join(get_args(Averaging))
            raise InputError(f"unknown averaging {self.averaging!r}: take {known}")
        if not self.Q:
            raise InputError("no test scale Q: give at least one")
        if len(set(self.Q)) < len(self.Q):
            raise InputError(f"test scales {', '.join(map(str, self.Q))}: one is given twice")

    def __str__(self) -> str:
        scales = ", ".join(map(str, self.Q))
        averaging = f", {self.averaging} averaged over the map" if self.method == "dense" else ""
        return (
            f"net {self.net}, S={self.S or 'unknown'}, Q={scales}, {self.method}{averaging}, "
            f"{'with' if self.flips else 'without'} flips"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """Errors in percent with 95 % Wilson intervals, and the protocol that they come from."""

    protocol: Protocol
    n: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]

    def __str__(self) -> str:
        def one(error: float, bounds: tuple[float, float]) -> str:
            return f"{error:.2f} % [{bounds[0]:.2f}, {bounds[1]:.2f}]"

        return (
            f"top-1 error {one(self.top1, self.top1_interval)}, "
            f"top-5 error {one(self.top5, self.top5_interval)} (95 % intervals), n={self.n}\n"
            f"protocol: {self.protocol}"
        )

    def to_json(self) -> dict[str, Any]:
        """As `vggnet evaluate --json` prints it."""
        return {**asdict(self), "protocol": asdict(self.protocol)}


def posteriors(
    model: VGG,
    images: Sequence[Pixels],
    *,
    scales: Sequence[int],
    method: Method = "dense",
    averaging: Averaging = "scores",
    flips: bool = True,
    progress: bool = False,
) -> NDArray[np.float64]:
    """Class posteriors of images (§3.2).

    Args:
        model: on any device; it is put into evaluation mode for the time of the call.
        images: H×W×3 arrays of uint8, RGB, of any sizes.
        scales: smallest sides Q in pixels; an image is rescaled to each, and the posteriors are
            averaged over them.
        method: dense: the net is applied to the whole rescaled image, its score map averaged.
            centre-crop: only the crop in the middle.
        averaging: of the dense map, before (scores) or after (posteriors) the soft-max.
        flips: average with the posteriors of the mirrored image.
        progress: show a bar on a terminal.

    Returns:
        n×K, float64, rows summing to 1.

    Raises:
        InputError: for a scale below the net's crop, or an image that is no H×W×3 uint8 array.
        RunError: when the net gives scores that are not finite.
    """
    protocol = Protocol(model.config.title, None, tuple(scales), method, averaging, flips)
    crop = model.config.crop
    for scale in protocol.Q:
        if scale < crop:
            raise InputError(f"test scale {scale} is smaller than the net's crop {crop}")
        if scale > LARGEST_SCALE * crop:
            raise InputError(
                f"test scale {scale} is more than {LARGEST_SCALE} times the net's crop {crop}"
            )
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"image {i} is {image.shape} of {image.dtype}: expected H×W×3 of uint8"
            )
    total = np.zeros((len(images), model.config.num_classes))
    was_training = model.training
    model.eval()
    try:
        bar = tqdm(
            total=len(images) * len(scales),
            unit="image",
            desc="evaluating",
            leave=False,
            disable=None if progress else True,
        )
        with bar, torch.inference_mode():
            for scale in protocol.Q:
                for indices, views in _batches(images, scale, model.config.crop, method):
                    total[indices] += _posteriors(model, views, averaging, flips)
                    bar.update(len(indices))
    finally:
        model.train(was_training)
    if not np.isfinite(total).all():
        raise RunError("the net's scores are not finite: its weights are damaged or diverged")
    return total / len(protocol.Q)


def evaluate(
    model: VGG,
    part: Part,
    *,
    scales: Sequence[int],
    method: Method = "dense",
    averaging: Averaging = "scores",
    flips: bool = True,
    progress: bool = False,
) -> Result:
    """Top-1 and top-5 error of a net on labelled images; arguments as for `posteriors`."""
    protocol = Protocol(
        model.config.title, model.provenance.S, tuple(scales), method, averaging, flips
    )
    found = posteriors(
        model,
        part.images,
        scales=scales,
        method=method,
        averaging=averaging,
        flips=flips,
        progress=progress,
    )
    return errors(found, part.labels, protocol)


def errors(
    posteriors: NDArray[np.float64], labels: NDArray[np.int64], protocol: Protocol
) -> Result:
    """Counts errors: an image is right in top-k when its class is among the k highest (§4)."""
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    # Of equal posteriors the class of the lower index ranks higher, as in argmax: a net that says
    # the same of every class does not come out right.
    before = np.arange(posteriors.shape[1]) < labels[:, None]
    rank = ((posteriors > own) | ((posteriors == own) & before)).sum(axis=1)
    n = len(labels)
    wrong1, wrong5 = int((rank >= 1).sum()), int((rank >= 5).sum())
    return Result(
        protocol=protocol,
        n=n,
        top1=100 * wrong1 / n,
        top1_interval=wilson(wrong1, n),
        top5=100 * wrong5 / n,
        top5_interval=wilson(wrong5, n),
    )


def wilson(wrong: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an error rate, in percent.

    Args:
        wrong: number of errors, 0 to n.
        n: number of images, 1 or more.
    """
    z = 1.959963984540054  # the normal distribution's 97.5 % point
    p = wrong / n
    centre = p + z * z / (2 * n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # At 0 and n the bound is exactly 0 or 1; rounding may leave it a hair off.
    return (0.0 if wrong == 0 else 100 * low), (100.0 if wrong == n else 100 * high)


def _batches(
    images: Sequence[Pixels], scale: int, crop: int, method: Method
) -> Iterator[tuple[list[int], Tensor]]:
    """Rescaled images of one shape together, so that no image is padded or distorted."""
    waiting: dict[tuple[int, ...], list[tuple[int, Pixels]]] = defaultdict(list)
    for i, image in enumerate(images):
        view = rescale(image, scale)
        if method == "centre-crop":
            view = centre_crop(view, crop)
        group = waiting[view.shape]
        group.append((i, view))
        limit = min(_BATCH_IMAGES, _BATCH_PIXELS // (view.shape[0] * view.shape[1]))
        if len(group) >= limit:
            yield _stack(waiting.pop(view.shape))
    for group in waiting.values():
        yield _stack(group)


def _stack(group: list[tuple[int, Pixels]]) -> tuple[list[int], Tensor]:
    views = np.stack([view for _, view in group])
    return [i for i, _ in group], torch.from_numpy(views).permute(0, 3, 1, 2)


def _posteriors(
    model: VGG, images: Tensor, averaging: Averaging, flips: bool
) -> NDArray[np.float64]:
    images = images.to(model.mean.device)
    mirrored = [images.flip(3)] if flips else []
    found = []
    for views in (images, *mirrored):
        scores = model.score_map(views).double()
        if averaging == "scores":
            found.append(scores.mean(dim=(2, 3)).softmax(dim=1))
        else:
            found.append(scores.softmax(dim=1).mean(dim=(2, 3)))
    return torch.stack(found).mean(dim=0).cpu().numpy()

"""An exported file beside the net that it was made of: scores, errors, speed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.evaluate import OnBad, check_scales, combined, measure
from vggnet.export.int8 import scale_for
from vggnet.export.layers import Form
from vggnet.export.runtimes import Session
from vggnet.images import Pixels, rescale
from vggnet.model import VGG
from vggnet.parts import Dataset, Part
from vggnet.protocols import Protocol
from vggnet.recipes import in_proportion
from vggnet.scoring import Result

Batch = NDArray[np.uint8]
"""N×C×H×W."""


def samples(config: Config, form: Form, images: Sequence[Pixels] = ()) -> list[Batch]:
    """What an export is tried with: three sizes in dense form, of the paper's 224, 256 and
    384×512 in proportion; batches of one and of two in crop form.

    Args:
        config: of the net.
        form: of the export.
        images: parts of these, enlarged; without them random pixels, of a fixed seed.
    """
    crop = config.crop
    square, low, high = (in_proportion(side, crop) for side in (256, 384, 512))
    shapes = [(1, crop, crop), (2, crop, crop)]
    if form == "dense":
        shapes = [(1, crop, crop), (2, square, square), (1, low, high)]
    rng = np.random.Generator(np.random.PCG64(0))
    if not images:
        return [rng.integers(0, 256, (n, config.in_channels, h, w), np.uint8) for n, h, w in shapes]
    found, used = [], 0
    for n, h, w in shapes:
        parts = []
        for _ in range(n):
            image = rescale(images[used % len(images)], max(h, w))[:h, :w]
            parts.append(image.transpose(2, 0, 1))
            used += 1
        found.append(np.stack(parts))
    return found


def difference(model: VGG, session: Session, images: Batch) -> float:
    """The largest difference of two scores over the largest score: max |a - b| / max |b|."""
    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).double().numpy()
    largest = float(np.abs(wanted).max())
    with np.errstate(invalid="ignore"):  # infinities: what comes out is NaN
        apart = float(np.abs(session(images) - wanted).max())
    return apart / largest if largest else apart


class Timed:
    """Anything that gives scores, as `evaluate.measure` takes a net; it counts time and images.

    Args:
        config: of the net.
        session: what gives the scores.
    """

    training = False

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session = config, session
        self.mean = torch.zeros(config.in_channels)
        self.seconds, self.images = 0.0, 0

    def eval(self) -> None: ...
    def train(self, mode: bool = True) -> None: ...

    def score_map(self, images: Tensor) -> Tensor:
        pixels = images.contiguous().numpy()
        start = time.perf_counter()
        scores = self.session(pixels)
        self.seconds += time.perf_counter() - start
        self.images += len(pixels)
        return torch.from_numpy(scores)[:, :, None, None]

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """The errors of the model or of the export, and its speed."""

    result: Result
    images_per_second: float
    """Of the forwards alone; the two take turns, batch by batch."""


def check_data(model: VGG, data: Dataset) -> str | None:
    """Why a net's errors cannot be counted on a data set; None where they can."""
    config, names = model.config, model.provenance.class_names
    if config.in_channels != 3:
        return f"the net takes {config.in_channels} channels; images have 3"
    if config.num_classes != len(data.class_names):
        return f"{config.num_classes} classes; {data.name} has {len(data.class_names)}"
    if names is not None and names != data.class_names:
        return f"the net's classes are not those of {data.name}"
    return None


def side_by_side(
    model: VGG,
    sessions: Sequence[Session],
    part: Part,
    form: Form,
    *,
    workers: int = 0,
    on_bad: OnBad | None = None,
    progress: bool = False,
) -> list[Row]:
    """Errors of a model, first, and of exports of it, in one pass over labelled images.

    The protocol: one scale Q, that of the net's S; dense, or the centre crop in crop form; no
    flips. One image in each forward where the images' shapes differ.

    Args:
        model: on the CPU.
        sessions: of the exports, see `runtimes.load`.
        part: the images.
        form: of the exports.
        workers, on_bad, progress: as for `evaluate.measure`.

    Raises:
        InputError, RunError: as `evaluate.measure`.
    """
    config, method = model.config, ("dense" if form == "dense" else "centre-crop")
    Q, S = scale_for(model), model.provenance.S  # noqa: N806, the paper's names
    protocol = Protocol(config.title, S, (Q,), method, flips=False)  # type: ignore[arg-type]
    check_scales(config, protocol.Q)
    nets = [Timed(config, session) for session in (of_model(model), *sessions)]
    measured = measure(
        nets,
        part.images,
        [protocol.terms] * len(nets),
        workers=workers,
        on_bad=on_bad,
        progress=progress,
        label="comparing",
    )
    return [
        Row(combined(found, protocol.terms).errors(part, protocol), net.speed)
        for net, found in zip(nets, measured, strict=True)
    ]


def of_model(model: VGG) -> Session:
    """A model on the CPU, as exports run."""

    def run(images: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
        return scores

    return run


def evenly(part: Part, n: int) -> Part:
    """`n` of a part's images, evenly spaced in their order; all where there are no more.

    Raises:
        InputError: for a number below 1.
    """
    if n < 1:
        raise InputError(f"{n} images: give 1 or more")
    total = len(part)
    if n >= total:
        return part
    return part.subset(np.arange(n, dtype=np.int64) * total // n)

"""A net's one way through the images: views of one shape together, each computed once."""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.accounting import account
from vggnet.configs import Config
from vggnet.errors import RunError
from vggnet.images import Pixels
from vggnet.parts import Part
from vggnet.protocols import Averaging, Fusion, Protocol, Term, windows_of
from vggnet.scoring import Result, errors

Posteriors = NDArray[np.float64]
"""n×K; rows sum to 1."""

_BATCH_PIXELS, _BATCH_PIXELS_ON_CPU = 64 * 224 * 224, 8 * 224 * 224
"""A processor is faster where activations are small enough to be used again (docs/LOG.md)."""
_BATCH_IMAGES = 256


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


class Pass:
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


@lru_cache(maxsize=4096)
def _multiply_adds(config: Config, height: int, width: int) -> int:
    return account(config, (height, width)).multiply_adds

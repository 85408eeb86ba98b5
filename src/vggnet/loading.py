"""Training batches whose randomness depends on nothing but seed, epoch and image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vggnet.augment import jittered_side, random_crop, random_flip
from vggnet.datasets import Dataset
from vggnet.images import Pixels, rescale, scaled_size
from vggnet.recipes import Scale

_KEPT_BYTES = 1 << 30
"""Images of a fixed S are rescaled once and kept where all of them take no more than this."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops as they are, and the shift of each one's colour, to be added on the device."""

    images: Tensor
    """N×3×crop×crop, uint8, RGB."""
    shifts: Tensor
    """N×3×1×1, float32, in units of 0–255."""
    labels: Tensor
    """N, int64."""


class TrainingImages:
    """The training part of a data set in random order, augmented (§3.1).

    Args:
        data: the data set.
        S: smallest side in pixels; of a pair, every image of every epoch draws its own between
            the two, ends included (scale jittering).
        crop: side of the random crop in pixels.
        batch_size: images a batch; an epoch's last batch has what is left.
        flip: mirror each image with a chance of one half.
        colour_shift: sigma of the RGB shift; 0 leaves colours alone.
        seed: with the epoch and an image's index, decides its crop, flip and shift.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        S: Scale,  # noqa: N803, the paper's name
        crop: int,
        batch_size: int,
        flip: bool,
        colour_shift: float,
        seed: int,
    ) -> None:
        self.images: Sequence[Pixels] = data.train.images
        self.S = S
        if isinstance(S, int) and isinstance(self.images, list):
            sizes = (scaled_size(image.shape[0], image.shape[1], S) for image in self.images)
            if sum(3 * height * width for height, width in sizes) <= _KEPT_BYTES:
                self.images = [rescale(image, S) for image in self.images]
        self.labels = torch.from_numpy(data.train.labels)
        self.pca = data.colour_pca
        self.crop, self.batch_size, self.flip = crop, batch_size, flip
        self.colour_shift, self.seed = colour_shift, seed

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on; each image comes once an epoch."""
        order = self._rng(epoch).permutation(len(self.images))
        for step in range(start, self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            views = [self._view(int(index), epoch) for index in chosen]
            images = np.stack([image for image, _ in views]).transpose(0, 3, 1, 2)
            shifts = np.stack([shift for _, shift in views])
            yield Batch(
                # H×W×3 in memory, so channels_last as it stands
                images=torch.from_numpy(images),
                shifts=torch.from_numpy(shifts)[:, :, None, None],
                labels=self.labels[torch.from_numpy(chosen)],
            )

    def _view(self, index: int, epoch: int) -> tuple[Pixels, np.ndarray]:
        rng = self._rng(epoch, index + 1)
        side = self.S if isinstance(self.S, int) else jittered_side(self.S, rng)
        # Nothing to do for an image that was kept in this size.
        image = random_crop(rescale(self.images[index], side), self.crop, rng)
        if self.flip:
            image = random_flip(image, rng)
        return image, self.pca.shift(rng, self.colour_shift)

    def _rng(self, epoch: int, stream: int = 0) -> np.random.Generator:
        """Stream 0 of an epoch orders its images; stream i + 1 belongs to image i."""
        # Philox counts in the low words; the high ones keep the streams apart.
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, stream, epoch]))

"""Training batches whose randomness depends on nothing but seed, epoch and image."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vggnet.crops import Crops, Request, Slots, Written, prepared, rng_of
from vggnet.errors import InputError
from vggnet.images import Pixels
from vggnet.parts import Dataset
from vggnet.readers import parallel, read_ahead, watched
from vggnet.recipes import Scale
from vggnet.storage import EncodedImages

_AHEAD = 2
"""Batches that are requested of each worker before they are needed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops as they are, and the shift of each one's colour, to be added on the device."""

    images: Tensor
    """N×3×crop×crop, uint8, RGB."""
    shifts: Tensor
    """N×3×1×1, float32, in units of 0–255."""
    labels: Tensor
    """N, int64."""
    boxes: Tensor
    """N×4, float32: where the object is in the crop, as `boxes.in_window` has it; N×0 where the
    data set does not know."""
    bad: tuple[tuple[int, str], ...] = ()
    """The images that should be here and could not be read: their indices, and why."""

    def pin_memory(self) -> "Batch":
        """In memory that a GPU reads by itself, while the program goes on."""
        return self._each(lambda x: x.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """On a device, without waiting for it."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = self.images, self.shifts, self.labels, self.boxes
        images, shifts, labels, boxes = map(change, tensors)
        return Batch(images, shifts, labels, boxes, self.bad)


class TrainingImages:
    """The training part of a data set in random order, augmented (§3.1).

    A batch depends on seed, epoch and step alone: not on the number of workers, nor on where a run
    was resumed. An image that cannot be read is left out of its batch, which names it.

    Args:
        data: the data set.
        S: smallest side in pixels; of a pair, every image of every epoch draws its own between
            the two, ends included (scale jittering).
        crop: side of the random crop in pixels.
        batch_size: images a batch, of all ranks together; an epoch's last batch has what is left.
        flip: mirror each image with a chance of one half.
        colour_shift: sigma of the RGB shift; 0 leaves colours alone.
        erase: chance that a rectangle of a crop is erased.
        seed: with the epoch and an image's index, decides its crop, flip and shift.
        workers: processes that read, decode and crop; 0 for this one. They stay until `close`.
        pin: give batches in pinned memory, for a GPU.
        rank, ranks: this process is one of several, each of which gets its share of every batch.
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
        erase: float = 0.0,
        workers: int = 0,
        pin: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if workers < 0:
            raise InputError(f"workers {workers} is not 0 or more")
        images = prepared(data.train.images, S)
        self.batch_size, self.workers = batch_size, workers
        self.waited = 0.0
        """Seconds that the caller has waited for batches so far."""
        self.crop, self.pin = crop, pin
        # Requested and not yet copied are so many, one that was just received, and one to spare.
        count = _AHEAD * workers + 2
        self._slots = Slots(count, -(-batch_size // ranks), crop) if workers else None
        self._views = Crops(
            images, data.train, data.colour_pca, S, crop, flip, colour_shift, erase, seed,
            self._slots,
        )  # fmt: skip
        self._sampler = _Sampler(images, batch_size, seed, rank, ranks)
        self._loader: DataLoader[tuple[int, Written]] | None = None
        if workers:
            self._loader = parallel(
                self._views, self._sampler, workers, persistent_workers=True, prefetch_factor=_AHEAD
            )

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self._sampler.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on; each image comes once an epoch.

        Raises:
            RunError: when a worker dies.
        """
        self.load_state_dict({"epoch": epoch, "step": start})
        return iter(self)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch that the state says."""
        batches = self._batches()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            self._sampler.step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the caller is: the epoch, and the step that comes next."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where `state_dict` was called, here or in another process."""
        self._sampler.load_state_dict(state)

    def close(self) -> None:
        """Ends the workers."""
        self._loader = None

    def _batches(self) -> Iterator[Batch]:
        if self._loader is None or self._slots is None:
            for request in self._sampler:
                crops = np.empty((len(request.indices), self.crop, self.crop, 3), np.uint8)
                yield self._batch(crops, self._views.write(request, crops))
            return
        for slot, written in watched(self._loader, self.workers):
            crops = self._slots[slot][: len(written.labels)]
            # A copy, which pinning makes too: the slot will be written again.
            yield self._batch(crops if self.pin else crops.copy(), written)

    def _batch(self, crops: Pixels, written: Written) -> Batch:
        batch = Batch(
            # H×W×3 in memory, so channels_last as it stands
            images=torch.from_numpy(crops[: len(written.labels)]).permute(0, 3, 1, 2),
            shifts=torch.from_numpy(written.shifts)[:, :, None, None],
            labels=torch.from_numpy(written.labels),
            boxes=torch.from_numpy(written.boxes),
            bad=written.bad,
        )
        return batch.pin_memory() if self.pin else batch


class _Sampler:
    """Which images make the batches of an epoch, for one rank of several."""

    def __init__(
        self, images: Sequence[Pixels], batch_size: int, seed: int, rank: int, ranks: int
    ) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = self.step = self.slot = 0

    @property
    def steps(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]

    def __iter__(self) -> Iterator[Request]:
        images, epoch = self.images, self.epoch
        rng = rng_of(self.seed, epoch)
        in_files = images if isinstance(images, EncodedImages) else None
        order = in_files.order(rng) if in_files is not None else rng.permutation(len(images))
        batches = [
            np.array_split(order[step * self.batch_size : (step + 1) * self.batch_size], self.ranks)
            for step in range(self.step, self.steps)
        ]
        own = [shares[self.rank] for shares in batches]
        if in_files is None or not in_files.sequential or not own:
            for indices in own:
                yield Request(epoch, indices, None, self._next_slot())
            return
        # One process reads a shard from its beginning to its end; the workers decode.
        contents = read_ahead(in_files.stream(np.concatenate(own)), 2 * self.batch_size)
        for indices in own:
            yield Request(epoch, indices, [next(contents) for _ in indices], self._next_slot())

    def _next_slot(self) -> int:
        self.slot += 1
        return self.slot

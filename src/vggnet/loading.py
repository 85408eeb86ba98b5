"""Training batches whose randomness depends on nothing but seed, epoch and image."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from vggnet.augment import ColourPCA, erased, jittered_side, random_flip, random_window
from vggnet.boxes import in_window, mirrored
from vggnet.errors import InputError
from vggnet.images import EncodedImage, Pixels, rescale, scaled_size
from vggnet.parts import Dataset, Part
from vggnet.readers import parallel, read_ahead, watched
from vggnet.recipes import Scale
from vggnet.storage import EncodedImages

_KEPT_BYTES = 1 << 30
"""Images of a fixed S are rescaled once and kept where all of them take no more than this."""

_AHEAD = 2
"""Batches that are requested of each worker before they are needed."""

Index = NDArray[np.int64]
_NOWHERE = np.empty(0, np.float32)


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


@dataclass(frozen=True, slots=True)
class _Request:
    """What a batch is made of, as it goes to a worker."""

    epoch: int
    indices: Index
    contents: list[bytes | InputError] | None
    """What the files hold, where the main process reads them in their order (tar shards)."""
    slot: int = 0
    """Which of the `_Slots` a worker writes the crops to."""


@dataclass(frozen=True, slots=True)
class _Written:
    """The rest of a batch, whose crops are written elsewhere."""

    shifts: NDArray[np.float32]
    labels: Index
    boxes: NDArray[np.float32]
    bad: tuple[tuple[int, str], ...]


class _Slots:
    """Memory that workers write the crops of batches to, in turns, and the main process reads.

    With memory of its own for each batch, as PyTorch does it, pages and handles would cost a tenth
    of the time (docs/LOG.md).
    """

    def __init__(self, count: int, batch_size: int, crop: int) -> None:
        self.shape = (count, batch_size, crop, crop, 3)
        self._memory = RawArray("B", math.prod(self.shape))

    def __getitem__(self, slot: int) -> NDArray[np.uint8]:
        pixels: Pixels = np.frombuffer(self._memory, np.uint8).reshape(self.shape)
        turn: Pixels = pixels[slot % len(pixels)]
        return turn


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
        images = _prepared(data.train.images, S)
        self.batch_size, self.workers = batch_size, workers
        self.waited = 0.0
        """Seconds that the caller has waited for batches so far."""
        self.crop, self.pin = crop, pin
        # Requested and not yet copied are so many, one that was just received, and one to spare.
        count = _AHEAD * workers + 2
        self._slots = _Slots(count, -(-batch_size // ranks), crop) if workers else None
        self._views = _Views(
            images, data.train, data.colour_pca, S, crop, flip, colour_shift, erase, seed,
            self._slots,
        )  # fmt: skip
        self._sampler = _Sampler(images, batch_size, seed, rank, ranks)
        self._loader: DataLoader[tuple[int, _Written]] | None = None
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

    def _batch(self, crops: Pixels, written: _Written) -> Batch:
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

    def __iter__(self) -> Iterator[_Request]:
        images, epoch = self.images, self.epoch
        rng = _rng(self.seed, epoch)
        in_files = images if isinstance(images, EncodedImages) else None
        order = in_files.order(rng) if in_files is not None else rng.permutation(len(images))
        batches = [
            np.array_split(order[step * self.batch_size : (step + 1) * self.batch_size], self.ranks)
            for step in range(self.step, self.steps)
        ]
        own = [shares[self.rank] for shares in batches]
        if in_files is None or not in_files.sequential or not own:
            for indices in own:
                yield _Request(epoch, indices, None, self._next_slot())
            return
        # One process reads a shard from its beginning to its end; the workers decode.
        contents = read_ahead(in_files.stream(np.concatenate(own)), 2 * self.batch_size)
        for indices in own:
            yield _Request(epoch, indices, [next(contents) for _ in indices], self._next_slot())

    def _next_slot(self) -> int:
        self.slot += 1
        return self.slot


class _Views(torch.utils.data.Dataset[tuple[int, _Written]]):
    """From a request to a batch, in whatever process."""

    def __init__(
        self,
        images: Sequence[Pixels],
        part: Part,
        pca: ColourPCA,
        S: Scale,  # noqa: N803
        crop: int,
        flip: bool,
        colour_shift: float,
        erase: float,
        seed: int,
        slots: _Slots | None,
    ) -> None:
        self.images, self.pca, self.S, self.crop = images, pca, S, crop
        self.labels, self.boxes = part.labels, part.boxes
        # Of the whole images, since those in memory may be kept rescaled.
        self.shapes = [image.shape[:2] for image in part.images] if _in_memory(part) else []
        self.flip, self.colour_shift, self.erase = flip, colour_shift, erase
        self.seed, self.slots = seed, slots

    def __getitem__(self, request: _Request) -> tuple[int, _Written]:
        assert self.slots is not None
        return request.slot, self.write(request, self.slots[request.slot])

    def write(self, request: _Request, crops: Pixels) -> _Written:
        """Writes the crops one after the other, without those of images that cannot be read."""
        contents: Sequence[bytes | InputError | None]
        contents = request.contents or [None] * len(request.indices)
        shifts: list[NDArray[np.float32]] = []
        boxes: list[NDArray[np.float32]] = []
        good: list[int] = []
        bad: list[tuple[int, str]] = []
        for index, content in zip(request.indices.tolist(), contents, strict=True):
            try:
                crops[len(good)], shift, box = self._view(index, request.epoch, content)
            except InputError as error:
                bad.append((index, str(error)))
            else:
                shifts.append(shift)
                boxes.append(box)
                good.append(index)
        shifted = np.array(shifts, np.float32).reshape(-1, 3)
        located = np.array(boxes, np.float32).reshape(len(good), 0 if self.boxes is None else 4)
        return _Written(shifted, self.labels[good], located, tuple(bad))

    def _view(
        self, index: int, epoch: int, content: bytes | InputError | None
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.float32]]:
        """The crop, its shift, and where the object is in it."""
        rng = _rng(self.seed, epoch, index + 1)
        side = self.S if isinstance(self.S, int) else jittered_side(self.S, rng)
        images = self.images
        if isinstance(content, InputError):
            raise content
        if isinstance(images, EncodedImages):
            opened = (
                images.open(index)
                if content is None
                else EncodedImage(content, images.where(index))
            )
            shape = opened.shape
            scaled = scaled_size(*shape, side)
            window = random_window(*scaled, self.crop, rng)
            view = opened.window(side, window)
        else:
            # Nothing to do for an image that was kept in this size.
            whole = rescale(images[index], side)
            shape, scaled = self.shapes[index], whole.shape[:2]
            window = top, left, height, width = random_window(*scaled, self.crop, rng)
            view = whole[top : top + height, left : left + width]
        image, flipped = torch.from_numpy(np.require(view, requirements="W")), False
        if self.flip:
            image, flipped = random_flip(image, rng)
        view, shift = image.numpy(), self.pca.shift(rng, self.colour_shift)
        if self.boxes is None:
            return self._erased(view, rng), shift, _NOWHERE
        boxes = self.boxes[index]
        # One instance, where there are several; drawn so late that all else is as without boxes.
        box = boxes[rng.integers(len(boxes)) if len(boxes) > 1 else 0]
        numbers = in_window(box, shape, scaled, window)
        return self._erased(view, rng), shift, mirrored(numbers) if flipped else numbers

    def _erased(self, view: Pixels, rng: np.random.Generator) -> Pixels:
        """What is drawn for this comes last, so that all else is as without it."""
        return erased(_coloured(view), rng, self.erase) if self.erase else _coloured(view)


def _prepared(images: Sequence[Pixels], S: Scale) -> Sequence[Pixels]:  # noqa: N803
    """Images in memory as they are the soonest to crop: grey ones as planes, at a fixed S."""
    if not isinstance(images, list):
        return images
    images = [_plane(image) for image in images]
    if isinstance(S, int):
        sizes = [scaled_size(image.shape[0], image.shape[1], S) for image in images]
        channels = [math.prod(image.shape[2:]) for image in images]
        if sum(math.prod(x) * y for x, y in zip(sizes, channels, strict=True)) <= _KEPT_BYTES:
            return [rescale(image, S) for image in images]
    return images


def _plane(image: Pixels) -> Pixels:
    """One channel, H×W, of a grey image, which is rescaled sooner; any other as it is."""
    plane = image[:, :, 0]
    if (plane == image[:, :, 1]).all() and (plane == image[:, :, 2]).all():
        return np.ascontiguousarray(plane)
    return image


def _coloured(view: Pixels) -> Pixels:
    """H×W×3, of a plane too."""
    # On a flat array repeat is three times as fast as along a new axis.
    return view if view.ndim == 3 else np.repeat(view.reshape(-1), 3).reshape(*view.shape, 3)


def _in_memory(part: Part) -> bool:
    return not isinstance(part.images, EncodedImages)


def _rng(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    """Stream 0 of an epoch orders its images; stream i + 1 belongs to image i."""
    # Philox counts in the low words; the high ones keep the streams apart.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stream, epoch]))

"""From a request to the crops of a batch, in whatever process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.augment import ColourPCA, erased, jittered_side, random_flip, random_window
from vggnet.boxes import in_window, mirrored
from vggnet.errors import InputError
from vggnet.images import EncodedImage, Pixels, rescale, scaled_size
from vggnet.parts import Part
from vggnet.recipes import Scale
from vggnet.storage import EncodedImages

_KEPT_BYTES = 1 << 30
"""Images of a fixed S are rescaled once and kept where all of them take no more than this."""

Index = NDArray[np.int64]
_NOWHERE = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Request:
    """What a batch is made of, as it goes to a worker."""

    epoch: int
    indices: Index
    contents: list[bytes | InputError] | None
    """What the files hold, where the main process reads them in their order (tar shards)."""
    slot: int = 0
    """Which of the `Slots` a worker writes the crops to."""


@dataclass(frozen=True, slots=True)
class Written:
    """The rest of a batch, whose crops are written elsewhere."""

    shifts: NDArray[np.float32]
    labels: Index
    boxes: NDArray[np.float32]
    bad: tuple[tuple[int, str], ...]


class Slots:
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


class Crops(torch.utils.data.Dataset[tuple[int, Written]]):
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
        slots: Slots | None,
    ) -> None:
        self.images, self.pca, self.S, self.crop = images, pca, S, crop
        self.labels, self.boxes = part.labels, part.boxes
        # Of the whole images, since those in memory may be kept rescaled.
        self.shapes = [image.shape[:2] for image in part.images] if in_memory(part) else []
        self.flip, self.colour_shift, self.erase = flip, colour_shift, erase
        self.seed, self.slots = seed, slots

    def __getitem__(self, request: Request) -> tuple[int, Written]:
        assert self.slots is not None
        return request.slot, self.write(request, self.slots[request.slot])

    def write(self, request: Request, crops: Pixels) -> Written:
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
        return Written(shifted, self.labels[good], located, tuple(bad))

    def _view(
        self, index: int, epoch: int, content: bytes | InputError | None
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.float32]]:
        """The crop, its shift, and where the object is in it."""
        rng = rng_of(self.seed, epoch, index + 1)
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


def prepared(images: Sequence[Pixels], S: Scale) -> Sequence[Pixels]:  # noqa: N803
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


def in_memory(part: Part) -> bool:
    return not isinstance(part.images, EncodedImages)


def rng_of(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    """Stream 0 of an epoch orders its images; stream i + 1 belongs to image i."""
    # Philox counts in the low words; the high ones keep the streams apart.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stream, epoch]))

"""A picture in, an answer out: classes by a test protocol of §3.2, and where the net saw them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.evaluate import check_scales, combined, measure
from vggnet.images import EncodedImage, Pixels, scaled_size
from vggnet.inference import Fast, engine
from vggnet.model import VGG
from vggnet.passes import Measured, Net
from vggnet.protocols import Averaging, Method, Protocol, Term, single_scale
from vggnet.storage import EncodedImages, Names, Place, read, stamp

TOP = 5
CHUNK = 64
"""Pictures that are answered together."""
_CELL = 32
"""Pixels between neighbouring windows of the dense map."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The likeliest classes of a picture, the first one first."""

    labels: tuple[int, ...]
    names: tuple[str, ...]
    posteriors: tuple[float, ...]
    """0 to 1."""


class Predictor:
    """A net and a test protocol, ready to answer.

    Args:
        model: with a classifier; on a CPU a `VGG` is computed by `vggnet.fast`. What `vggnet.fast`
            gave serves several predictors.
        method, averaging: as for `evaluate.posteriors`.
        scales: smallest sides Q in pixels; by default the net's S, the middle of its range where it
            is jittered.
        flips: whether mirrored pictures count too; by default as in the net's training, and yes
            where that is not known. A centre crop has none.

    Raises:
        InputError: for a net without class scores or of other than three channels, or a protocol
            that cannot be.
    """

    def __init__(
        self,
        model: VGG | Fast,
        *,
        method: Method = "dense",
        scales: Sequence[int] | None = None,
        averaging: Averaging = "scores",
        flips: bool | None = None,
    ) -> None:
        config, known = model.config, model.provenance
        config.check_classes()
        if config.in_channels != 3:
            raise InputError(f"the net takes {config.in_channels} channels; pictures have 3")
        if scales is None:
            if known.S is None:
                raise InputError("the weights do not say their S: give --scales")
            scales = [single_scale(known.S)]
        if flips is None:
            flips = method != "centre-crop" and bool((known.recipe or {}).get("flip", True))
        self.protocol = Protocol(config.title, known.S, tuple(scales), method, averaging, flips)
        check_scales(config, self.protocol.Q)
        on_cpu = model.mean.device.type == "cpu"
        self.net: Net = engine(model) if on_cpu and isinstance(model, VGG) else model.eval()
        self.class_names = known.class_names or tuple(map(str, range(config.num_classes)))

    def posteriors(
        self, images: Sequence[Pixels], *, workers: int = 0
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        """n×K, NaN for pictures that cannot be read, and why they cannot, by index.

        Args:
            images: H×W×3 of uint8, RGB, of any sizes, in memory or in files.
            workers: processes that read files; 0 for this one.
        """
        bad: dict[int, str] = {}
        (found,) = measure(
            [self.net], images, [self.protocol.terms], workers=workers, on_bad=bad.__setitem__
        )
        return combined(found, self.protocol.terms).posteriors, bad

    def __call__(
        self, images: Sequence[Pixels], *, top: int = TOP, workers: int = 0
    ) -> Iterator[Answer | InputError]:
        """For each picture its likeliest classes, or why it cannot be read.

        Args:
            images: H×W×3 of uint8, RGB, of any sizes, in memory or in files.
            top: classes, 1 or more; all where there are not so many.
            workers: processes that read pictures.

        Raises:
            InputError: for a number that cannot be.
            RunError: when the net gives scores that are not finite.
        """
        if top < 1:
            raise InputError(f"top {top} is not 1 or more")
        for start in range(0, len(images), CHUNK):
            found, bad = self.posteriors(images[start : start + CHUNK], workers=workers)
            for i, row in enumerate(found):
                yield InputError(bad[i]) if i in bad else self.answer(row, top)

    def answer(self, posteriors: NDArray[np.float64], top: int = TOP) -> Answer:
        """The `top` likeliest classes of a row of posteriors, K values.

        Of equal ones the class of the lower index comes first, as in errors.
        """
        labels = np.argsort(-posteriors, kind="stable")[:top].tolist()
        names = tuple(self.class_names[label] for label in labels)
        return Answer(tuple(labels), names, tuple(posteriors[labels].tolist()))

    def views(self, image: EncodedImage) -> list[Pixels]:
        """The picture rescaled to each Q, for `of_views`."""
        return [image.rescaled(scale) for scale in self.protocol.Q]

    def of_views(self, pictures: Sequence[Sequence[Pixels]]) -> NDArray[np.float64]:
        """`posteriors` of pictures that are rescaled already: of each its `views`."""
        found: dict[Term, Measured] = {}
        for i, scale in enumerate(self.protocol.Q):
            terms = [term for term in self.protocol.terms if term.Q == scale]
            # An image of smallest side Q is not rescaled again.
            found |= measure([self.net], [views[i] for views in pictures], [terms])[0]
        return combined(found, self.protocol.terms).posteriors

    def pixels_through(self, height: int, width: int) -> int:
        """What a picture of this height and width in pixels costs: the pixels of all views that go
        through the net."""
        total = 0
        for term in self.protocol.terms:
            size = scaled_size(height, width, term.Q)
            seen = term.windows(*size, self.net.config.crop)
            total += sum(rows * columns for _, _, rows, columns in seen) * (1 + term.flips)
        return total

    def heat_map_scale(self, scale: int | None = None) -> int:
        """Q of heat maps: by default twice the crop, where a picture has some 8×8 windows.

        Raises:
            InputError: for a scale that cannot be, or a net that is not VGG's.
        """
        self.net.config.check_vgg("a heat map")
        scale = 2 * self.net.config.crop if scale is None else scale
        check_scales(self.net.config, [scale])
        return scale

    def heat_maps(
        self, view: Pixels, labels: Sequence[int], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Where the net sees classes: G×H×W, 0 to 1.

        The soft-max of each cell of the dense score map (§3.2), laid over the picture: at the
        middle of its window a pixel has the cell's posterior, in between the values are
        interpolated, and beyond the outermost middles they stay.

        Args:
            view: the picture rescaled to `heat_map_scale`, h×w×3 of uint8, RGB.
            labels: G classes.
            size: H and W of the maps, of the picture's proportions.
        """
        pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            scores = self.net.score_map(pixels.to(self.net.mean.device)).float().cpu()[0]
        cells = scores.softmax(0)[list(labels)].numpy()
        down = _weights(cells.shape[1], size[0], view.shape[0], self.net.config.crop)
        across = _weights(cells.shape[2], size[1], view.shape[1], self.net.config.crop)
        found: NDArray[np.float32] = (down @ cells @ across.T).astype(np.float32)
        return found


def _weights(cells: int, size: int, scaled: int, crop: int) -> NDArray[np.float64]:
    """By how much each cell counts for each pixel along a side: size×cells."""
    middles = _CELL * np.arange(cells) + crop / 2
    places = (np.arange(size) + 0.5) * scaled / size
    return np.stack([np.interp(places, middles, row) for row in np.eye(cells)], axis=1)


class Pictures(EncodedImages):
    """Pictures in files anywhere, or as bytes.

    Args:
        places: paths, URLs, or what a file holds.
        names: what to call each.
    """

    def __init__(self, places: Sequence[Place | bytes], names: Sequence[str]) -> None:
        self.places, self.names = list(places), Names.of(list(names))

    def where(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> bytes:
        place = self.places[index]
        return place if isinstance(place, bytes) else read(place)

    def subset(self, chosen: NDArray[np.int64]) -> "Pictures":
        return Pictures(
            [self.places[i] for i in chosen.tolist()], [self.names[i] for i in chosen.tolist()]
        )

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        for name, place in zip(self.names, self.places, strict=True):
            yield (name, len(place), 0) if isinstance(place, bytes) else (name, *stamp(place))

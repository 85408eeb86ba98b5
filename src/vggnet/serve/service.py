"""What the server computes: answers, heat maps, activations, scores of tensors."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vggnet.accounting import account
from vggnet.errors import InputError
from vggnet.images import FORMATS, EncodedImage, Pixels, scaled_size
from vggnet.inference import Fast, engine
from vggnet.model import VGG
from vggnet.predict import Answer, Predictor
from vggnet.protocols import Averaging, Method, multi_scale, single_scale

_RARE = ("DIB", "PPM", "JPEG2000")
"""What nobody uploads; every decoder less is one less that can have a hole."""
_FORMATS = tuple(name for name in FORMATS if name not in _RARE)
_HEAT_MAP_SIDES = 256, 512
"""Pixels of a heat map's longest side: at least, and at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    body: int = 32 << 20
    """Bytes of a request's body."""
    pixels: int = 50_000_000
    """Of a picture, before it is decoded."""
    work: int = 16_000_000
    """Pixels of all of a picture's views that go through the net; 320 crops of 224×224. Table 5's
    multi-crop & dense at three scales is about half of it."""
    pictures: int = 16
    """In one request."""
    seconds: float = 20
    """For a request's headers, and for its body, to arrive."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture, ready for the net."""

    views: list[Pixels]
    heat_view: Pixels | None
    """Rescaled for heat maps, where they are asked for."""
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, and the heat map of each of its classes where they are asked for."""

    answer: Answer
    heat_maps: list[str] | None


class Service:
    """A net, and everything that may be asked of it.

    Args:
        model: with a classifier.
        limits: what one request may ask for.

    Raises:
        InputError: for a net without class scores or of other than three channels.
    """

    def __init__(self, model: VGG, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.net: VGG | Fast = engine(model) if model.mean.device.type == "cpu" else model.eval()
        self.name = model.config.net
        S = model.provenance.S  # noqa: N806, the paper's name
        # Weights of other software may not say their S: the paper's proportion.
        self.S = S if S is not None else round(256 * model.config.crop / 224)
        self.layers = account(model.config).layers_json()
        """The walk through the net at its crop."""
        self.predictor = lru_cache(maxsize=64)(self._predictor)
        self.default = self.predictor("dense", None, "scores", None)

    def _predictor(
        self,
        method: Method,
        scales: tuple[int, ...] | None,
        averaging: Averaging,
        flips: bool | None,
    ) -> Predictor:
        return Predictor(
            self.net,
            method=method,
            scales=scales or [single_scale(self.S)],
            averaging=averaging,
            flips=flips,
        )

    @property
    def engine(self) -> str:
        return (
            self.net.engine if isinstance(self.net, Fast) else f"PyTorch on {self.net.mean.device}"
        )

    def warm_up(self, batch: int) -> None:
        """Transforms the weights and takes the buffers that requests need."""
        side = single_scale(self.S)
        view = np.zeros((side, side, 3), np.uint8)
        for pictures in dict.fromkeys((1, batch)):
            self.default.of_views([[view]] * pictures)

    # Pictures.

    def open(self, content: bytes, name: str, predictor: Predictor, *, heat: bool) -> Opened:
        """Decodes and rescales a picture, once it is known to be within the limits."""
        image = self._image(content, name)
        work = predictor.pixels_through(*image.shape)
        if heat:
            height, width = scaled_size(*image.shape, predictor.heat_map_scale())
            work += height * width
        self._check_work(name, image, work, predictor.protocol.how)
        views = predictor.views(image)
        heat_view = image.rescaled(predictor.heat_map_scale()) if heat else None
        return Opened(views, heat_view, image.shape)

    def _image(self, content: bytes, name: str) -> EncodedImage:
        return EncodedImage(content, name, formats=_FORMATS, most_pixels=self.limits.pixels)

    def _check_work(self, name: str, image: EncodedImage, work: int, how: str) -> None:
        if work > self.limits.work:
            height, width = image.shape
            raise InputError(
                f"{name}: {width}×{height} pixels by {how} are {work:,} pixels through the net; "
                f"at most {self.limits.work:,} are taken: use fewer or smaller scales, a smaller "
                "method, or a picture less long"
            )

    def answers(self, predictor: Predictor, top: int, opened: Sequence[Opened]) -> list[Seen]:
        """Of pictures that are asked about in the same way."""
        posteriors = predictor.of_views([one.views for one in opened])
        return [
            self._seen(predictor, predictor.answer(row, top), one)
            for one, row in zip(opened, posteriors, strict=True)
        ]

    def _seen(self, predictor: Predictor, answer: Answer, opened: Opened) -> Seen:
        if opened.heat_view is None:
            return Seen(answer, None)
        low, high = _HEAT_MAP_SIDES
        times = min(max(max(opened.shape), low), high) / max(opened.shape)
        height, width = (max(1, round(side * times)) for side in opened.shape)
        maps = predictor.heat_maps(opened.heat_view, answer.labels, (height, width))
        return Seen(answer, [png(values) for values in maps])

    # What layers show.

    def open_for_layer(self, content: bytes, name: str, layer: str) -> Opened:
        """A picture as the net's single scale has it.

        Raises:
            InputError: for a layer that `layers` does not list, or as `open`.
        """
        known = [row["name"] for row in self.layers]
        if layer not in known:
            raise InputError(f"layer {layer!r} is not known: take one of {', '.join(known)}")
        image = self._image(content, name)
        scale = single_scale(self.S)
        height, width = scaled_size(*image.shape, scale)
        self._check_work(name, image, height * width, "activations")
        return Opened([image.rescaled(scale)], None, image.shape)

    def activations(self, layer: str, opened: Sequence[Opened]) -> list[NDArray[np.float32]]:
        """C×h×w of each picture; of a layer that a ReLU follows, after it."""
        row = next(row for row in self.layers if row["name"] == layer)
        hidden = row["kind"] in ("conv", "bn") or layer in ("fc6", "fc7")
        # conv3_3 and bn3_3 are followed by relu3_3, fc6 by relu6.
        name = re.sub("conv|bn|fc", "relu", layer) if hidden else layer
        if name not in (one.name for one in self.model.config.layers()):
            name = layer  # one of the nets of `rivals.py` names it otherwise
        found = []
        for one in opened:
            view = torch.from_numpy(np.array(one.views[0])).permute(2, 0, 1)[None]
            with torch.inference_mode():
                maps = self.net.activations(view.to(self.net.mean.device), [name])[name]
            found.append(maps[0].float().cpu().contiguous().numpy())
        return found

    # Tensors.

    def scores(self, images: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
        """Scores of tensors of one size, N×3×H×W each: N×K each."""
        with torch.inference_mode():
            found = self.net(torch.cat(list(images)).to(self.net.mean.device)).float().cpu()
        return [part.numpy() for part in found.split([len(one) for one in images])]

    # For the page.

    def protocols(self) -> list[dict[str, Any]]:
        """What the page offers."""
        one = [single_scale(self.S)]
        three = [
            Q for Q in multi_scale(self.S, self.model.config.crop) if Q >= self.model.config.crop
        ]
        return [
            {"title": "centre crop", "method": "centre-crop", "scales": one},
            {"title": "dense", "method": "dense", "scales": one},
            {"title": "dense, several scales", "method": "dense", "scales": three},
            {
                "title": "multi-crop & dense, several scales",
                "method": "multi-crop+dense",
                "scales": three,
            },
        ]


def png(values: NDArray[np.float32]) -> str:
    """H×W, 0 to 1, as the URL of a grey PNG."""
    grey = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

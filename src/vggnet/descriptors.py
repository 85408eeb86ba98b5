"""Appendix B's descriptors: a vector for each image, from a frozen net.

A dense forward over the image at a smallest side Q, the last layer left out; the map averaged over
its places, and with the mirrored image's; several Q averaged, or stacked, and several nets stacked.
Each is normalised to length 1 before it is stacked, and so is the whole."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.configs import Config
from vggnet.datasets import open_dataset
from vggnet.distributed import World
from vggnet.errors import InputError, RunError
from vggnet.evaluate import check_scales
from vggnet.folders import ImageFiles, Tree, images_in
from vggnet.images import Pixels
from vggnet.index import PartName, part_of
from vggnet.inference import engine
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.readers import TestImages, Views
from vggnet.shards import is_sharded
from vggnet.storage import exists, place_of

Scales = Literal["average", "stack"]
CHUNK = 64
"""Images that are read and described together."""
_BATCH_PIXELS = 8 * 224 * 224
_ALONE = World()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done with an image."""

    scales: tuple[int, ...]
    """Q, smallest sides in pixels."""
    layer: str = "relu7"
    """Whose map is taken: of fc7 after its ReLU, as in the paper, or any other."""
    over_scales: Scales = "average"
    flips: bool = True
    """Whether the mirrored image counts too."""
    normalise: bool = True
    """To length 1."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("no test scales: give at least one")
        if self.over_scales not in get_args(Scales):
            raise InputError(f"over scales {self.over_scales!r}: take average or stack")


def describe(
    models: Sequence[VGG], images: Sequence[Pixels], recipe: Recipe, *, workers: int = 0
) -> Iterator[NDArray[np.float32] | InputError]:
    """A descriptor for each image, in their order, or why it cannot be read.

    Args:
        models: one or several; on a CPU they are computed by `vggnet.fast`.
        images: H×W×3 of uint8, RGB.
        recipe: what is done.
        workers: processes that read and rescale images; 0 for this one.

    Raises:
        InputError: for a scale below a net's crop, or a layer that a net does not have.
        RunError: where a net gives values that are not finite.
    """
    nets = [_Net(model, recipe) for model in models]
    views = iter(TestImages(images, recipe.scales, workers))
    with torch.inference_mode():
        for start in range(0, len(images), CHUNK):
            chunk = [next(views) for _ in range(min(CHUNK, len(images) - start))]
            yield from _described(nets, chunk, recipe)


def length(models: Sequence[VGG], recipe: Recipe) -> int:
    """Of a descriptor."""
    widths = sum(_Net(model, recipe, fast=False).width for model in models)
    return widths * (len(recipe.scales) if recipe.over_scales == "stack" else 1)


def width(config: Config, layer: str) -> int:
    """Channels of a layer that `VGG.activations` knows."""
    named = {one.name: one.out_channels for one in config.layers()}
    return named.get(layer, config.num_classes)  # `scores` is none of the net's layers


class _Net:
    """A net, and the layer that is taken of it."""

    def __init__(self, model: VGG, recipe: Recipe, *, fast: bool = True) -> None:
        check_scales(model.config, recipe.scales)
        model.known_layers([recipe.layer])
        # A GPU's fast engine rounds to bfloat16.
        on_cpu = model.mean.device.type == "cpu"
        self.model = engine(model) if fast and on_cpu else model.eval()
        self.layer, self.device = recipe.layer, model.mean.device
        self.width = width(model.config, recipe.layer)

    def __call__(self, images: Tensor) -> Tensor:
        """The layer's values averaged over its map: N×C."""
        found = self.model.activations(images.to(self.device), [self.layer])[self.layer].float()
        return found.flatten(2).mean(2).cpu() if found.dim() == 4 else found.cpu()


def _described(
    nets: Sequence[_Net], chunk: list[Views | InputError], recipe: Recipe
) -> Iterator[NDArray[np.float32] | InputError]:
    widths = [net.width for net in nets]
    found = torch.zeros(len(chunk), len(recipe.scales), sum(widths))
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, views in enumerate(chunk):
        if not isinstance(views, InputError):
            for scale, view in enumerate(views):
                groups[view.shape].append((i, scale))
    for shape, group in groups.items():
        together = max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
        for first in range(0, len(group), together):
            places = group[first : first + together]
            stacked = np.stack([_view(chunk, place) for place in places])
            images = torch.from_numpy(stacked).permute(0, 3, 1, 2)
            values = torch.cat([net(images) for net in nets], dim=1)
            if recipe.flips:
                mirrored = torch.cat([net(images.flip(3)) for net in nets], dim=1)
                values = (values + mirrored) / 2
            for (i, scale), value in zip(places, values, strict=True):
                found[i, scale] = value
    if not found.isfinite().all():
        raise RunError("the net's values are not finite: its weights are damaged or diverged")
    for views, of_scales in zip(chunk, found, strict=True):
        yield views if isinstance(views, InputError) else _combined(of_scales, widths, recipe)


def _view(chunk: list[Views | InputError], place: tuple[int, int]) -> Pixels:
    views = chunk[place[0]]
    assert not isinstance(views, InputError)
    return views[place[1]]


def _combined(values: Tensor, widths: list[int], recipe: Recipe) -> NDArray[np.float32]:
    """From one image's values, scales × all nets' channels, to its descriptor."""

    def unit(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1) if recipe.normalise else x

    if recipe.over_scales == "average":
        values = values.mean(0, keepdim=True)
    parts = [unit(part) for part in torch.split(values, widths, dim=1)]
    whole: NDArray[np.float32] = unit(torch.cat(parts, dim=1).flatten()).numpy()
    return whole


def images_of(spec: str, part: PartName | None) -> Part:
    """What to describe: every image of a folder, or a part of a data set.

    Args:
        spec: the path or URL of a folder, whose images are taken with those of the folders in it,
            sorted by name; or with `part` a data set as `open_dataset` has it.
        part: then the labels are known.

    Raises:
        InputError: where there is none, or no images.
    """
    root = place_of(spec)
    if part is None and exists(root) and not is_sharded(root):
        names = sorted(name.removeprefix("./") for name in images_in(Tree(root), "."))
        if not names:
            raise InputError(f"{spec}: has no images in it")
        files = ImageFiles(root, names)
        return Part(files, np.full(len(names), -1, np.int64), files.names)
    data = open_dataset(spec)
    if part is None:
        raise InputError(f"{spec}: give --part train, validation or test")
    return part_of(data, part)

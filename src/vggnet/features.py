"""Named activations, and the losses that compare images by them.

Images are RGB; pre-processing is the net's own. A loss keeps the net without fc6 to fc8 where no
layer asks for them, frozen and in evaluation mode.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from vggnet.configs import HEAD
from vggnet.errors import InputError
from vggnet.files import existing
from vggnet.formats.torchfile import read_state
from vggnet.inference import Fast
from vggnet.model import VGG

Layers = Sequence[str] | Mapping[str, float]
"""Names of layers, each of weight 1, or weights by name."""

CONTENT = {"relu3_3": 1.0}
"""Johnson et al. 2016 (arXiv:1603.08155) in style transfer; in super-resolution it is relu2_2."""
STYLE = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
"""Johnson et al. 2016."""
GATYS_CONTENT = {"relu4_2": 1.0}
"""Gatys et al. 2016 (CVPR), of net E."""
GATYS_STYLE = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 0.05)
"""Gatys et al. 2016: 1/5 a layer, times the 1/4 of its equation 4."""
LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""Zhang et al. 2018 (arXiv:1801.03924), of net D."""
_EPS = 1e-10
"""In LPIPS' division by a feature's length, as in its authors' code."""


def activations(model: VGG | Fast, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Named outputs of one forward, which ends at the last of them.

    With a `VGG` they carry gradients, to the images too. No layer behind the last one is touched:
    a net loaded by `vggnet.load(path, head=False)` has not even the memory for them.

    Args:
        model: a net, or what `vggnet.fast` makes of it.
        images: N×3×H×W, RGB 0–255, uint8 or float; H and W 32 or more, for fc6 and what
            follows the crop or more.
        names: `conv3_3` before the ReLU, `relu3_3` after it, `pool5`, `fc7`, …; `fc8` is the score
            map and `scores` its average.

    Returns:
        By name, in the order of `names`: N×C×h×w each, `scores` N×K.

    Raises:
        InputError: for a name that the net does not have, or images that it does not take.
    """
    return model.activations(images, names)


def gram(maps: Tensor) -> Tensor:
    """ψψᵀ/(C·h·w) of a map as a matrix ψ of C rows (Johnson et al. 2016, equation 3).

    Computed in float32 at least, under autocast too: sums of h·w products overflow in float16.

    Args:
        maps: N×C×h×w.

    Returns:
        N×C×C.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows = _wide(maps).flatten(2)
        return rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])


class _Loss(nn.Module):
    """What compares two batches of images by a net's layers.

    Args:
        model: see `_frozen`.
        layers: names, or weights by name.
        data_range: what white is in the images, 1 or 255.
    """

    def __init__(self, model: VGG, layers: Layers, data_range: Literal[1, 255]) -> None:
        super().__init__()
        if data_range not in (1, 255):
            raise InputError(f"data_range {data_range!r} is neither 1 (RGB 0–1) nor 255")
        self.net = _frozen(model, layers)
        self.weights = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"layer {name}: its weight {weight} is not a number of 0 or more")
        self.data_range = data_range
        self._checked = False

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.net.eval()
        return self

    def extra_repr(self) -> str:
        return f"{self.weights}, data_range={self.data_range}"

    def _check(self, images: Tensor, target: Tensor) -> None:
        """Once: reading extremes makes the processor wait for a GPU, and a compiler give up."""
        if torch.compiler.is_compiling() or self._checked:
            return
        # What is optimised may leave the range on its way; what it is compared with may not.
        _check_range("images", images, self.data_range, slack=9)
        _check_range("target", target, self.data_range, slack=0.5)
        self._checked = True

    def _activations(self, images: Tensor) -> dict[str, Tensor]:
        return self.net.activations(_wide(images) * (255 / self.data_range), self.weights)


class PerceptualLoss(_Loss):
    """Feature reconstruction: the mean squared difference of activations.

    Johnson et al. 2016 (arXiv:1603.08155), equation 2: (1/(C·h·w))·‖φ(x) - φ(y)‖² for each layer,
    times its weight, summed over the layers and averaged over the batch.

    Args:
        model: its weights' memory is shared and stays as trainable as it was; here they are frozen.
        layers: names, each of weight 1, or weights by name; by default relu3_3.
        data_range: what white is: 1 for RGB 0–1, 255 for RGB 0–255. The first call checks it
            (a compiled one does not).

    Raises:
        InputError: for an unknown layer, another range, or a model that gives no gradients.

    Example:
        >>> loss = PerceptualLoss(model, ["relu2_2", "relu3_3"])
        >>> loss(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    """

    def __init__(
        self, model: VGG, layers: Layers = CONTENT, *, data_range: Literal[1, 255] = 1
    ) -> None:
        super().__init__(model, layers, data_range)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """A scalar, float32 at least.

        Args:
            images: N×3×H×W, H and W 32 or more; gradients go to them.
            target: of the same shape; no gradient goes to it.

        Raises:
            InputError: for shapes that differ, or at the first call values of another range.
        """
        _check_shapes(images, target)
        self._check(images, target)
        found = self._activations(images)
        with torch.no_grad():
            wanted = self._activations(target)
        return _total(
            weight * (_wide(found[name]) - _wide(wanted[name])).square().mean()
            for name, weight in self.weights.items()
        )


class StyleLoss(_Loss):
    """Style reconstruction: the squared Frobenius distance of Gram matrices.

    Johnson et al. 2016, equation 4: ‖G(x) - G(y)‖² for each layer, `gram` giving G, times its
    weight, summed over the layers and averaged over the batch. With `layers=GATYS_STYLE` it is
    Gatys et al. 2016, equations 4 and 5.

    Args:
        model, data_range: as for `PerceptualLoss`.
        layers: by default relu1_2, relu2_2, relu3_3 and relu4_3.

    Raises:
        InputError: as `PerceptualLoss`.
    """

    def __init__(
        self, model: VGG, layers: Layers = STYLE, *, data_range: Literal[1, 255] = 1
    ) -> None:
        super().__init__(model, layers, data_range)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """A scalar, float32 at least.

        Args:
            images: N×3×H×W, H and W 32 or more; gradients go to them.
            target: N or 1 pictures of any such size; no gradient goes to them.

        Raises:
            InputError: for other numbers of pictures, or at the first call values of another range.
        """
        if len(target) not in (1, len(images)):
            raise InputError(f"{len(target)} targets for {len(images)} images: give as many, or 1")
        self._check(images, target)
        found = self._activations(images)
        with torch.no_grad():
            wanted = self._activations(target)
        return _total(
            weight * (gram(found[name]) - gram(wanted[name])).square().sum((1, 2)).mean()
            for name, weight in self.weights.items()
        )


class LPIPS(_Loss):
    """The learned distance of Zhang et al. 2018 (arXiv:1801.03924), equation 1, of net D.

    Activations of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, each of length 1 over its
    channels; their squared differences, weighted by channel, averaged over the map and summed.

    The published linear weights were fitted to torchvision's vgg16 and are meaningless with other
    weights: `vggnet.load` of that file carries the mean and the deviation by which it normalises,
    which are those that the lpips package applies to its images from -1 to 1.

    Args:
        model: torchvision's vgg16.
        linear: path of the lpips package's `weights/v0.1/vgg.pth` (BSD-2-Clause); by default that
            of the installed package.
        data_range: as for `PerceptualLoss`.

    Raises:
        InputError: for another net than D, without the file, or for one that holds other weights.
    """

    def __init__(
        self,
        model: VGG,
        linear: str | Path | None = None,
        *,
        data_range: Literal[1, 255] = 1,
    ) -> None:
        super().__init__(model, LPIPS_LAYERS, data_range)
        if self.net.config.title != "D":
            raise InputError(f"LPIPS' weights are net D's; this is net {self.net.config.title}")
        for name, weight in _linear(self.net, linear).items():
            self.register_buffer(f"linear_{name}", weight)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """A distance for each pair: N, 0 for equal images, float32 at least.

        Args:
            images: N×3×H×W, H and W 32 or more.
            target: of the same shape; gradients go to both.

        Raises:
            InputError: as `PerceptualLoss.forward`.
        """
        _check_shapes(images, target)
        self._check(images, target)
        one, other = self._activations(images), self._activations(target)
        return _total(
            (_unit(one[name]) - _unit(other[name]))
            .square()
            .mul(self.get_buffer(f"linear_{name}"))
            .sum(1)
            .mean((1, 2))
            for name in self.weights
        )


def _frozen(model: VGG, layers: Layers) -> VGG:
    """A net of the same weights, in the same memory, that is never trained.

    Without fc6 to fc8 unless one of `layers` is there.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(model, VGG):
        raise InputError(
            f"a loss takes a VGG, not a {type(model).__name__}: give the model that it was made of"
        )
    names = model.known_layers(layers)
    if not names:
        raise InputError("layers is empty: name one, such as relu3_3")
    head = not set(names).isdisjoint(HEAD)
    with torch.device("meta"):
        net = VGG(replace(model.config, head=head), model._mean_values)
    state = {k: v for k, v in model.state_dict().items() if head or not k.startswith("fc")}
    net.load_state_dict(state, assign=True)
    return net.requires_grad_(False).eval()


def _linear(net: VGG, path: str | Path | None) -> dict[str, Tensor]:
    """LPIPS' weights by layer, C×1×1 each."""
    if path is None:
        package = importlib.util.find_spec("lpips")
        if package is None or package.origin is None:
            raise InputError(
                "LPIPS needs its linear weights: give the path of the lpips package's "
                "weights/v0.1/vgg.pth, or pip install lpips"
            )
        path = Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth"
    path = existing(Path(path))
    found = read_state(path)
    channels = {layer.name: layer.out_channels for layer in net.config.layers()}
    wanted = {
        f"lin{i}.model.1.weight": (1, channels[name], 1, 1) for i, name in enumerate(LPIPS_LAYERS)
    }
    if (shapes := {key: tuple(value.shape) for key, value in found.items()}) != wanted:
        raise InputError(f"{path}: holds {shapes}, not LPIPS' weights for net D: {wanted}")
    if not all(value.isfinite().all() for value in found.values()):
        raise InputError(f"{path}: has values that are not finite: the file is damaged")
    return {name: found[key][0].float() for name, key in zip(LPIPS_LAYERS, wanted, strict=True)}


def _unit(maps: Tensor) -> Tensor:
    """Of length 1 over the channels; where all are 0 they stay so, and so does the gradient."""
    maps = _wide(maps)
    length: Tensor = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return maps / (length + _EPS)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(terms)).sum(0)


def _check_shapes(images: Tensor, target: Tensor) -> None:
    for what, given in (("images", images), ("the target", target)):
        if not isinstance(given, Tensor):
            raise InputError(f"{what} is a {type(given).__name__}: give a tensor, N×3×H×W")
    if images.shape != target.shape:
        raise InputError(
            f"images are {tuple(images.shape)}, the target is {tuple(target.shape)}: rescale one"
        )


def _check_range(what: str, images: Tensor, white: int, slack: float) -> None:
    """Raises InputError for values outside 0 to white by more than `slack` times white, and for
    floats that end at 1 where white is 255."""
    low, high = (float(x) for x in images.detach().aminmax())
    fits = -slack * white <= low and high <= (1 + slack) * white
    if white == 255 and images.is_floating_point():
        fits = fits and (high > 1 or low == high == 0)
    if not fits:
        other = 255 if white == 1 else 1
        raise InputError(
            f"{what}: values from {low:g} to {high:g} are not RGB 0–{white}, as data_range={white} "
            f"says: rescale them, or declare 0–{other} by data_range={other}"
        )

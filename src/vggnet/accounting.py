"""What a net costs, from its configuration: shapes, parameters, multiply-adds, receptive fields.

Nothing here imports PyTorch or builds a module, so the tests can hold the two against each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.layers import Layer


@dataclass(frozen=True, slots=True)
class LayerAccount:
    """One row of the walk through a net, for one image."""

    name: str
    kind: str
    output: tuple[int, int, int]
    """Channels, height, width."""
    activations: int
    """Values in the output."""
    parameters: int
    """Weights and biases (for batch normalisation: scales and shifts)."""
    weights: int
    """Without biases, as the lecture slides count."""
    multiply_adds: int
    """Of convolutions and fully connected layers; bias, ReLU, LRN and pooling count as none."""
    receptive_field: int
    """Side in pixels of the square of the image that one output value depends on at most."""
    stride: int
    """Pixels of the image between neighbouring output values."""


@dataclass(frozen=True, slots=True)
class Account:
    """A net's costs on one image of `size` pixels."""

    config: Config
    size: tuple[int, int]
    layers: tuple[LayerAccount, ...]
    """Convolutions, normalisations, poolings and fully connected layers. Table 1 leaves out the
    ReLUs, and so does this list."""
    sides: tuple[LayerAccount, ...] = ()
    """The same of the classifiers that a net has at its side in training (GoogLeNet's): they are in
    `training_memory` alone."""

    @property
    def parameters(self) -> int:
        """Table 2's number, in units instead of millions."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Values in the outputs of all listed layers, the image not among them."""
        return sum(layer.activations for layer in self.layers)

    def receptive_field(self, name: str) -> int:
        """Receptive field in pixels of the named layer.

        Raises:
            InputError: for a name that is not among `layers`.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer.receptive_field
        known = ", ".join(layer.name for layer in self.layers)
        raise InputError(f"net {self.config.net} lists no layer {name!r}: it lists {known}")

    def training_memory(self, batch: int) -> dict[str, int]:
        """Bytes that a float32 training step on `batch` images of this size needs.

        Of Table 7's other nets, with the classifiers at their sides.

        `parameters`, `gradients`, `momentum`: 4 bytes a parameter each. `kept`: what the backward
        pass needs of the forward pass: the image after mean subtraction, every layer's output
        after its ReLU (written over the layer's own output, so counted once), the second copy
        that batch normalisation or LRN makes (three for LRN), pooling's outputs with their
        8-byte indices, what is inside of an inception module, and dropout's output and mask.
        `passing`: the gradients that the backward
        pass holds at its widest, those of the input and output of the largest layer. Work space
        of the convolutions comes on top and depends on the library.
        """
        if batch < 1:
            raise InputError(f"batch {batch} is not 1 or more")
        config, image = self.config, self.config.in_channels * self.size[0] * self.size[1]
        # Scores, at the ends, go into the loss.
        lines = [config.layers()[:-1] if config.head else config.layers()]
        lines += [layers[:-1] for layers in config.sides().values()]
        rows = {row.name: row for row in (*self.layers, *self.sides)}
        kept = [_kept(layers, rows, config.dropout) for layers in lines]
        values, eight_byte = image + sum(v for v, _ in kept), sum(i for _, i in kept)
        parameters = sum(row.parameters for row in rows.values())
        parts = dict.fromkeys(("parameters", "gradients", "momentum"), 4 * parameters)
        parts["kept"] = batch * (4 * values + 8 * eight_byte)
        parts["passing"] = batch * 2 * 4 * max(layer.activations for layer in self.layers)
        parts["total"] = sum(parts.values())
        return parts

    def to_json(self) -> dict[str, Any]:
        """The totals, as `vggnet info --json` prints them."""
        return {
            "weight_layers": self.config.weight_layers,
            "parameters": self.parameters,
            "weights": self.weights,
            "multiply_adds": self.multiply_adds,
            "activations": self.activations,
            "receptive_field": {
                layer.name: layer.receptive_field
                for layer in self.layers
                if layer.name in ("pool5", "spp", "fc6")
            },
        }

    def layers_json(self) -> list[dict[str, Any]]:
        """The walk, layer by layer, as `vggnet info D --json` prints it."""
        return [asdict(layer) for layer in self.layers]


def account(config: Config, size: tuple[int, int] | None = None) -> Account:
    """Walks through the net of a config on an image of `size` (height, width) pixels; of the crop's
    size if none is given.

    Raises:
        InputError: when the size is smaller than the crop.
    """
    height, width = size or (config.crop, config.crop)
    if min(height, width) < config.crop:
        raise InputError(f"size {height}×{width} is smaller than the net's crop {config.crop}")
    rows = tuple(_walk(config.layers(), height, width))
    sides: list[LayerAccount] = []
    for at, layers in config.sides().items():
        (start,) = (row for row in rows if row.name == at)
        sides += _walk(layers, *start.output[1:], start.receptive_field, start.stride)
    return Account(config, (height, width), rows, tuple(sides))


def _walk(
    layers: Iterable[Layer], height: int, width: int, field: int = 1, stride: int = 1
) -> Iterator[LayerAccount]:
    """From a map of this size, whose values see so much of the image, so far apart."""
    for layer in layers:
        k, inputs, outputs = layer.kernel, layer.in_channels, layer.out_channels
        weights = biases = 0
        if layer.kind in ("relu", "dropout"):
            continue
        if layer.kind == "bn":
            biases = 2 * outputs
        elif layer.kind == "pyramid":  # a bin of its coarsest level sees the whole map
            field += (max(height, width) - 1) * stride
            height = width = 1
        elif layer.kind == "inception":
            assert layer.inception is not None
            for c_in, c_out, kernel in layer.inception.convolutions(inputs).values():
                weights, biases = weights + kernel * kernel * c_in * c_out, biases + c_out
            field += (5 - 1) * stride
        elif layer.kind != "lrn":
            if layer.kind in ("conv", "fc"):
                weights, biases = k * k * inputs * outputs // layer.groups, outputs
            field += (k - 1) * stride
            stride *= layer.stride
            height, width = layer.side(height), layer.side(width)
        yield LayerAccount(
            name=layer.name,
            kind=layer.kind,
            output=(outputs, height, width),
            activations=outputs * height * width,
            parameters=weights + biases,
            weights=weights,
            multiply_adds=weights * height * width,
            receptive_field=field,
            stride=stride,
        )


def _kept(
    layers: Iterable[Layer], rows: Mapping[str, LayerAccount], dropout: float
) -> tuple[int, int]:
    """Values that the backward pass needs of these layers' forward pass, and 8-byte indices."""
    values = indices = size = 0
    for layer in layers:
        if layer.kind == "relu":  # is written over its input
            continue
        if layer.kind == "dropout":
            values += 2 * size * bool(dropout if layer.rate is None else layer.rate)
            continue
        row = rows[layer.name]
        size = row.activations
        values += size * (4 if layer.kind == "lrn" else 1)
        if layer.kind in ("pool", "pyramid"):
            indices += size
        elif layer.inception is not None:  # what its 3×3 and 5×5 take, and its pooling gives
            reduced = layer.inception.three_reduce + layer.inception.five_reduce
            area = row.output[1] * row.output[2]
            values += (reduced + layer.in_channels) * area
            indices += layer.in_channels * area
    return values, indices


@dataclass(frozen=True, slots=True)
class KernelRow:
    """A stack of small convolutions against the one large kernel that sees as far (§2.3)."""

    stack: str
    single: str
    stack_weights: int
    single_weights: int

    @property
    def excess_percent(self) -> float:
        """By how much the single kernel has more weights than the stack."""
        return 100 * (self.single_weights / self.stack_weights - 1)


def kernel_arithmetic(channels: int = 1) -> list[KernelRow]:
    """§2.3 with `channels` in and out of every layer: two 3×3 see 5×5, three see 7×7.

    Three 3×3 layers have 27·C² weights, one 7×7 layer 49·C²: 81 % more.
    """
    return [_row(depth, channels, channels) for depth in (2, 3)]


def first_layer_arithmetic(in_channels: int = 3, channels: int = 64) -> list[KernelRow]:
    """The lecture slides' count for a first layer, 3 channels in and 64 out.

    The slides count each stacked layer at 3×3×3×64, as if each saw the image: 3,456 against 4,800,
    and 5,184 against 9,408. (In a real stack, the second layer has 64 channels in.)
    """
    return [_row(depth, in_channels, channels) for depth in (2, 3)]


def _row(depth: int, inputs: int, outputs: int) -> KernelRow:
    side = 2 * depth + 1  # each 3×3 adds 2 to the receptive field
    return KernelRow(
        stack=f"{depth} × 3×3",
        single=f"{side}×{side}",
        stack_weights=depth * 9 * inputs * outputs,
        single_weights=side * side * inputs * outputs,
    )

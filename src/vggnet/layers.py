"""What nets are lines of: a layer's sizes, and how they change the size of a map.

Nothing here imports PyTorch; `modules` has what computes them.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "bn", "relu", "lrn", "pool", "fc", "dropout", "mean", "inception", "pyramid"]
"""The last three are of the nets in `rivals.py`: mean pooling, GoogLeNet's module, and spatial
pyramid pooling."""


@dataclass(frozen=True, slots=True)
class LRN:
    """Local response normalisation over channels, with Krizhevsky's constants (§2.1, net A-LRN)."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0


@dataclass(frozen=True, slots=True)
class Inception:
    """GoogLeNet's module (Szegedy et al. 2014, Fig. 2b): channels of its four branches, which are
    concatenated in this order. All keep the size; a ReLU follows every convolution."""

    one: int
    """1×1."""
    three_reduce: int
    """1×1 before the 3×3."""
    three: int
    five_reduce: int
    """1×1 before the 5×5."""
    five: int
    projection: int
    """1×1 after a 3×3 max-pooling of stride 1."""

    @property
    def channels(self) -> int:
        return self.one + self.three + self.five + self.projection

    def convolutions(self, inputs: int) -> dict[str, tuple[int, int, int]]:
        """Each one's channels in, channels out and kernel."""
        return {
            "one": (inputs, self.one, 1),
            "three_reduce": (inputs, self.three_reduce, 1),
            "three": (self.three_reduce, self.three, 3),
            "five_reduce": (inputs, self.five_reduce, 1),
            "five": (self.five_reduce, self.five, 5),
            "projection": (inputs, self.projection, 1),
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a net, in the order of execution; `name` is the literature's."""

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    kernel: int = 1
    lrn: LRN | None = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    ceil: bool = False
    """Whether a last window that is not whole counts."""
    rate: float | None = None
    """Of dropout, where it is not the config's."""
    inception: Inception | None = None
    pyramid: tuple[int, ...] = ()
    """Spatial pyramid pooling: bins a side of each level."""

    def side(self, side: int) -> int:
        """The side of the output for an input of this side; below 1 where it is too small."""
        if self.pyramid:
            return min(side, 1)
        free = side + 2 * self.padding - self.kernel
        return (-(-free // self.stride) if self.ceil else free // self.stride) + 1

"""The nets as data: Table 1 of the paper, the 5×5 ablation of §4.1, and the options of a net.

Nothing here imports PyTorch: `vggnet info` and the accounting read the same data as the model.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from operator import index
from typing import Literal, get_args

from vggnet.errors import InputError
from vggnet.layers import LRN, Kind, Layer


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of stride 1, zero-padded so that it keeps the size (§2.1), and its ReLU."""

    channels: int
    kernel: int = 3


Stage = tuple[Conv | LRN, ...]


def _3(*channels: int) -> Stage:
    """3×3 convolutions of these many channels: `conv3-64` in Table 1 is `_3(64)`."""
    return tuple(Conv(c, 3) for c in channels)


def _1(*channels: int) -> Stage:
    return tuple(Conv(c, 1) for c in channels)


def _5(*channels: int) -> Stage:
    return tuple(Conv(c, 5) for c in channels)


# Table 1. Each tuple is a stage; a 2×2 max-pooling of stride 2 follows each of the five.
# After the last come FC-4096, FC-4096, FC-classes; a ReLU follows every layer but the last.
NETS: dict[str, tuple[Stage, Stage, Stage, Stage, Stage]] = {
    "A": (
        _3(64),
        _3(128),
        _3(256, 256),
        _3(512, 512),
        _3(512, 512),
    ),
    "A-LRN": (
        (*_3(64), LRN()),
        _3(128),
        _3(256, 256),
        _3(512, 512),
        _3(512, 512),
    ),
    "B": (
        _3(64, 64),
        _3(128, 128),
        _3(256, 256),
        _3(512, 512),
        _3(512, 512),
    ),
    "C": (
        _3(64, 64),
        _3(128, 128),
        _3(256, 256) + _1(256),
        _3(512, 512) + _1(512),
        _3(512, 512) + _1(512),
    ),
    "D": (
        _3(64, 64),
        _3(128, 128),
        _3(256, 256, 256),
        _3(512, 512, 512),
        _3(512, 512, 512),
    ),
    "E": (
        _3(64, 64),
        _3(128, 128),
        _3(256, 256, 256, 256),
        _3(512, 512, 512, 512),
        _3(512, 512, 512, 512),
    ),
    # Not in Table 1: §4.1 compares B with this net, where one 5×5 stands for each pair of 3×3.
    "B-5x5": (
        _5(64),
        _5(128),
        _5(256),
        _5(512),
        _5(512),
    ),
}
TABLE_1 = ("A", "A-LRN", "B", "C", "D", "E")

FC_CHANNELS = 4096
HEAD = ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8", "scores")
"""What comes after pool5."""
MINIMUM = 32
"""Smallest side in pixels of an image that five poolings leave anything of."""
_OTHER_NAMES = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}

Boxes = Literal["scr", "pcr"]
"""A box for all classes (single-class regression), or one for each (per-class regression)."""


@dataclass(frozen=True, slots=True)
class Config:
    """A net and its options; everything that decides the shapes of its weights and its function.

    Raises:
        InputError: on a value that makes no net; it names the value and the remedy.
    """

    net: str
    """A, A-LRN, B, C, D, E (Table 1) or B-5x5 (§4.1); in `rivals.Rival` one of Table 7's others."""
    num_classes: int = 1000
    """Number of classes: the channels of fc8, unless it gives boxes."""
    in_channels: int = 3
    """Channels of the image; 3 is RGB."""
    crop: int = 224
    """Side in pixels of the square crop that the net trains on: a multiple of 32."""
    width: float = 1.0
    """Multiplies the channels of every layer but the last; 1 is the paper's."""
    dropout: float = 0.5
    """Probability of dropping a value after fc6 and fc7 in training (§3.1)."""
    batch_norm: bool = False
    """Batch normalisation after every convolution. A departure: the paper has none."""
    lrn: Literal["krizhevsky", "caffe"] = "krizhevsky"
    """A-LRN's formula: alpha times the sum of squares (Krizhevsky), or times their mean (Caffe)."""
    head: bool = True
    """Whether fc6, fc7 and fc8 follow pool5. Without them the net gives activations, no scores:
    what files of weights without a classifier hold."""
    boxes: Boxes | None = None
    """Appendix A: fc8 gives no class scores but a box, four numbers: scr, one for all classes; pcr,
    one for each class."""

    def __post_init__(self) -> None:
        self.check_net()
        for name in ("num_classes", "in_channels", "crop"):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
                raise InputError(f"{name} {value!r} is not a whole number of 1 or more")
            object.__setattr__(self, name, index(value))  # NumPy's integers become Python's
        if not _is_number(self.width) or not 0 < self.width <= 16:
            raise InputError(f"width {self.width!r} is not a number above 0 and up to 16")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise InputError(f"dropout {self.dropout!r} is not a probability from 0 to below 1")
        if not isinstance(self.batch_norm, bool):
            raise InputError(f"batch_norm {self.batch_norm!r} is neither True nor False")
        if not isinstance(self.head, bool):
            raise InputError(f"head {self.head!r} is neither True nor False")
        if self.lrn not in ("krizhevsky", "caffe"):
            raise InputError(f"lrn {self.lrn!r} is not known: take 'krizhevsky' or 'caffe'")
        if self.boxes not in (None, *get_args(Boxes)):
            raise InputError(f"boxes {self.boxes!r} is not known: take scr, pcr or None")
        self.check_crop()

    def check_net(self) -> None:
        """Raises InputError for a net that there is not."""
        if self.net not in NETS:
            raise InputError(f"unknown net {self.net!r}: {_suggest(self.net)}")

    def check_crop(self) -> None:
        """Raises InputError for a crop that the net cannot be made for."""
        if self.crop % 32:
            low = self.crop // 32 * 32
            near = f"{low} or {low + 32}" if low else "32"
            raise InputError(
                f"crop {self.crop} is not a multiple of 32 (five poolings halve it five times): "
                f"take {near}"
            )

    @property
    def is_vgg(self) -> bool:
        """Whether it is of the family that kernels, exports and formats are made for; else it is
        one that the paper compares itself with (`rivals.py`)."""
        return True

    @property
    def minimum(self) -> int:
        """Smallest side in pixels of an image that the layers before the head take."""
        return MINIMUM

    def sides(self) -> dict[str, tuple[Layer, ...]]:
        """Classifiers that only training uses, by the layer that they look at; VGG has none."""
        return {}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages as Table 1 gives them, before the width is applied."""
        return NETS[self.net]

    @property
    def title(self) -> str:
        """The net's name in tables and protocols: D, or D-BN where it departs from the paper."""
        return f"{self.net}-BN" if self.batch_norm else self.net

    @property
    def outputs(self) -> int:
        """Channels of fc8."""
        if self.boxes is None:
            return self.num_classes
        return 4 if self.boxes == "scr" else 4 * self.num_classes

    def check_head(self) -> None:
        """Raises InputError for a net without its classifier."""
        if not self.head:
            raise InputError(
                f"net {self.title} is without its classifier (fc6, fc7 and fc8): it gives "
                "activations and no scores; fine-tune it, or take weights with a classifier"
            )

    def check_classes(self) -> None:
        """Raises InputError for a net that gives no class scores."""
        self.check_head()
        if self.boxes is not None:
            raise InputError(
                f"net {self.title} gives boxes ({self.boxes}), no classes: it is for vggnet "
                "localize; take weights of a classifier"
            )

    def check_vgg(self, what: str) -> None:
        """Raises InputError for a net of `rivals.py`, where what is asked for is for VGG alone."""
        if not self.is_vgg:
            raise InputError(f"net {self.net} is no VGG, and {what} is for VGG's nets alone")

    @property
    def weight_layers(self) -> int:
        """The number Table 1 heads a net with: convolutions and fully connected layers."""
        depth = {"conv": 1, "fc": 1, "inception": 2}
        return sum(depth.get(layer.kind, 0) for layer in self.layers())

    def channels(self, paper: int) -> int:
        """The channels of a layer that has `paper` of them at width 1; at least 1."""
        return max(1, round(paper * self.width))

    def layers(self) -> tuple[Layer, ...]:
        """Every step in order: `conv1_1`, `relu1_1`, …, `pool5`, `fc6`, `relu6`, `drop6`, …, `fc8`;
        without the head up to `pool5`.

        A ReLU, an LRN or a batch normalisation bears the numbers of the convolution before it.
        fc6 sees a window of crop/32 × crop/32 of pool5; fc7 and fc8 see one cell.
        """
        layers: list[Layer] = []
        channels = self.in_channels

        def add(
            name: str, kind: Kind, out: int | None = None, kernel: int = 1, **options: int
        ) -> None:
            nonlocal channels
            out = channels if out is None else out
            layers.append(Layer(name, kind, channels, out, kernel, **options))  # type: ignore[arg-type]
            channels = out

        for s, stage in enumerate(self.stages, start=1):
            i = 0
            for item in stage:
                if isinstance(item, LRN):
                    layers.append(Layer(f"lrn{s}_{i}", "lrn", channels, channels, item.size, item))
                    continue
                i += 1
                k = item.kernel
                add(f"conv{s}_{i}", "conv", self.channels(item.channels), k, padding=k // 2)
                if self.batch_norm:
                    add(f"bn{s}_{i}", "bn")
                add(f"relu{s}_{i}", "relu")
            add(f"pool{s}", "pool", kernel=2, stride=2)
        if not self.head:
            return tuple(layers)
        add("fc6", "fc", self.channels(FC_CHANNELS), self.crop // 32)
        add("relu6", "relu")
        add("drop6", "dropout")
        add("fc7", "fc", self.channels(FC_CHANNELS))
        add("relu7", "relu")
        add("drop7", "dropout")
        add("fc8", "fc", self.outputs)
        return tuple(layers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _suggest(net: object) -> str:
    word = str(net).strip()
    known = "the nets are " + ", ".join(NETS)
    meant = _OTHER_NAMES.get(word.lower().replace("-", "").removesuffix("bn").rstrip("_"))
    if meant is None:
        near = get_close_matches(word.upper(), [name.upper() for name in NETS], n=1, cutoff=0.6)
        meant = next((name for name in NETS if near and name.upper() == near[0]), None)
    return f"did you mean {meant}? ({known})" if meant else known

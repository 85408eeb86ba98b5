"""The paper's training runs as functions, each returning every number of its run (§3.1).

The paper's sizes are for a crop of 224. For another crop they keep their proportion to it: at a
crop of 32, S = 256 becomes 37.
"""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vggnet.configs import Config
from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.initialize import Init

PAPER_CROP = 224
LARGEST_SCALE = 32
"""S and Q are at most so many crops: beyond, a typing error fills the memory."""


def in_proportion(size: int, crop: int) -> int:
    """The paper's size in pixels (S or Q, for a crop of 224) at another crop."""
    return round(size * crop / PAPER_CROP)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Every value of a training run; the defaults are §3.1's.

    Raises:
        InputError: on a value that cannot be, naming it and the remedy.
    """

    model: Config
    S: int
    """Smallest side in pixels that training images are rescaled to; the crop is cut from that."""
    batch_size: int = 256
    learning_rate: float = 1e-2
    """At the start; divided by 10 on a plateau."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """The L2 penalty's multiplier; on every parameter, since the paper excepts none."""
    epochs: int = 74
    """At most: 370K iterations on ImageNet. A plateau after the last division ends a run sooner."""
    patience: int = 5
    """Epochs without a lower validation error that make a plateau. The paper gives no number."""
    divisions: int = 3
    """How often the learning rate is divided by 10."""
    colour_shift: float = 0.1
    """Sigma of Krizhevsky's RGB shift; 0 for none."""
    flip: bool = True
    """Mirror images at random, where the data set says that a mirrored image keeps its class."""
    init: "Init" = "glorot"
    """How the weights are drawn that do not come from another net."""
    seed: int = 0
    """One seed gives one loss curve on one machine."""

    def __post_init__(self) -> None:
        if not isinstance(self.S, int):
            raise InputError(f"S {self.S!r} is not a whole number of pixels")
        if self.S > LARGEST_SCALE * self.model.crop:
            raise InputError(
                f"S {self.S} is more than {LARGEST_SCALE} times the crop {self.model.crop}"
            )
        if self.S < self.model.crop:
            raise InputError(
                f"S {self.S!r} is smaller than the crop {self.model.crop}: crops are cut from "
                f"images of smallest side S; the paper's is {in_proportion(256, self.model.crop)}"
            )
        for name in ("batch_size", "epochs", "patience"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise InputError(f"{name} {value!r} is not a whole number of 1 or more")
        if not isinstance(self.divisions, int) or self.divisions < 0:
            raise InputError(f"divisions {self.divisions!r} is not a whole number of 0 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning rate {self.learning_rate!r} is not above 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum {self.momentum!r} is not from 0 to below 1")
        for name in ("weight_decay", "colour_shift"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise InputError(f"{name} {value!r} is not 0 or more")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed!r} is not a whole number from 0 to 2147483647")

    def to_json(self) -> dict[str, Any]:
        """All values, nested as the dataclasses are."""
        return asdict(self)


def a_256(model: Config) -> TrainConfig:
    """§3.1: net A at S = 256 from random weights, with Glorot's draw (the section's footnote).

    As a command: `vggnet train DATA --net A --crop 224 --width 1 --batch-size 256
    --learning-rate 1e-2 --epochs 74 --patience 5`. The paper: 2–3 weeks a net on four Titan
    Blacks; A's error on ILSVRC-2012 validation, dense, is 29.6 % (Table 3).
    """
    return TrainConfig(replace(model, net="A"), S=in_proportion(256, model.crop))


def deeper_256(model: Config) -> TrainConfig:
    """§3.1: A-LRN, B, C, D or E at S = 256, staged from a trained net A.

    The first four convolutions and the three FC layers come from A and learn at the full rate,
    the others are drawn at random. As a command: as for A, with `--net D --init-from WEIGHTS`.
    The paper's errors (Table 3): A-LRN 29.7, B 28.7, C 28.1, D 27.0, E 27.3 %.
    """
    return TrainConfig(model, S=in_proportion(256, model.crop))


DIGITS_CROP = 32
DIGITS_WIDTH = 0.15625


def on_digits(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on 1,000 images of digits instead of 1.3 million photographs.

    Departures: batches of 64, since one of 256 would leave four steps an epoch; half the rate, at
    which so few steps settle (docs/LOG.md); 45 epochs at most, 6 without a gain being a plateau.
    """
    return replace(recipe, batch_size=64, learning_rate=5e-3, epochs=45, patience=6)

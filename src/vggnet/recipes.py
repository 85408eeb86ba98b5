"""The paper's training runs as functions, each returning every number of its run (§3.1).

The paper's sizes are for a crop of 224. For another crop they keep their proportion to it: at a
crop of 32, S = 256 becomes 37. The commands in the docstrings are for data in the paper's size;
sizes, batch and rate of other data are the business of `adaptations`.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from vggnet.configs import Boxes, Config
from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.initialize import Init

PAPER_CROP = 224
LARGEST_SCALE = 32
"""S and Q are at most so many crops: beyond, a typing error fills the memory."""

Scale = int | tuple[int, int]
"""S of training in pixels: fixed, or the range that it is drawn from for every image (§3.1)."""
Precision = Literal["float32", "bfloat16"]
Tune = Literal["all", "fc"]
Schedule = Literal["plateau", "cosine"]


def in_proportion(size: int, crop: int) -> int:
    """The paper's size in pixels (S or Q, for a crop of 224) at another crop."""
    return round(size * crop / PAPER_CROP)


def as_scale(value: object) -> Scale:
    """S as it comes from a file or a caller: a whole number, or a pair of them as list or tuple.

    Raises:
        InputError: on anything else.
    """
    if _is_whole(value):
        return value  # type: ignore[return-value]
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value)):
        low, high = value
        if low < high:
            return low, high
        raise InputError(f"S from {low} to {high}: give the smaller side first, then a larger one")
    raise InputError(
        f"S {value!r} is not a whole number of pixels, nor a pair (smallest, largest) of them"
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Every value of a training run; the defaults are §3.1's.

    Raises:
        InputError: on a value that cannot be, naming it and the remedy.
    """

    model: Config
    """The net."""
    S: Scale
    """Smallest side in pixels that training images are rescaled to; the crop is cut from that.
    A pair (smallest, largest): drawn uniformly between them, ends included, for every image of
    every epoch (scale jittering)."""
    batch_size: int = 256
    """Images a step, of all processes together; the last step of an epoch has what is left."""
    learning_rate: float = 1e-2
    """At the start; divided by 10 on a plateau."""
    momentum: float = 0.9
    """Of SGD, from 0 to below 1."""
    weight_decay: float = 5e-4
    """The L2 penalty's multiplier; on every parameter, since the paper excepts none."""
    epochs: int = 74
    """At most: 370K iterations on ImageNet. A plateau after the last division ends a run sooner."""
    schedule: Schedule = "plateau"
    """plateau: the rate is divided by 10 on a plateau of the validation error (§3.1). cosine: in
    epoch e of n it is (1 + cos(πe/n))/2 of the one at the start, and all epochs are trained; a
    departure (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""
    patience: int = 5
    """Epochs without a lower validation error that make a plateau. The paper gives no number."""
    divisions: int = 3
    """How often the learning rate is divided by 10."""
    colour_shift: float = 0.1
    """Sigma of Krizhevsky's RGB shift; 0 for none."""
    erase: float = 0.0
    """Chance that a rectangle of a crop is erased (`augment.erased`); a departure, 0 for none."""
    flip: bool = True
    """Mirror images at random, where the data set says that a mirrored image keeps its class."""
    init: "Init" = "glorot"
    """How the weights are drawn that do not come from another net."""
    tune: Tune = "all"
    """all: every layer learns. fc: fc6, fc7 and fc8 alone, the convolutions stay (§4.4)."""
    seed: int = 0
    """One seed gives one loss curve on one machine."""
    precision: Precision = "float32"
    """Of convolutions and matrix products; weights and sums are float32 in any case. bfloat16 is
    for a GPU, where a step is compiled (`gpu_step`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "S", as_scale(self.S))
        smallest, largest = self.scales
        if largest > LARGEST_SCALE * self.model.crop:
            raise InputError(
                f"S {largest} is more than {LARGEST_SCALE} times the crop {self.model.crop}"
            )
        if smallest < self.model.crop:
            raise InputError(
                f"S {smallest} is smaller than the crop {self.model.crop}: crops are cut from "
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
        if not 0 <= self.erase <= 1:
            raise InputError(f"erase {self.erase!r} is not a chance from 0 to 1")
        if self.schedule not in get_args(Schedule):
            known = " or ".join(get_args(Schedule))
            raise InputError(f"schedule {self.schedule!r} is not known: take {known}")
        if self.tune not in get_args(Tune):
            raise InputError(f"tune {self.tune!r} is not known: take {' or '.join(get_args(Tune))}")
        if self.precision not in get_args(Precision):
            known = " or ".join(get_args(Precision))
            raise InputError(f"precision {self.precision!r} is not known: take {known}")
        if self.precision != "float32" and self.model.boxes is not None:
            raise InputError("precision bfloat16 does not train boxes: take float32")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise InputError(f"seed {self.seed!r} is not a whole number from 0 to 2147483647")

    def rate(self, epoch: int, divisions: int) -> float:
        """The learning rate of an epoch, from 0, after so many divisions on plateaus."""
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return float(self.learning_rate / 10**divisions)

    @property
    def scales(self) -> tuple[int, int]:
        """The smallest and the largest S; the same where S is fixed."""
        return (self.S, self.S) if isinstance(self.S, int) else self.S

    def to_json(self) -> dict[str, Any]:
        """All values, nested as the dataclasses are; `precision`, `schedule`, `erase` and `boxes`
        only where they are not the default, so that a run from before there was a choice is still
        the same.
        """
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        if self.schedule == "plateau":
            del values["schedule"]
        if not self.erase:
            del values["erase"]
        if self.model.boxes is None:
            del values["model"]["boxes"]
        return values


@dataclass(slots=True)
class Plateau:
    """Divides the learning rate by 10 when the validation error stops improving (§3.1)."""

    patience: int
    allowed: int
    best: float = math.inf
    waited: int = 0
    divisions: int = 0

    def update(self, error: float) -> bool:
        """Takes an epoch's validation error; True when training is over.

        `patience` epochs without a new lowest error are a plateau. The first `allowed` ones divide
        the rate; the next one is the end.
        """
        if error < self.best:
            self.best, self.waited = error, 0
            return False
        self.waited += 1
        if self.waited < self.patience:
            return False
        if self.divisions == self.allowed:
            return True
        self.waited = 0
        self.divisions += 1
        return False


def a_256(model: Config) -> TrainConfig:
    """§3.1: net A at S = 256 from random weights, with Glorot's draw (the section's footnote).

    As a command: `vggnet train DATA --net A --out a`. The paper: 2–3 weeks a net on four Titan
    Blacks; A's error on ILSVRC-2012 validation, dense, is 29.6 % (Table 3).
    """
    return TrainConfig(replace(model, net="A"), S=in_proportion(256, model.crop))


def deeper_256(model: Config) -> TrainConfig:
    """§3.1: A-LRN, B, C, D or E at S = 256, staged from a trained net A.

    The first four convolutions and the three FC layers come from A and learn at the full rate,
    the others are drawn at random. As a command: `vggnet train DATA --net D --init-from
    a/weights.safetensors --out d`. The paper's errors (Table 3): A-LRN 29.7, B 28.7, C 28.1,
    D 27.0, E 27.3 %.
    """
    return TrainConfig(model, S=in_proportion(256, model.crop))


def b_5x5(model: Config) -> TrainConfig:
    """§4.1: B with one 5×5 convolution for each pair of 3×3, at S = 256 from random weights.

    Net A's 3×3 convolutions do not fit it, and the paper does not say how it was started. As a
    command: `vggnet train DATA --net B-5x5 --out b5`. The paper: 7 % more errors than B on a
    centre crop.
    """
    return TrainConfig(replace(model, net="B-5x5"), S=in_proportion(256, model.crop))


def rival_256(model: Config) -> TrainConfig:
    """One of the nets of Table 7 at S = 256, from random weights, by §3.1's recipe and not its own.

    So the nets of the table differ in nothing but themselves. As a command: `vggnet train DATA
    --net GoogLeNet --out googlenet`. `at_384` and `jittered` go on from there as for C, D and E.
    Departure: OverFeat has a tenth of the rate. It is made for images that are divided by their
    standard deviation; on 0–255, without normalisation, its loss overflows at 1e-2 (docs/LOG.md).
    """
    rate = 1e-3 if model.net == "OverFeat" else 1e-2
    return TrainConfig(model, S=in_proportion(256, model.crop), learning_rate=rate)


def at_384(model: Config) -> TrainConfig:
    """§3.1: C, D or E at S = 384, all layers from the same net's S = 256, at a rate of 1e-3.

    As a command: `vggnet train DATA --net D --scale 384 --learning-rate 1e-3 --init-from
    d/weights.safetensors --out d-384`. The paper's errors at Q = 384 (Table 3): C 28.1, D 26.8,
    E 26.9 %.
    """
    return TrainConfig(model, S=in_proportion(384, model.crop), learning_rate=1e-3)


def jittered(model: Config) -> TrainConfig:
    """§3.1: C, D or E with S drawn from [256, 512], all layers tuned from the net at S = 384.

    The paper does not give the rate; S = 384's is taken. As a command: `vggnet train DATA --net D
    --scale 256,512 --learning-rate 1e-3 --init-from d-384/weights.safetensors --out d-jitter`. The
    paper's errors at Q = 384 (Table 3): C 27.3, D 25.6, E 25.5 %.
    """
    scale = in_proportion(256, model.crop), in_proportion(512, model.crop)
    return TrainConfig(model, S=scale, learning_rate=1e-3)


def submitted_d(model: Config) -> TrainConfig:
    """§4.4: the ILSVRC submission's D with S from [256, 512]: its FC layers alone are tuned.

    From the net at S = 384, at that net's rate, neither of which the paper states. As a command:
    that of `jittered` with `--tune fc`.
    """
    return replace(jittered(replace(model, net="D")), tune="fc")


def localiser(model: Config, boxes: Boxes, S: int, tune: Tune) -> TrainConfig:  # noqa: N803
    """Appendix A: a net that gives boxes, from the classifier `model` trained at the same fixed S.

    The last layer is drawn at random; the others learn at a rate of 1e-3, all of them or only fc6
    and fc7 (`tune`). No scale jitter. The section names no batch, epochs or patience: §3.1's are
    taken. As a command: `vggnet train-boxes CLASSIFIER DATA --out boxes`. The paper's errors of D
    on a centre crop, the class being known (Table 8): scr, fc 36.4; pcr, fc 34.3; pcr, all 33.1 %.
    """
    return TrainConfig(replace(model, boxes=boxes), S=S, learning_rate=1e-3, tune=tune)

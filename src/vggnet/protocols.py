"""The test protocols of §3.2 as values: which views of an image a net sees, and how they count."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from operator import index
from typing import Any, Literal, get_args

from vggnet.errors import InputError
from vggnet.recipes import PAPER_CROP, Scale

Method = Literal["dense", "multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"]
Averaging = Literal["scores", "posteriors"]

Window = tuple[int, int, int, int]
"""Top, left, height, width in pixels of the part of a rescaled image that a net sees."""

GRID = 5
"""§3.2: a regular grid of 5×5 crops a scale."""


def single_scale(S: Scale) -> int:  # noqa: N803, the paper's name
    """§4.1: Q = S for fixed S, the middle of the range for jittered S."""
    return S if isinstance(S, int) else round(0.5 * (S[0] + S[1]))


def multi_scale(S: Scale, crop: int) -> tuple[int, int, int]:  # noqa: N803
    """§4.2: {S - 32, S, S + 32} for fixed S, 32 being for a crop of 224, and the smallest, the
    middle and the largest S for jittered S."""
    if isinstance(S, int):
        step = round(32 * crop / PAPER_CROP)
        return S - step, S, S + step
    return S[0], single_scale(S), S[1]


@dataclass(frozen=True, slots=True)
class Term:
    """One scale of one method: the unit that is computed, kept and averaged."""

    Q: int
    method: Method
    """Not multi-crop+dense, which is two terms a scale."""
    averaging: Averaging
    flips: bool

    def windows(self, height: int, width: int, crop: int) -> dict[Window, float]:
        """What the net sees of an image rescaled to Q, and with which weight; weights sum to 1.

        Crops that coincide, because the image is hardly larger than the crop, are one window.

        Args:
            height, width: of the rescaled image in pixels.
            crop: side of the net's crop in pixels.
        """
        if self.method == "dense":
            return {(0, 0, height, width): 1.0}
        corners = Counter(_corners(self.method, height - crop, width - crop))
        return {
            (top, left, crop, crop): count / corners.total()
            for (top, left), count in corners.items()
        }


def _corners(method: Method, down: int, right: int) -> list[tuple[int, int]]:
    """Corners (top, left) of the crops, where `down` and `right` are the farthest ones."""
    # Python's rounding, as the centre crops of torchvision and timm: the middle of the grid is
    # the centre crop.
    if method == "centre-crop":
        return [(round(down / 2), round(right / 2))]
    if method == "ten-crop":  # Krizhevsky's: four corners and the centre, and their mirror images
        ends = [(0, 0), (0, right), (down, 0), (down, right)]
        return [*ends, (round(down / 2), round(right / 2))]
    rows, columns = ([round(i * free / (GRID - 1)) for i in range(GRID)] for free in (down, right))
    return [(top, left) for top in rows for left in columns]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a net's posteriors are computed; printed and saved with every error.

    Raises:
        InputError: on a method or averaging that does not exist, or without a scale.
    """

    net: str
    S: Scale | None
    """Smallest side in training; None where the weights do not say."""
    Q: tuple[int, ...]
    """Smallest sides in testing; the posteriors are averaged over them (§3.2)."""
    method: Method = "dense"
    """dense: the net over the whole, uncropped image. multi-crop: a regular grid of 5×5 crops a
    scale. multi-crop+dense: the mean of the two. centre-crop: one crop. ten-crop: four corners,
    the centre, and their mirror images (Krizhevsky et al. 2012)."""
    averaging: Averaging = "scores"
    """Of the dense map: the scores before the soft-max, or the posteriors after it. The paper
    says that the score map is averaged and does not say on which side of the soft-max. Crops are
    averaged as posteriors."""
    flips: bool = True
    """Whether the posteriors are averaged with those of the mirrored image."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise InputError(f"unknown method {self.method!r}: take one of {known}")
        if self.averaging not in get_args(Averaging):
            known = " or ".join(get_args(Averaging))
            raise InputError(f"unknown averaging {self.averaging!r}: take {known}")
        if not self.Q:
            raise InputError("no test scale Q: give at least one")
        try:
            object.__setattr__(self, "Q", tuple(index(side) for side in self.Q))
        except TypeError:
            raise InputError(f"test scales {self.Q!r} are not whole numbers of pixels") from None
        if len(set(self.Q)) < len(self.Q):
            raise InputError(f"test scales {', '.join(map(str, self.Q))}: one is given twice")

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is computed; the protocol's posteriors are the mean of its terms' posteriors."""
        both: tuple[Method, ...] = ("multi-crop", "dense")
        methods = both if self.method == "multi-crop+dense" else (self.method,)
        return tuple(
            # Averaging makes no difference for a crop, whose score map is one cell.
            Term(Q, method, self.averaging if method == "dense" else "scores", self.flips)
            for method in methods
            for Q in self.Q
        )

    @property
    def views(self) -> int:
        """Views of an image that are averaged, coinciding crops counted as often as they are."""
        crops = {"dense": 1, "multi-crop": GRID**2, "centre-crop": 1, "ten-crop": 5}
        return sum(crops[term.method] * (1 + term.flips) for term in self.terms)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"net {self.net}, {self.scales}, {self.how}"

    @property
    def scales(self) -> str:
        """S and Q in words."""
        return f"S={scale_text(self.S)}, Q={', '.join(map(str, self.Q))}"

    @property
    def how(self) -> str:
        """Method, averaging and flips in words."""
        dense = "dense" in self.method
        averaging = f", {self.averaging} averaged over the map" if dense else ""
        return f"{self.method}{averaging}, {'with' if self.flips else 'without'} flips"


@dataclass(frozen=True, slots=True)
class Fusion:
    """The mean of several nets' posteriors (§4.4). Their protocols may differ in net, S and Q."""

    members: tuple[Protocol, ...]

    @property
    def views(self) -> int:
        return sum(member.views for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """As a `Protocol`'s, with `nets` and a Q for each instead of `net`, `S` and `Q`."""
        first = self.members[0]
        return {
            "nets": [[member.net, member.S] for member in self.members],
            "Q": [member.Q for member in self.members],
            "method": first.method,
            "averaging": first.averaging,
            "flips": first.flips,
        }

    def __str__(self) -> str:
        nets = "; ".join(f"{member.net}, {member.scales}" for member in self.members)
        return f"{len(self.members)} nets ({nets}), {self.members[0].how}"


def scale_text(S: int | Sequence[int] | None) -> str:  # noqa: N803
    """S as the paper prints it: 256, or [256;512] where it is jittered, a list if from JSON."""
    if S is None:
        return "unknown"
    return str(S) if isinstance(S, int) else f"[{S[0]};{S[1]}]"


def windows_of(
    terms: Iterable[Term], height: int, width: int, crop: int
) -> dict[Window, dict[Term, float]]:
    """Every window that terms of one Q need, each once, with its weight in each of the terms."""
    found: dict[Window, dict[Term, float]] = {}
    for term in terms:
        for window, weight in term.windows(height, width, crop).items():
            found.setdefault(window, {})[term] = weight
    return found

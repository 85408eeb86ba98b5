"""The tables of Simonyan & Zisserman 2014 (arXiv 1409.1556v6) as data. Errors in percent."""

from dataclasses import dataclass

from vggnet.configs import Boxes
from vggnet.protocols import Method
from vggnet.recipes import Scale, Tune

# Table 1's heading: layers with weights.
WEIGHT_LAYERS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}

# Table 2: parameters in millions, as printed.
PARAMETERS_MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}


@dataclass(frozen=True, slots=True)
class Row:
    """One net of Tables 3, 4 and 5 on the ILSVRC-2012 validation set."""

    net: str
    S: Scale
    """Smallest side in training: fixed, or the range it was drawn from."""
    Q: tuple[int, ...]
    """Smallest sides in testing."""
    top1: float
    top5: float
    method: Method = "dense"


TABLE_3 = (
    Row("A", 256, (256,), 29.6, 10.4),
    Row("A-LRN", 256, (256,), 29.7, 10.5),
    Row("B", 256, (256,), 28.7, 9.9),
    Row("C", 256, (256,), 28.1, 9.4),
    Row("C", 384, (384,), 28.1, 9.3),
    Row("C", (256, 512), (384,), 27.3, 8.8),
    Row("D", 256, (256,), 27.0, 8.8),
    Row("D", 384, (384,), 26.8, 8.7),
    Row("D", (256, 512), (384,), 25.6, 8.1),
    Row("E", 256, (256,), 27.3, 9.0),
    Row("E", 384, (384,), 26.9, 8.7),
    Row("E", (256, 512), (384,), 25.5, 8.0),
)

_JITTER = (256, 512)
_JITTER_Q = (256, 384, 512)

TABLE_4 = (
    Row("B", 256, (224, 256, 288), 28.2, 9.6),
    Row("C", 256, (224, 256, 288), 27.7, 9.2),
    Row("C", 384, (352, 384, 416), 27.8, 9.2),
    Row("C", _JITTER, _JITTER_Q, 26.3, 8.2),
    Row("D", 256, (224, 256, 288), 26.6, 8.6),
    Row("D", 384, (352, 384, 416), 26.5, 8.6),
    Row("D", _JITTER, _JITTER_Q, 24.8, 7.5),
    Row("E", 256, (224, 256, 288), 26.9, 8.7),
    Row("E", 384, (352, 384, 416), 26.7, 8.6),
    Row("E", _JITTER, _JITTER_Q, 24.8, 7.5),
)

TABLE_5 = (
    Row("D", _JITTER, _JITTER_Q, 24.8, 7.5, "dense"),
    Row("D", _JITTER, _JITTER_Q, 24.6, 7.5, "multi-crop"),
    Row("D", _JITTER, _JITTER_Q, 24.4, 7.2, "multi-crop+dense"),
    Row("E", _JITTER, _JITTER_Q, 24.8, 7.5, "dense"),
    Row("E", _JITTER, _JITTER_Q, 24.6, 7.4, "multi-crop"),
    Row("E", _JITTER, _JITTER_Q, 24.4, 7.1, "multi-crop+dense"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A net of a fusion, with its test scales."""

    net: str
    S: Scale
    Q: tuple[int, ...]
    tune: Tune = "all"
    """fc: the ILSVRC submission's jittered D, of which the FC layers alone were tuned."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A row of Table 6: several nets' posteriors averaged."""

    members: tuple[Member, ...]
    method: Method
    top1: float
    top5: float
    top5_test: float | None
    """On the test set, where the authors had it measured."""


_BEST_TWO = (Member("D", _JITTER, _JITTER_Q), Member("E", _JITTER, _JITTER_Q))
_SUBMITTED = (
    Member("D", 256, (224, 256, 288)),
    Member("D", 384, (352, 384, 416)),
    Member("D", _JITTER, _JITTER_Q, "fc"),
    Member("C", 256, (224, 256, 288)),
    Member("C", 384, (352, 384, 416)),
    Member("E", 256, (224, 256, 288)),
    Member("E", 384, (352, 384, 416)),
)

TABLE_6 = (
    Fused(_SUBMITTED, "dense", 24.7, 7.5, 7.3),
    Fused(_BEST_TWO, "dense", 24.0, 7.1, 7.0),
    Fused(_BEST_TWO, "multi-crop", 23.9, 7.2, None),
    Fused(_BEST_TWO, "multi-crop+dense", 23.7, 6.8, 6.8),
)


@dataclass(frozen=True, slots=True)
class System:
    """A row of Table 7; `members` and `method` for those of the paper itself."""

    name: str
    top1: float | None
    top5: float | None
    top5_test: float | None
    members: tuple[Member, ...] = ()
    method: Method = "dense"


TABLE_7 = (
    System("VGG (2 nets, multi-crop & dense eval.)", 23.7, 6.8, 6.8, _BEST_TWO, "multi-crop+dense"),
    # Its errors are E's in Table 5. On the test set §4.5 has 7.0, §4.4 quotes 7.1 on validation.
    System(
        "VGG (1 net, multi-crop & dense eval.)", 24.4, 7.1, 7.0, _BEST_TWO[1:], "multi-crop+dense"
    ),
    System("VGG (ILSVRC submission, 7 nets, dense eval.)", 24.7, 7.5, 7.3, _SUBMITTED),
    System("GoogLeNet (1 net)", None, 7.9, None),
    System("GoogLeNet (7 nets)", None, 6.7, None),
    System("MSRA (11 nets)", None, None, 8.1),
    System("MSRA (1 net)", 27.9, 9.1, 9.1),
    System("Clarifai (multiple nets)", None, None, 11.7),
    System("Clarifai (1 net)", None, None, 12.5),
    System("Zeiler & Fergus (6 nets)", 36.0, 14.7, 14.8),
    System("Zeiler & Fergus (1 net)", 37.5, 16.0, 16.1),
    System("OverFeat (7 nets)", 34.0, 13.2, 13.6),
    System("OverFeat (1 net)", 35.7, 14.2, None),
    System("Krizhevsky et al. (5 nets)", 38.1, 16.4, 16.4),
    System("Krizhevsky et al. (1 net)", 40.7, 18.2, None),
)


@dataclass(frozen=True, slots=True)
class Transferred:
    """A row of Table 11, Appendix B: a linear SVM on descriptors. Percent."""

    nets: tuple[str, ...]
    voc_2007: float
    """Mean average precision, as of VOC-2012."""
    voc_2012: float
    caltech_101: tuple[float, float]
    """Mean class recall and its standard deviation over 3 splits, as of Caltech-256."""
    caltech_256: tuple[float, float]


TABLE_11 = (
    Transferred(("D",), 89.3, 89.0, (91.8, 1.0), (85.0, 0.2)),
    Transferred(("E",), 89.3, 89.0, (92.3, 0.5), (85.1, 0.3)),
    Transferred(("D", "E"), 89.7, 89.3, (92.7, 0.5), (86.2, 0.3)),
)

TABLE_12 = {"image": 79.2, "image and box": 84.0}
"""Mean average precision of D & E on VOC-2012's action classification: of the whole image's
descriptor, and of that stacked with the one of the person's box."""

ABLATION_PERCENT = 7
"""§4.1: by how much B-5x5's top-1 error is above B's on a centre crop, relative to B's."""


@dataclass(frozen=True, slots=True)
class BoxRow:
    """Table 8: error of D's boxes on a centre crop at S = Q = 256, the class being known."""

    tune: Tune
    """fc: the first two FC layers and the last, which is new."""
    boxes: Boxes
    error: float


TABLE_8 = (BoxRow("fc", "scr", 36.4), BoxRow("fc", "pcr", 34.3), BoxRow("all", "pcr", 33.1))


@dataclass(frozen=True, slots=True)
class DenseBoxes:
    """Table 9: top-5 localisation error of D's boxes, densely computed; S and Q of each net."""

    S: tuple[int, ...]
    Q: tuple[tuple[int, ...], ...]
    val: float
    test: float | None


TABLE_9 = (
    DenseBoxes((256,), ((256,),), 29.5, None),
    DenseBoxes((384,), ((384,),), 28.2, 26.7),
    DenseBoxes((384,), ((352, 384),), 27.5, None),
    DenseBoxes((256, 384), ((256,), (352, 384)), 26.9, 25.3),
)

# Table 10: top-5 localisation error of ILSVRC-2014's and older systems, val and test.
TABLE_10 = (
    ("VGG", 26.9, 25.3),
    ("GoogLeNet", None, 26.7),
    ("OverFeat", 30.0, 29.9),
    ("Krizhevsky et al.", None, 34.2),
)

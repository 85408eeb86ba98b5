"""The tables of Simonyan & Zisserman 2014 (arXiv 1409.1556v6) as data. Errors in percent."""

from dataclasses import dataclass

# Table 1's heading: layers with weights.
WEIGHT_LAYERS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}

# Table 2: parameters in millions, as printed.
PARAMETERS_MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}


@dataclass(frozen=True, slots=True)
class Row:
    """One net of Table 3: one test scale, dense evaluation, ILSVRC-2012 validation set."""

    net: str
    S: int | tuple[int, int]
    """Smallest side in training: fixed, or the range it was drawn from."""
    Q: tuple[int, ...]
    """Smallest side in testing."""
    top1: float
    top5: float


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

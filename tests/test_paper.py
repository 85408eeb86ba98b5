"""What the paper and its lecture slides print, to the last digit."""

import pytest

from vggnet import Config, account, paper
from vggnet.configs import TABLE_1

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
}
GIGA_MULTIPLY_ADDS = {
    "A": 7.609,
    "A-LRN": 7.609,
    "B": 11.308,
    "C": 11.771,
    "D": 15.470,
    "E": 19.632,
}
SEES = {
    "A": (150, 342),
    "A-LRN": (150, 342),
    "B": (156, 348),
    "C": (156, 348),
    "D": (212, 404),
    "E": (268, 460),
}


@pytest.mark.parametrize("net", TABLE_1)
def test_the_six_nets(net: str) -> None:
    found = account(Config(net))
    assert found.parameters == PARAMETERS[net]
    assert round(found.parameters / 1e6) == paper.PARAMETERS_MILLIONS[net]
    assert round(found.multiply_adds / 1e9, 3) == GIGA_MULTIPLY_ADDS[net]
    assert (found.receptive_field("pool5"), found.receptive_field("fc6")) == SEES[net]
    assert Config(net).weight_layers == paper.WEIGHT_LAYERS[net]


# The slides' walk through D: layer, output, activations as rounded there, weights.
WALK = [
    ("conv1_1", (64, 224, 224), 3.2e6, 1_728),
    ("conv1_2", (64, 224, 224), 3.2e6, 36_864),
    ("pool1", (64, 112, 112), 800e3, 0),
    ("conv2_1", (128, 112, 112), 1.6e6, 73_728),
    ("conv2_2", (128, 112, 112), 1.6e6, 147_456),
    ("pool2", (128, 56, 56), 400e3, 0),
    ("conv3_1", (256, 56, 56), 800e3, 294_912),
    ("conv3_2", (256, 56, 56), 800e3, 589_824),
    ("conv3_3", (256, 56, 56), 800e3, 589_824),
    ("pool3", (256, 28, 28), 200e3, 0),
    ("conv4_1", (512, 28, 28), 400e3, 1_179_648),
    ("conv4_2", (512, 28, 28), 400e3, 2_359_296),
    ("conv4_3", (512, 28, 28), 400e3, 2_359_296),
    ("pool4", (512, 14, 14), 100e3, 0),
    ("conv5_1", (512, 14, 14), 100e3, 2_359_296),
    ("conv5_2", (512, 14, 14), 100e3, 2_359_296),
    ("conv5_3", (512, 14, 14), 100e3, 2_359_296),
    ("pool5", (512, 7, 7), 25e3, 0),
    ("fc6", (4096, 1, 1), 4096, 102_760_448),
    ("fc7", (4096, 1, 1), 4096, 16_777_216),
    ("fc8", (1000, 1, 1), 1000, 4_096_000),
]


def test_the_slides_walk_through_d() -> None:
    rows = account(Config("D")).layers
    assert [row.name for row in rows] == [name for name, *_ in WALK]
    for row, (name, output, activations, weights) in zip(rows, WALK, strict=True):
        assert (row.output, row.weights) == (output, weights), name
        assert row.activations == pytest.approx(activations, rel=0.01), name


def test_table_3_ranks_as_the_paper_says() -> None:
    errors = {(row.net, row.S): row.top1 for row in paper.TABLE_3}
    assert len(errors) == len(paper.TABLE_3) == 12
    at_256 = [errors[net, 256] for net in ("A-LRN", "A", "B", "C", "E", "D")]
    assert at_256 == sorted(at_256, reverse=True)
    for net in ("C", "D", "E"):  # jittered training is the best for each
        assert errors[net, (256, 512)] < errors[net, 384] <= errors[net, 256]
    for row in paper.TABLE_3:  # Q = S, or the middle of its range (§4.1)
        middle = row.S if isinstance(row.S, int) else sum(row.S) // 2
        assert row.Q == (middle,)
        assert row.top5 < row.top1

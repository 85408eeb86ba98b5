"""Table 1 as data, and what is refused."""

from typing import Any

import numpy as np
import pytest

from vggnet import Config, InputError
from vggnet.configs import NETS

# Table 1 typed off again, a column a net; "p" is a pooling. Kernel side and channels.
TABLE_1 = {
    "A": "3-64 p 3-128 p 3-256 3-256 p 3-512 3-512 p 3-512 3-512 p",
    "A-LRN": "3-64 lrn p 3-128 p 3-256 3-256 p 3-512 3-512 p 3-512 3-512 p",
    "B": "3-64 3-64 p 3-128 3-128 p 3-256 3-256 p 3-512 3-512 p 3-512 3-512 p",
    "C": "3-64 3-64 p 3-128 3-128 p 3-256 3-256 1-256 p 3-512 3-512 1-512 p 3-512 3-512 1-512 p",
    "D": "3-64 3-64 p 3-128 3-128 p 3-256 3-256 3-256 p 3-512 3-512 3-512 p 3-512 3-512 3-512 p",
    "E": "3-64 3-64 p 3-128 3-128 p 3-256 3-256 3-256 3-256 p 3-512 3-512 3-512 3-512 p"
    " 3-512 3-512 3-512 3-512 p",
    "B-5x5": "5-64 p 5-128 p 5-256 p 5-512 p 5-512 p",
}


@pytest.mark.parametrize("net", NETS)
def test_layers_are_those_of_table_1(net: str) -> None:
    words = []
    for layer in Config(net).layers():
        if layer.kind == "conv":
            words.append(f"{layer.kernel}-{layer.out_channels}")
        elif layer.kind == "pool":
            words.append("p")
        elif layer.kind == "lrn":
            words.append("lrn")
    assert words == TABLE_1[net].split()
    fc = [layer for layer in Config(net).layers() if layer.kind == "fc"]
    assert [(f.name, f.in_channels, f.out_channels, f.kernel) for f in fc] == [
        ("fc6", 512, 4096, 7),
        ("fc7", 4096, 4096, 1),
        ("fc8", 4096, 1000, 1),
    ]


def test_names_are_the_literatures() -> None:
    names = [layer.name for layer in Config("D").layers()]
    assert names[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    head = ["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
    assert names[-10:] == ["conv5_3", "relu5_3", "pool5", *head]
    assert [layer.name for layer in Config("A-LRN").layers()][1:3] == ["relu1_1", "lrn1_1"]
    batch_normalised = [layer.name for layer in Config("A", batch_norm=True).layers()]
    assert batch_normalised[:3] == ["conv1_1", "bn1_1", "relu1_1"]


def test_options_change_the_layers() -> None:
    layers = {
        layer.name: layer
        for layer in Config("B", num_classes=7, in_channels=1, crop=96, width=0.25).layers()
    }
    assert (layers["conv1_1"].in_channels, layers["conv1_1"].out_channels) == (1, 16)
    assert (layers["fc6"].in_channels, layers["fc6"].kernel) == (128, 3)
    assert (layers["fc7"].in_channels, layers["fc7"].out_channels) == (1024, 1024)
    assert layers["fc8"].out_channels == 7
    assert min(layer.out_channels for layer in Config("A", width=1e-6).layers()) == 1


def test_numpys_integers_are_integers() -> None:
    config = Config("A", num_classes=np.int64(10))  # type: ignore[arg-type]
    assert type(config.num_classes) is int


def test_a_departure_shows_in_the_name() -> None:
    assert (Config("D").title, Config("D", batch_norm=True).title) == ("D", "D-BN")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"net": "F"}, ["'F'", "A-LRN"]),
        ({"net": "d"}, ["'d'", "did you mean D?"]),
        ({"net": "vgg16"}, ["'vgg16'", "did you mean D?"]),
        ({"net": "VGG-19_bn"}, ["did you mean E?"]),
        ({"crop": 100}, ["100", "multiple of 32", "96 or 128"]),
        ({"crop": 16}, ["16", "take 32"]),
        ({"crop": 0}, ["crop 0"]),
        ({"crop": 64.0}, ["64.0"]),
        ({"num_classes": 0}, ["num_classes 0"]),
        ({"num_classes": True}, ["True"]),
        ({"in_channels": -3}, ["-3"]),
        ({"width": 0}, ["width 0"]),
        ({"width": float("nan")}, ["nan"]),
        ({"width": 17}, ["17", "16"]),
        ({"dropout": 1.0}, ["1.0", "below 1"]),
        ({"dropout": -0.1}, ["-0.1"]),
        ({"batch_norm": "yes"}, ["'yes'"]),
        ({"lrn": "torch"}, ["'torch'", "caffe"]),
    ],
)
def test_wrong_values_are_refused_with_value_and_remedy(
    values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        Config(**{"net": "A", **values})
    for word in words:
        assert word in str(caught.value)

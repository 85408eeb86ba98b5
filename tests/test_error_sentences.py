"""Sentences of the documentation that say how nets erred, or what is counted."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

import vggnet
from documentation import check_sentence, text
from measured import is_measured, of_full_width, results_of
from vggnet.published import PUBLISHED


def best(nets: str) -> float:
    """Percent that are right, by multi-crop."""
    return 100 - of_full_width(nets, [64, 73, 82], "multi-crop")[0]


DIGITS = [*filter(is_measured, results_of("digits.json")["rows"])]
JITTERED = [
    row["top1"] for row in DIGITS if row["method"] == "multi-crop+dense" and row["table"] in (5, 6)
]
(SEVEN,) = (row["top1"] for row in DIGITS if "7 nets" in (row.get("system") or ""))
BOXES = {row["title"]: row["top1"] for row in results_of("localisation.json")["rows"]}
D = vggnet.account(vggnet.Config("D"))
FC = sum(layer.parameters for layer in D.layers if layer.name.startswith("fc"))
POOL5 = [
    layer.receptive_field
    for net in ("A", "E")
    for layer in vggnet.account(vggnet.Config(net)).layers
    if layer.name == "pool5"
]


def transformed(last: str) -> float:
    """Megabytes of float32 that Winograd's 6×6 points make of the 3×3 kernels up to a layer; the
    first layer is not transformed."""
    convolutions = [layer for layer in D.layers if layer.name.startswith("conv")]
    end = [layer.name for layer in convolutions].index(last) + 1
    kernels = sum(one.output[0] * other.output[0] for one, other in pairwise(convolutions[:end]))
    return 1e-6 * kernels * 36 * 4


RUNS = {
    name: results_of(f"{name}.json")["runs"]
    for name in ("digits", "fashion-mnist", "table-7-fashion-mnist")
}
IMAGES = {
    name: [results_of(f"{name}.json")["dataset"][part] for part in ("train", "validation", "test")]
    for name in RUNS
}


WIDE = {run["name"]: run["recipe"] for run in results_of("fashion-mnist/results.json")["runs"]}
SHORT = {run["name"]: run["recipe"] for run in RUNS["table-7-fashion-mnist"]}
RIVALS = {run["name"]: run["recipe"] for run in results_of("table-7.json")["runs"]}


def crop(run: str) -> int:
    found: int = RIVALS[run]["model"]["crop"]
    return found


def setting(name: str, first: str, then: str) -> list[float]:
    """Batch, then rate and epochs of a first run and of one that starts from a trained net."""
    recipes = {run["name"]: run["recipe"] for run in RUNS[name]}
    return [
        recipes[first]["batch_size"],
        *(recipes[run][key] for run in (first, then) for key in ("learning_rate", "epochs")),
    ]


@pytest.mark.parametrize(
    ("page", "sentence", "values"),
    [
        (
            "README.md",
            "the paper's {} training runs on {} real handwritten digits",
            [len(RUNS["digits"]), sum(IMAGES["digits"])],
        ),
        ("docs/guide.md", "The grid is {} training runs", [len(RUNS["digits"])]),
        (
            "docs/results.md",
            "width 1/{}, crop {}, {} classes: the paper's {} runs",
            [1 / results_of("digits.json")["width"], results_of("digits.json")["crop"], 10, 14],
        ),
        (
            "docs/results.md",
            "width 1/{}; crops of {}, Krizhevsky's {}, OverFeat {}; {} classes",
            [16, crop("A-S73"), crop("Krizhevsky-S74"), crop("OverFeat-S75"), 10],
        ),
        (
            "docs/results.md",
            "as above; OverFeat starts at {}",
            [RIVALS["OverFeat-S75"]["learning_rate"]],
        ),
        (
            "docs/results.md",
            "width 1/{}, crop {}, {} classes; the paper's {} runs",
            [
                1 / results_of("fashion-mnist.json")["width"],
                results_of("fashion-mnist.json")["crop"],
                10,
                len(RUNS["fashion-mnist"]),
            ],
        ),
        (
            "docs/results.md",
            "| width {}, crop {}, {} classes |",
            [WIDE["E-S73"]["model"][key] for key in ("width", "crop", "num_classes")],
        ),
        (
            "docs/results.md",
            "§3.1's batch, rates, momentum and penalty; {} epochs at most, {} without a gain",
            [WIDE["E-S73"][key] for key in ("epochs", "patience")],
        ),
        (
            "docs/results.md",
            "S from [{};{}], random erasing of every second crop, rate {}, {} epochs at most, {} a",
            [
                *WIDE["E-BN-S64-82"]["S"],
                *(WIDE["E-BN-S64-82"][key] for key in ("learning_rate", "epochs", "patience")),
            ],
        ),
        (
            "docs/scaling.md",
            "Net D has {} million parameters, {} % of them in three layers",
            [1e-6 * D.parameters, 100 * FC / D.parameters],
        ),
        ("docs/speed.md", "goes into reading {} MB of fully connected weights", [4e-6 * FC]),
        (
            "docs/speed.md",
            "Memory, net D: {} MB of transformed weights",
            [transformed("conv5_3")],
        ),
        ("docs/speed.md", "for `relu3_3` {} MB are", [transformed("conv3_3")]),
        (
            "docs/features.md",
            "{} MB up to `relu3_3`, {} MB for all of net D",
            [transformed("conv3_3"), transformed("conv5_3")],
        ),
        (
            "docs/results.md",
            "{} training, {} validation, {} test images, split once",
            IMAGES["digits"],
        ),
        (
            "docs/results.md",
            "classes; the paper's 14 runs | | data | {} training, {} validation, {} test images",
            IMAGES["fashion-mnist"],
        ),
        (
            "docs/results.md",
            "OverFeat's 66; 10 classes | | data | {} training, {} validation, {} test images",
            IMAGES["table-7-fashion-mnist"],
        ),
        (
            "docs/results.md",
            "batches of {}; rate {} (B-5x5: 2e-3), {} epochs at most; {} and {} epochs for the",
            setting("digits", "E-S73", "E-S110"),
        ),
        (
            "docs/results.md",
            "batches of {}; rate {}, {} epochs at most; {} and {} epochs for the runs that start "
            "from trained nets; {} for B-5x5",
            [
                *setting("fashion-mnist", "D-S73", "D-S110"),
                setting("fashion-mnist", "B-5x5-S73", "D-S110")[1],
            ],
        ),
        (
            "docs/results.md",
            "batches of {}; {} epochs a run; rate {} at S = {} (OverFeat {}), {} for the runs",
            [
                *(SHORT["D-S73"][key] for key in ("batch_size", "epochs", "learning_rate", "S")),
                SHORT["OverFeat-S75"]["learning_rate"],
                SHORT["D-S110"]["learning_rate"],
            ],
        ),
        (
            "README.md",
            "torchvision's net D has {} % on ILSVRC-2012 by one centre crop, the paper's {} %",
            [
                PUBLISHED["torchvision/vgg16"].errors[0].top1,
                min(row["paper"]["top1"] for row in DIGITS if row["table"] == 5),
            ],
        ),
        (
            "README.md",
            "has what that takes: {} days for all {} runs on one H200, {} hours on eight",
            [
                int(re.findall(r"All of it: (\d+) days", text("docs/imagenet.md"))[0]),
                len(results_of("digits.json")["runs"]),
                int(re.findall(r"All of it: (\d+) h", text("docs/imagenet.md"))[0]),
            ],
        ),
        (
            "docs/results.md",
            "evaluated by multi-crop & dense come to {}–{} %, and fusion of seven nets to {} %",
            [min(JITTERED), max(JITTERED), SEVEN],
        ),
        ("docs/results.md", "a cell of pool5 sees ({} pixels in A, {} in E)", POOL5),
        (
            "docs/results.md",
            "(A {} %), the departures pass it (E-BN {} %, the two together {} %, by multi-crop) "
            "and stay {} and {} points below the other two",
            [
                100 - of_full_width("A", [73], "dense")[0],
                best("E-BN"),
                best("D-BN & E-BN"),
                95.47 - best("D-BN & E-BN"),
                95.86 - best("D-BN & E-BN"),
            ],
        ),
        (
            "docs/localisation.md",
            "where the dense map is not: {} % wrong instead of {}",
            [
                BOXES["D/110 pcr all, windows as crops at 110, class known"],
                BOXES["D/110 pcr all, dense at 110, class known"],
            ],
        ),
        (
            "docs/guide.md",
            "over N of them, so that {} % of net D's gradients",
            [100 * FC / D.parameters],
        ),
        (
            "docs/features.md",
            "{} of net D's {} MB are fc6, fc7 and fc8",
            [4e-6 * FC, 4e-6 * D.parameters],
        ),
    ],
)
def test_sentences(page: str, sentence: str, values: Sequence[float]) -> None:
    check_sentence(page, sentence, values)

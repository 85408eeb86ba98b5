"""Errors of nets and what is counted, in the documentation, are those of the committed results.

tests/test_timings.py has what was timed.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

import vggnet
from documentation import ROOT, check_numbers, check_sentence, section, tables, text
from vggnet import box_tables
from vggnet.published import PUBLISHED
from vggnet.recipes import adaptation
from vggnet.report import table

README, FEATURES = text("README.md"), text("docs/features.md")


def test_the_table_of_layers_is_net_ds() -> None:
    known = {layer.name: layer for layer in vggnet.account(vggnet.Config("D")).layers}
    found = re.findall(
        r"^\| `(\w+)`.* \| (\d+) \| (\d+)×(\d+) \| (\d+) \| (\d+) \|$", FEATURES, re.MULTILINE
    )
    assert len(found) == 21  # 13 convolutions, 5 poolings, 3 fully connected layers
    for name, *numbers in found:
        channels, height, width, stride, sees = (int(number) for number in numbers)
        assert known[name].output == (channels, height, width), name
        assert (known[name].stride, known[name].receptive_field) == (stride, sees), name


def results_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "results" / name).read_text())
    return found


@pytest.mark.parametrize("number", [3, 5])
def test_the_tables_are_those_of_the_committed_results(number: int) -> None:
    results = results_of("digits.json")
    expected = [line.rstrip() for line in table(results, number).splitlines()]
    # The note above a table stands in the README's own words.
    rows = expected[expected.index("") + 1 :]
    assert "\n".join(rows) in README
    fitted = adaptation("digits")
    assert (results["crop"], results["width"]) == (fitted.grid_crop, fitted.grid_width)
    assert (results["seed"], results["only"]) == (0, None)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "table-7"])
def test_the_results_pages_figures_are_committed(name: str) -> None:
    """Every error with its interval in the page's table of a data set is one of the JSON's."""
    results = results_of(f"{name}.json")
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text()
    for row in results["rows"]:
        if row["top1"] is not None:
            low, high = row["top1_interval"]
            assert f"{row['top1']:.1f} [{low:.1f}, {high:.1f}]" in text
    for claim in results["claims"]:
        assert claim["verdict"] in text


def test_the_figures_of_localisation_are_those_of_the_committed_results() -> None:
    page = (ROOT / "docs" / "localisation.md").read_text()
    assert box_tables.text(results_of("localisation.json")) in page


def error(row: dict[str, Any]) -> list[float]:
    """With its interval."""
    return [row["top1"], *row["top1_interval"]]


def is_measured(row: dict[str, Any]) -> bool:
    return row["top1"] is not None


def numbers(cell: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", cell)]


def test_table_7s_other_nets() -> None:
    rows = [*filter(is_measured, results_of("table-7.json")["rows"])]
    shown = tables(section("docs/results.md", "Digits: Table 7 with the other nets"))[1]
    for system, here, paper in shown:
        name, _, more = system.partition(" (")
        count = more.partition(" net")[0]
        (row,) = (
            row
            for row in rows
            if row["system"].startswith(name) and f"{count} net" in row["system"]
        )
        check_numbers(here, error(row))
        check_numbers(paper, [row["paper"]["top1"]] if row["paper"]["top1"] else [])


def test_fashion_mnist_at_an_eighth() -> None:
    heading = "Fashion-MNIST: Tables 3 and 4 for A, B and D"
    rows = [*filter(is_measured, results_of("fashion-mnist.json")["rows"])]
    shown = tables(section("docs/results.md", heading))[1]
    rows_of = [(3, row[:5]) for row in shown] + [(4, row[:2] + row[5:]) for row in shown[1:]]
    for number, (net, s, q, here, paper) in rows_of:
        (row,) = (
            row
            for row in rows
            if (row["table"], row["net"], row["Q"]) == (number, net, numbers(q))
            and row["S"] in (numbers(s), *numbers(s))
        )
        check_numbers(here, error(row))
        check_numbers(paper, [row["paper"]["top1"]])
    assert len(rows_of) == len(rows)


FULL_WIDTH = [
    *filter(is_measured, results_of("fashion-mnist/results.json")["rows"]),
    *results_of("fashion-mnist/beside.json")["departures"],
]


def of_full_width(nets: str, q: list[int], method: str) -> list[float]:
    """The error of one or several nets at these Q, as a page names them."""
    (row,) = (
        row
        for row in FULL_WIDTH
        if nets
        in (row.get("net"), " & ".join(run.partition("-S")[0] for run in row.get("runs", [])))
        and q in ((protocol := row.get("protocol", row))["Q"], protocol["Q"][0])
        and protocol["method"] == method
    )
    return error(row)


def test_fashion_mnist_at_the_papers_width() -> None:
    heading = "Fashion-MNIST at the paper's width: a first part of the grid"
    shown = tables(section("docs/results.md", heading))[1]
    for nets, _, q, method, here in shown:
        check_numbers(here, of_full_width(nets, numbers(q), method))
    assert len(shown) == len(FULL_WIDTH)


@pytest.mark.parametrize(
    ("row", "nets", "q"),
    [
        (0, "A", [73]),
        *((i, net, [64, 73, 82]) for i, net in enumerate(("D", "E", "D-BN & E-BN"), 1)),
    ],
)
def test_fashion_mnist_in_the_readme(row: int, nets: str, q: list[int]) -> None:
    title, recipe, protocol, here = tables(section("README.md", "Results"))[0][row]
    assert title in (nets, "D and E, fused")
    assert ("batch normalisation" in recipe) == ("BN" in nets)
    assert ("three scales" in protocol) == (len(q) == 3)
    check_numbers(here, of_full_width(nets, q, protocol.partition(",")[0]))


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


RUNS = {name: results_of(f"{name}.json")["runs"] for name in ("digits", "fashion-mnist")}
IMAGES = {
    name: [results_of(f"{name}.json")["dataset"][part] for part in ("train", "validation", "test")]
    for name in RUNS
}


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
            "{} training, {} validation, {} test images, split once",
            IMAGES["digits"],
        ),
        (
            "docs/results.md",
            "{} training, {} validation, {} test images, 28×28 grey",
            IMAGES["fashion-mnist"],
        ),
        (
            "docs/results.md",
            "batches of {}; rate {} (B-5x5: 2e-3), {} epochs at most; {} and {} epochs for the",
            setting("digits", "E-S73", "E-S110"),
        ),
        (
            "docs/results.md",
            "batches of {}; rate {}, {} epochs at most; {} and {} epochs for the runs",
            setting("fashion-mnist", "D-S73", "D-S110"),
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

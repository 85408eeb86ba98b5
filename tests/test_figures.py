"""Errors of nets and what is counted, in the documentation, are those of the committed results.

tests/test_timings.py has what was timed.
"""

import re

import pytest

import vggnet
from documentation import check_numbers, check_sentence, section, tables, text
from measured import FULL_WIDTH, committed, error, is_measured, of_full_width, results_of
from vggnet import box_tables
from vggnet.adaptations import adaptation
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


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "table-7", "table-7-fashion-mnist"])
def test_the_results_pages_figures_are_committed(name: str) -> None:
    """Every error with its interval in the page's table of a data set is one of the JSON's."""
    results = results_of(f"{name}.json")
    page = text(f"docs/results/{name}.md")
    for row in results["rows"]:
        if row["top1"] is not None:
            low, high = row["top1_interval"]
            assert f"{row['top1']:.1f} [{low:.1f}, {high:.1f}]" in page
    for claim in results["claims"]:
        assert claim["verdict"] in page


def test_the_figures_of_localisation_are_those_of_the_committed_results() -> None:
    page = text("docs/localisation.md")
    assert box_tables.text(results_of("localisation.json")) in page


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


def test_table_7s_other_nets_on_fashion_mnist() -> None:
    """The page's rows are the file's, in its order."""
    rows = [*filter(is_measured, results_of("table-7-fashion-mnist.json")["rows"])]
    shown = tables(section("docs/results.md", "Fashion-MNIST: Table 7 with the other nets"))[1]
    assert len(shown) == len(rows) == 13
    for row, (system, s, q, method, here, paper) in zip(rows, shown, strict=True):
        assert system.partition(" (")[0] == (row.get("system") or row["net"]).partition(" (")[0]
        assert numbers(s) == (row["S"] if "S" in row else row["nets"][0][1])
        assert numbers(q) in (row["Q"], row["Q"][0])
        assert method.replace(" & ", "+") == row["method"]
        check_numbers(here, error(row))
        check_numbers(paper, [row["paper"]["top1"]] if row["paper"]["top1"] else [])


@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_fashion_mnist_at_an_eighth(number: int) -> None:
    results = results_of("fashion-mnist.json")
    assert (results["seed"], results["only"]) == (0, None)
    lines = [line.rstrip() for line in table(results, number).splitlines()]
    heading = "Fashion-MNIST: the whole grid at 1/8 of the width"
    assert "\n".join(lines[lines.index("") + 1 :]) in section("docs/results.md", heading)


def test_the_claims_on_fashion_mnist() -> None:
    heading = "Fashion-MNIST: the whole grid at 1/8 of the width"
    *_, shown = tables(section("docs/results.md", heading))
    claims = {
        (claim["claim"], claim["verdict"]) for claim in results_of("fashion-mnist.json")["claims"]
    }
    assert {(claim, verdict) for claim, verdict, *_ in shown} == claims


def test_fashion_mnist_at_the_papers_width() -> None:
    heading = "Fashion-MNIST at the paper's width: a first part of the grid"
    shown = tables(section("docs/results.md", heading))[1]
    for nets, s, q, method, here in shown:
        check_numbers(here, of_full_width(nets, numbers(q), method))
        assert numbers(s) == ([64, 82] if "BN" in nets else [73])
    assert len(shown) == len(FULL_WIDTH)


def test_transfer() -> None:
    """What is in italics has no file, as the page says."""
    results = committed("transfer-cpu")
    found = {
        (row["net"], row["layer"], row["data"], row["per_class"]): row["rows"]
        for row in results["rows"]
    }
    widths = {"1/16": "digits-64-0.0625", "1/8": "digits-32-0.125", "1/2": "digits-32-0.5"}
    garments, digits = tables(section("docs/transfer.md", "Measured"))
    counts = {"fashion-mnist": (10, 100, 1000, None), "digits": (10, None)}
    for data, shown in (("fashion-mnist", garments), ("digits", digits)):
        for title, length, *cells in shown:
            layer, _, width = title.partition(", ")
            net = widths[width.rpartition(" ")[2]] if width else "fashion-mnist-32-0.125"
            for count, cell in zip(counts[data], cells, strict=True):
                if not cell or re.fullmatch(r"\*(?!\*).*|\*{3}.*", cell):
                    continue
                if title == "raw pixels":
                    own = (rows for key, rows in found.items() if key[2:] == (data, count))
                    row = next(own)["raw pixels"]
                else:
                    row = found[net, layer, data, count]["D"]
                spread = row["interval"] if row["sd"] is None else [row["sd"]]
                check_numbers(cell, [row["value"], *spread])
                check_numbers(length, [row["length"]])
    errors = results["nets"]
    check_sentence(
        "docs/transfer.md",
        "1/8 of the paper's width, {} % error on digits (dense, one scale); with `--crop 64 "
        "--width 0.0625`, as in `make demo`, {} %; with `--width 0.5`, {} %.",
        [errors[net]["top1"] for net in (widths["1/8"], widths["1/16"], widths["1/2"])],
    )
    check_sentence(
        "docs/transfer.md",
        "{} epochs on Fashion-MNIST after {} of A, {} % error there",
        [errors["fashion-mnist-32-0.125"][key] for key in ("epochs", "epochs", "top1")],
    )


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

"""The report, read back: every number in its place, on a page that stands alone."""

import json
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from vggnet import charts, paper, report
from vggnet.accounting import account
from vggnet.configs import TABLE_1, Config
from vggnet.images import Pixels
from vggnet.scoring import wilson

N = 500
CLASSES = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "<b>&"]
JITTER = [37, 73]
SIZES: dict[Any, Any] = {256: 37, 384: 55, (256, 512): JITTER}
QS: dict[Any, list[int]] = {37: [32, 37, 42], 55: [50, 55, 60], (37, 73): [37, 55, 73]}
PAPER_QS: dict[Any, list[int]] = {
    256: [224, 256, 288],
    384: [352, 384, 416],
    (256, 512): [256, 384, 512],
}
# Top-1, top-5 of Tables 4 to 6; of Table 7 with the test set's top-5.
FOURTH = [(28.2, 9.6), (27.7, 9.2), (27.8, 9.2), (26.3, 8.2), (26.6, 8.6), (26.5, 8.6)]
FOURTH += [(24.8, 7.5), (26.9, 8.7), (26.7, 8.6), (24.8, 7.5)]
FIFTH = [(24.8, 7.5), (24.6, 7.5), (24.4, 7.2), (24.8, 7.5), (24.6, 7.4), (24.4, 7.1)]
SIXTH = [(24.7, 7.5, 7.3), (24.0, 7.1, 7.0), (23.9, 7.2, None), (23.7, 6.8, 6.8)]
SEVENTH = [
    ("VGG (2 nets, multi-crop & dense eval.)", 23.7, 6.8, 6.8),
    ("VGG (1 net, multi-crop & dense eval.)", 24.4, 7.1, 7.0),
    ("VGG (ILSVRC submission, 7 nets, dense eval.)", 24.7, 7.5, 7.3),
    ("GoogLeNet (1 net)", None, 7.9, None),
    ("GoogLeNet (7 nets)", None, 6.7, None),
    ("MSRA (11 nets)", None, None, 8.1),
    ("MSRA (1 net)", 27.9, 9.1, 9.1),
    ("Clarifai (multiple nets)", None, None, 11.7),
    ("Clarifai (1 net)", None, None, 12.5),
    ("Zeiler & Fergus (6 nets)", 36.0, 14.7, 14.8),
    ("Zeiler & Fergus (1 net)", 37.5, 16.0, 16.1),
    ("OverFeat (7 nets)", 34.0, 13.2, 13.6),
    ("OverFeat (1 net)", 35.7, 14.2, None),
    ("Krizhevsky et al. (5 nets)", 38.1, 16.4, 16.4),
    ("Krizhevsky et al. (1 net)", 40.7, 18.2, None),
]
MULTIPLY_ADDS = {"A": 2.1, "B": 3.2, "C": 3.3, "D": 4.4, "E": 5.6}  # millions a forward
METHODS = ("dense", "multi-crop", "multi-crop+dense")


def key(scale: Any) -> Any:
    return tuple(scale) if isinstance(scale, list) else scale


def made_up(crop: int = 32) -> dict[str, Any]:
    """Results of a whole grid on 500 images: the paper's rows, random errors."""
    draw = random.Random(0)

    def measured(net: str, method: str, scales: list[int]) -> dict[str, Any]:
        wrong = draw.randrange(3, 30)
        fifth = draw.randrange(0, 3)
        views = {"multi-crop": 25, "multi-crop+dense": 26, "ten-crop": 5}.get(method, 1) * len(
            scales
        )
        area = (sum(scales) / len(scales) / crop) ** 2 if method == "dense" else 1
        return {
            "Q": scales,
            "method": method,
            "averaging": "scores",
            "flips": False,
            "n": N,
            "top1": 100 * wrong / N,
            "top1_interval": list(wilson(wrong, N)),
            "top5": 100 * fifth / N,
            "top5_interval": list(wilson(fifth, N)),
            "forwards_per_image": float(views),
            "multiply_adds_per_image": int(views * area * MULTIPLY_ADDS[net[0]] * 1e6),
        }

    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    by_scale: list[dict[str, Any]] = []
    for row in paper.TABLE_3:
        scale: Any = SIZES[row.S]
        test = [SIZES[row.Q[0]]]
        theirs: dict[str, Any] = {"S": row.S, "Q": list(row.Q), "method": "dense"}
        theirs |= {"top1": row.top1, "top5": row.top5}
        found = measured(row.net, "dense", test)
        rows.append({"table": 3, "net": row.net, "S": scale, **found, "paper": theirs})
        for method in ("centre-crop", "ten-crop"):
            others.append({"net": row.net, "S": scale, **measured(row.net, method, test)})
        scales = [32, 37, 42, 55, 73]
        errors = [draw.uniform(0.6, 6) for _ in scales]
        by_scale.append({"net": row.net, "S": scale, "Q": scales, "top1": errors})
    for row, (top1, top5) in zip(paper.TABLE_3[2:], FOURTH, strict=True):
        scale = SIZES[row.S]
        theirs = {"S": row.S, "Q": PAPER_QS[row.S], "method": "dense", "top1": top1, "top5": top5}
        found = measured(row.net, "dense", QS[key(scale)])
        rows.append({"table": 4, "net": row.net, "S": scale, **found, "paper": theirs})
    for i, (top1, top5) in enumerate(FIFTH):
        net, method = "DE"[i // 3], METHODS[i % 3]
        theirs = {"S": [256, 512], "Q": [256, 384, 512], "method": method}
        theirs |= {"top1": top1, "top5": top5}
        found = measured(net, method, QS[37, 73])
        rows.append({"table": 5, "net": net, "S": JITTER, **found, "paper": theirs})
    seven: list[Any] = [
        ["D", 37],
        ["D", 55],
        ["D", JITTER],
        ["C", 37],
        ["C", 55],
        ["E", 37],
        ["E", 55],
    ]
    two: list[Any] = [["D", JITTER], ["E", JITTER]]
    for i, (top1, top5, tested) in enumerate(SIXTH):
        nets = two if i else seven
        method = METHODS[max(0, i - 1)]
        found = measured("E", method, [37]) | {"Q": [QS[key(S)] for _, S in nets]}
        note = None if i else "jittered D: FC layers alone tuned"
        theirs = {"nets": [], "Q": [], "method": method}
        theirs |= {"top1": top1, "top5": top5, "top5_test": tested}
        rows.append({"table": 6, "nets": nets, "note": note, **found, "paper": theirs})
    for i, (system, t1, t5, tested) in enumerate(SEVENTH):
        nets = (two, two[1:], seven)[i] if i < 3 else []
        found = measured("E", METHODS[2] if i < 2 else "dense", [37])
        if not nets:
            found |= dict.fromkeys(("top1", "top1_interval", "top5", "top5_interval"))
        found["Q"] = [QS[key(S)] for _, S in nets]
        theirs = {"top1": t1, "top5": t5, "top5_test": tested}
        rows.append({"table": 7, "system": system, "nets": nets, **found, "paper": theirs})

    runs = []
    for net in (*TABLE_1, "B-5x5"):
        start, parent = ("random weights", None) if net == "A" else ("staged from A-S37", "A-S37")
        runs.append(run(f"{net}-S37", net, 37, parent, start, 0.01))
    for net in "CDE":
        parent, later = f"{net}-S37", f"{net}-S55"
        runs.append(run(later, net, 55, parent, f"all layers from {parent}", 0.001))
        start = f"all layers from {later}"
        runs.append(run(f"{net}-S37-73", net, JITTER, later, start, 0.001))
    fc = run("D-S37-73-fc", "D", JITTER, "D-S55", "all layers from D-S55", 0.001)
    runs.append({**fc, "tune": "fc"})

    matrix = [[0] * 10 for _ in range(10)]
    for _ in range(N):
        true = draw.randrange(10)
        matrix[true][true if draw.random() < 0.93 else draw.randrange(10)] += 1
    pairs = [
        {"true": CLASSES[i], "predicted": CLASSES[j], "count": n}
        for i, line in enumerate(matrix)
        for j, n in enumerate(line)
        if i != j and n
    ]
    pairs.sort(key=lambda pair: -int(str(pair["count"])))
    return {
        "versions": {"vggnet": "0.1.0", "torch": "2.13.0+cpu"},
        "dataset": {
            "name": "digits",
            "train": 1000,
            "validation": 297,
            "test": N,
            "flip": False,
            "class_names": CLASSES,
        },
        "crop": crop,
        "width": 0.125,
        "seed": 0,
        "only": None,
        "runs": runs,
        "parameters": [
            {
                "table": 2,
                "net": net,
                "paper_millions": paper.PARAMETERS_MILLIONS[net],
                "counted": account(Config(net)).parameters,
                "here": 12345 + i,
            }
            for i, net in enumerate(TABLE_1)
        ],
        "rows": rows,
        "averaging": [
            {
                "net": "D",
                "S": JITTER,
                "Q": QS[37, 73],
                "n": N,
                "scores": {"top1": 1.2, "top5": 0.0},
                "posteriors": {"top1": 1.4, "top5": 0.2},
                "test": comparison("D", "E", 1.2, 1.4, 1, 2, 1.0),
            },
            {
                "net": "E",
                "S": JITTER,
                "Q": QS[37, 73],
                "n": N,
                "scores": {"top1": 2.2, "top5": 0.0},
                "posteriors": {"top1": 2.2, "top5": 0.0},
                "test": None,
            },
        ],
        "others_protocols": others,
        "ablation": [
            {
                "net": net,
                "S": 37,
                **measured(net, "centre-crop", [37]),
                "top1": top1,
                "top1_interval": list(wilson(round(5 * top1), N)),
            }
            for net, top1 in (("B", 2.0), ("B-5x5", 2.6))
        ],
        "claims": claims(),
        "by_scale": by_scale,
        "confusion": {
            "row": "(D/[37;73]/37,55,73), multi-crop+dense",
            "matrix": matrix,
            "pairs": pairs[:20],
        },
        "mistakes": [
            {
                "index": i,
                "name": f"val/cat_{i}/<x>|y.jpg",
                "true": CLASSES[i % 10],
                "predicted": CLASSES[(i + 3) % 10],
                "posterior": 0.99 - i / 100,
                "true_posterior": 0.01,
            }
            for i in range(24)
        ],
    }


def run(
    name: str, net: str, scale: Any, parent: str | None, start: str, learning_rate: float
) -> dict[str, Any]:
    recipe = {"model": {"net": net, "crop": 32}, "S": scale, "batch_size": 64, "momentum": 0.9}
    recipe |= {"weight_decay": 5e-4, "learning_rate": learning_rate, "epochs": 74, "seed": 0}
    found = {"name": name, "net": net, "S": scale, "parent": parent, "start": start}
    return {**found, "tune": "all", "epochs": 15, "recipe": recipe}


def comparison(
    better: str, worse: str, top1: float, other: float, alone: int, alone_other: int, p: float
) -> dict[str, Any]:
    return {
        "better": better,
        "worse": worse,
        "better_top1": top1,
        "worse_top1": other,
        "only_better_wrong": alone,
        "only_worse_wrong": alone_other,
        "p": p,
    }


def claims() -> list[dict[str, Any]]:
    def of(net: str, scale: str = "37", more: str = "dense") -> str:
        return f"{net}, S={scale}, Q=37, {more}"

    depth = [
        ({**comparison(of("B"), of("A"), 1.6, 3.4, 2, 11, 0.0225), "verdict": "confirmed"}),
        ({**comparison(of("D"), of("B"), 3.0, 1.6, 9, 2, 0.065), "verdict": "undecided"}),
        ({**comparison(of("E"), of("D"), 5.2, 3.0, 19, 8, 0.052), "verdict": "undecided"}),
    ]
    lrn = {
        **comparison(of("A"), of("A-LRN"), 2.4, 1.0, 9, 2, 0.065),
        "verdict": "undecided",
        "margin": 0.5,
        "gain_interval": [-0.2, 2.6],
    }
    jitter = of("D", "[37;73]")
    methods = [
        comparison(of("D", more="multi-crop+dense"), of("D"), 1.0, 3.0, 0, 10, 0.00195),
        comparison(of("E", more="multi-crop+dense"), of("E"), 1.0, 5.2, 0, 21, 9.5e-7),
    ]
    wide = comparison(of("B"), of("B-5x5"), 4.0, 2.0, 12, 2, 0.0129)
    return [
        claim("Depth helps", "§4.1", "undecided", depth),
        claim("LRN does not help", "§4.1", "undecided", [lrn]),
        claim(
            "Scale jittering in training helps",
            "§4.1",
            "confirmed",
            [{**comparison(jitter, of("D"), 1.2, 3.0, 1, 10, 0.0117), "verdict": "confirmed"}],
        ),
        claim(
            "Multi-crop and dense evaluation are complementary: both together do better",
            "§4.3",
            "confirmed",
            [{**one, "verdict": "confirmed"} for one in methods],
        ),
        claim(
            "A deep net of small filters does better than a shallower one of larger ones",
            "§4.1",
            "contradicted",
            [{**wide, "verdict": "contradicted"}],
        ),
    ]


def claim(
    words: str, section: str, verdict: str, comparisons: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"claim": words, "section": section, "verdict": verdict, "comparisons": comparisons}


def made_up_metrics(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    draw = random.Random(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in results["runs"]:
        found[one["name"]] = records = []
        level = 1.0 if one["name"] == "A-S37" else 0.4
        for epoch in range(one["epochs"]):
            level *= draw.uniform(0.6, 1.0)
            for step in range(3):
                loss = 2.3 * level * draw.uniform(0.9, 1.1)
                records.append({"kind": "train", "epoch": epoch, "step": step, "loss": loss})
            error = round(297 * 0.9 * level) / 2.97
            records.append({"kind": "validation", "epoch": epoch, "error": error})
    return found


def made_up_images(results: dict[str, Any]) -> list[Pixels]:
    draw = np.random.default_rng(2)
    sizes = [(8, 8), (32, 32), (300, 400)]
    return [
        draw.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8)
        for i in range(len(results["mistakes"]))
    ]


class Page(HTMLParser):
    """Reads a page, holds that its tags match, and collects its tables."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.heading = ""
        self.under: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
            self.under.append(self.heading)
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "h2":
            self.heading = ""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "h2" in self.open:
            self.heading += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def rows(self, heading: str) -> list[list[str]]:
        """The body of the first table under a heading that begins so."""
        found = [i for i, under in enumerate(self.under) if under.startswith(heading)]
        return self.tables[found[0]]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found = made_up()
    # As it comes from the file: tuples are lists.
    loaded: dict[str, Any] = json.loads(json.dumps(found))
    return loaded


@pytest.fixture(scope="module")
def html(results: dict[str, Any]) -> str:
    return report.html(results, made_up_metrics(results), made_up_images(results))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def error(row: dict[str, Any], top: str) -> str:
    if row[top] is None:
        return "–"
    low, high = row[f"{top}_interval"]
    return f"{row[top]:.1f} [{low:.1f}, {high:.1f}]"


def printed(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def expected(row: dict[str, Any]) -> list[str]:
    """What the row of a table ends with: measured, and the paper's."""
    cells = [error(row, "top1"), error(row, "top5")]
    theirs = row["paper"]
    if row["table"] in (3, 4):
        scale = theirs["S"] if isinstance(theirs["S"], int) else "[256;512]"
        cells += [str(scale), ", ".join(map(str, theirs["Q"]))]
    cells += [printed(theirs["top1"]), printed(theirs["top5"])]
    return cells + ([printed(theirs["top5_test"])] if row["table"] in (6, 7) else [])


def markdown_tables(text: str) -> Iterator[list[list[str]]]:
    """Every table of a Markdown text as GitHub reads it, with its escapes undone."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [
            [re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]


@pytest.mark.parametrize(("number", "count"), [(3, 12), (4, 10), (5, 6), (6, 4), (7, 15)])
def test_a_row_has_the_measured_and_the_papers_numbers(
    number: int, count: int, results: dict[str, Any], page: Page
) -> None:
    measured = [row for row in results["rows"] if row["table"] == number]
    assert len(measured) == count
    body = page.rows(f"Table {number}")[2:]
    lines = report.table(results, number).splitlines()
    (in_markdown,) = (
        found
        for heading, found in zip(
            re.findall(r"^#+ (.*)\n(?:(?!#).*\n)*?\|", report.markdown(results), re.MULTILINE),
            markdown_tables(report.markdown(results)),
            strict=False,
        )
        if heading.startswith(f"Table {number}:")
    )
    for row, found, marked in zip(measured, body, in_markdown[2:], strict=True):
        ends = expected(row)
        assert found[-len(ends) :] == ends
        assert marked[-len(ends) :] == ends
        # In the text the gaps between columns are of spaces.
        squeezed = [re.sub(" +", " ", line) for line in lines]
        assert any(" ".join(ends) in line for line in squeezed)
        if number < 6:
            assert found[0] == row["net"]
        if number < 5:
            assert found[1] == ("[37;73]" if row["S"] == JITTER else str(row["S"]))
    if number == 5:
        assert [found[1] for found in body[:3]] == ["dense", "multi-crop", "multi-crop & dense"]
    if number == 6:
        assert body[3][0] == "(D/[37;73]/37,55,73), (E/[37;73]/37,55,73)"
        assert "jittered D: FC layers alone tuned" in body[0][0]
    if number == 7:
        assert body[3] == ["GoogLeNet (1 net)", "–", "–", "–", "7.9", "–"]


def test_a_line_states_the_protocol(results: dict[str, Any], page: Page) -> None:
    note = "on digits (500 test images): error in percent, [95 % Wilson interval]; dense, one"
    text = " ".join(report.table(results, 3).splitlines()[:3])
    assert f"Table 3 {note}" in text
    assert "without flips" in text
    assert f"O{note[1:]}" in page.text
    assert note[1:] in report.markdown(results)


def test_text_fits_a_terminal_of_100_columns(results: dict[str, Any]) -> None:
    large = json.loads(json.dumps(results))
    for row in large["rows"]:  # as on ImageNet, where everything is wider
        if row["table"] == 4:
            row |= {"S": [256, 512], "Q": [256, 384, 512], "net": "A-LRN"}
        if row["top1"]:
            row |= {"top1": 27.0, "top1_interval": [25.0, 29.1]}
            row |= {"top5": 11.0, "top5_interval": [10.0, 12.1]}
    large["claims"][0]["claim"] = "Depth helps, " * 12
    for found in (results, large):
        text = report.text(found)
        assert max(map(len, text.splitlines())) <= 100
        assert [f"Table {n} on" in text for n in (3, 4, 5, 6, 7)] == [True] * 5
    lines = report.text(results).splitlines()[-5:]
    assert [line.split()[0] for line in lines] == [c["verdict"] for c in results["claims"]]
    assert lines[1].endswith("LRN does not help (§4.1): gain −0.2 to +2.6 points, margin 0.5")
    assert lines[0].endswith("Depth helps (§4.1): of 3 comparisons 1 confirmed, 2 undecided")


def test_claims_with_their_verdicts(results: dict[str, Any], page: Page) -> None:
    overview, tests = (
        table for table, under in zip(page.tables, page.under, strict=True) if "claims" in under
    )
    marks = {"confirmed": "✓", "contradicted": "✗", "undecided": "○"}
    for claim, row in zip(results["claims"], overview[1:], strict=True):
        verdict = claim["verdict"]
        assert row[0] == f"{claim['claim']} ({claim['section']})"
        assert row[1] == f"{marks[verdict]} {verdict}"
    assert tests[1] == ["Depth helps"]
    assert tests[3] == [
        *("D, S=37, Q=37, dense", "3.0", "B, S=37, Q=37, dense", "1.6"),
        *("9", "2", "0.065", "○ undecided"),
    ]
    assert tests[11][0] == "E, S=37, Q=37, multi-crop & dense"
    assert tests[11][6] == "< 0.001"
    assert "2 confirmed, 1 contradicted, 2 undecided" in page.text


def test_summary_names_the_lowest_error(results: dict[str, Any], page: Page) -> None:
    rows = [row for row in results["rows"] if row["table"] < 7]
    best = min(rows, key=lambda row: float(row["top1"]))
    assert f"Lowest top-1 error: {error(best, 'top1')} %" in page.text
    assert f"(Table {best['table']}). It is the lowest of 32" in page.text


def test_the_other_sections(results: dict[str, Any], page: Page) -> None:
    ablation = page.rows("One 5×5")
    assert ablation[2][-2:] == ["–", "–"]
    assert ablation[3][-2:] == ["+30.0 %", "+7 %"]
    averaging = page.rows("The two orders")
    assert averaging[2] == ["D", "[37;73]", "37, 55, 73", "1.2", "0.0", "1.4", "0.2", "1.000"]
    assert averaging[3][-1] == "–"
    others = page.rows("What others report")
    assert others[1][3] == "centre crop, no flips"
    assert others[2][3:5] == ["ten-crop, no flips", error(results["others_protocols"][1], "top1")]
    runs = page.rows("The runs")
    assert runs[-1] == [
        *("D-S37-73-fc", "D-S55", "all layers from D-S55", "FC alone", "15", "0.001", "[37;73]")
    ]
    assert page.rows("Table 2")[1][:3] == ["A", "133", "132,863,336"]
    assert "conv1-256" in "".join(page.rows("Table 1")[7])
    heat = page.rows("Confusions")
    for counts, row in zip(results["confusion"]["matrix"], heat[1:], strict=True):
        assert [int(cell or 0) for cell in row[1:]] == counts


def test_charts(html: str, results: dict[str, Any]) -> None:
    found = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    # Loss and error of two groups; A, A-LRN and B, then C, D, E; cost of D and E.
    assert len(found) == 4 + 4 + 2
    for svg in found:
        assert len(re.findall('role="img" aria-label="[^"]+"', svg)) == 1
    assert "multi-crop &amp; dense, 3 scales" in found[-1]
    assert "D [37;73], FC only" in found[2]
    assert "Training loss, S=55, [37;73]" in found[2]
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert {a or b for a, b in used} <= set(ids)


def test_curves_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, list[tuple[float, float]]]] = []
    monkeypatch.setattr(charts, "_lines", lambda figure, axes, series: drawn.append(series))
    records = [
        {"kind": "train", "epoch": 0, "step": 0, "loss": 3.0},
        {"kind": "train", "epoch": 0, "step": 1, "loss": 2.0},
        {"kind": "validation", "epoch": 0, "error": 12.0},
        {"kind": "train", "epoch": 1, "step": 2, "loss": 1.0},
        {"kind": "validation", "epoch": 1, "error": 11.0},
    ]
    charts.training([run("D-S37", "D", 37, None, "random weights", 0.01)], {"D-S37": records})
    assert drawn == [{"D": [(1, 2.5), (2, 1.0)]}, {"D": [(1, 12.0), (2, 11.0)]}]


def test_a_net_without_errors_has_its_curves() -> None:
    records = [
        {"kind": "train", "epoch": 0, "step": 0, "loss": 1.0},
        {"kind": "validation", "epoch": 0, "error": 0.0},
    ]
    runs = [run("D-S37-73", "D", JITTER, None, "random weights", 0.01)]
    loss, error = charts.training(runs, {"D-S37-73": records})
    assert "Training loss, S=[37;73]" in loss
    assert "Validation error, S=[37;73]" in error


def test_the_cost_chart_names_every_way_of_testing_in_the_order_of_its_cost(
    results: dict[str, Any],
) -> None:
    rows = [row for row in results["rows"] if row["table"] in (3, 4, 5)]
    svgs = charts.cost([*rows, *results["others_protocols"]])
    ways = [
        *("centre crop", "dense, 1 scale", "ten-crop", "dense, 3 scales"),
        *("multi-crop, 3 scales", "multi-crop &amp; dense, 3 scales"),
    ]
    for net, svg in zip("DE", svgs, strict=True):
        assert f"Cost and error: {net}, S=[37;73]" in svg
        assert [text for text in re.findall(r">([^<>]+)</text>", svg) if text in ways] == ways
    # Without Table 5: the net with the most ways.
    (svg,) = charts.cost([row for row in rows if row["table"] < 5 and row["net"] == "C"][:4])
    assert "Cost and error: C, S=37" in svg
    assert charts.cost(rows[:3]) == []
    assert charts.cost([row | {"multiply_adds_per_image": None} for row in rows]) == []


def test_the_page_stands_alone_and_fits_a_phone(html: str, page: Page) -> None:
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    for tag, name, value in page.attributes:
        assert tag not in ("script", "link", "iframe", "base")
        if name == "src":
            assert (value or "").startswith("data:image/png;base64,")
        if name.endswith("href"):
            assert (value or "").startswith("#")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert html.startswith("<!doctype html>")
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    # A wide table scrolls by itself.
    assert html.count("<table") == html.count('<div class="wide" tabindex="0">\n<table')


def test_mistakes_are_small_images(html: str, page: Page) -> None:
    import base64
    import io

    from PIL import Image

    images = [value or "" for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == 24
    sizes = []
    for data in images[:3]:
        with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as image:
            sizes.append(image.size)
    assert sizes == [(8, 8), (32, 32), (160, 120)]
    assert html.count('class="pixelated"') == 16
    assert "7 → <b>&lt;b&gt;&amp;</b>" not in html  # 7 becomes 0 in the made-up list
    assert "6 → <b>&lt;b&gt;&amp;</b>" in html


def test_names_are_escaped(html: str, results: dict[str, Any], page: Page) -> None:
    assert "<b>&<" not in html
    assert "<b>& " not in html
    assert "<b>&" in page.text
    text = report.markdown(results)
    assert "| &lt;b>& |" in text
    assert not re.search(r"<\S", text)
    assert report._escaped("&lt; [a](b) *c*") == r"&amp;lt; [a\](b) \*c\*"
    assert r"val/cat\_0/&lt;x>\|y.jpg" in text


def test_markdown_tables_are_rectangular(results: dict[str, Any]) -> None:
    found = list(markdown_tables(report.markdown(results)))
    # Claims and tests, Tables 3 to 7, scales, matrix, pairs, mistakes, averaging, others,
    # ablation, Tables 1 and 2, runs.
    assert len(found) == 2 + 5 + 4 + 3 + 3
    for rows in found:
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(re.fullmatch("-+:?", cell) for cell in rows[1])
        assert len(rows) > 2


@pytest.mark.parametrize("kept", ["rows", "claims", "runs", "by_scale", "confusion", "nothing"])
def test_what_is_missing_is_left_out(kept: str, results: dict[str, Any]) -> None:
    always = ("versions", "dataset", "crop", "width", "seed")
    some = {name: results[name] for name in (*always, kept) if name in results}
    some["only"] = "table 3, D"
    if kept == "rows":
        some["rows"] = [row for row in results["rows"] if row["table"] == 3][6:8]
    page = Page(report.html(some, {}, []))
    assert "Only a part of the grid was asked for: table 3, D." in page.text
    for heading, name in {
        "Table 3": "rows",
        "How a verdict": "claims",
        "The runs": "runs",
        "Error against": "by_scale",
        "Confusions": "confusion",
        "Table 4": "",
        "Worst mistakes": "",
    }.items():
        assert (heading in page.text) == (name == kept)
        assert heading in report.markdown(some) or name != kept
    text = report.text(some)
    assert (text == "") == (kept not in ("rows", "claims"))
    assert report.table(some, 4) == ""
    # An empty list is as a missing one.
    empty: dict[str, Any] = {
        name: [] for name in results if name not in (*always, kept, "only", "confusion")
    }
    assert report.markdown(some | empty) == report.markdown(some)


def test_many_classes_leave_only_the_pairs(results: dict[str, Any]) -> None:
    confusion = {**results["confusion"], "matrix": None}
    page = Page(report.html({**results, "confusion": confusion, "mistakes": []}, {}, []))
    assert page.rows("Confusions")[0] == ["true", "predicted", "count"]
    assert "Confusion matrix" not in page.text


def test_table_7_without_the_vggs(results: dict[str, Any]) -> None:
    rows = [row for row in results["rows"] if row["table"] == 7][3:]
    assert "nothing of it was measured" in " ".join(
        report.table({**results, "rows": rows}, 7).split()
    )


def test_the_same_results_give_the_same_bytes(html: str, results: dict[str, Any]) -> None:
    again = json.loads(json.dumps(results))
    assert report.html(again, made_up_metrics(again), made_up_images(again)) == html
    assert report.markdown(again) == report.markdown(results)


def test_a_results_image_list_of_another_length_is_refused(results: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="zip"):
        report.html(results, {}, [])

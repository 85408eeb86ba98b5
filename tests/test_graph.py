"""The graph of runs and rows against the paper's sections and tables, at two sizes of crop."""

import json

import pytest

from vggnet import InputError, paper
from vggnet.graph import Grid, Settings, grid, paper_numbers
from vggnet.protocols import Fusion

# §3.1 and §4: run, its parent, S at a crop of 224, learning rate, what learns.
RUNS = [
    ("A-S256", None, 256, 1e-2, "all"),
    ("A-LRN-S256", "A-S256", 256, 1e-2, "all"),
    ("B-S256", "A-S256", 256, 1e-2, "all"),
    ("C-S256", "A-S256", 256, 1e-2, "all"),
    ("D-S256", "A-S256", 256, 1e-2, "all"),
    ("E-S256", "A-S256", 256, 1e-2, "all"),
    ("B-5x5-S256", None, 256, 1e-2, "all"),
    ("C-S384", "C-S256", 384, 1e-3, "all"),
    ("D-S384", "D-S256", 384, 1e-3, "all"),
    ("E-S384", "E-S256", 384, 1e-3, "all"),
    ("C-S256-512", "C-S384", (256, 512), 1e-3, "all"),
    ("D-S256-512", "D-S384", (256, 512), 1e-3, "all"),
    ("E-S256-512", "E-S384", (256, 512), 1e-3, "all"),
    ("D-S256-512-fc", "D-S384", (256, 512), 1e-3, "fc"),
]


@pytest.fixture(scope="module")
def whole() -> Grid:
    return grid("photographs", 1000, True, Settings())


def test_the_runs_are_the_papers(whole: Grid) -> None:
    found = [
        (
            run.name,
            run.parent.name if run.parent else None,
            run.config.S,
            run.config.learning_rate,
            run.config.tune,
        )
        for run in whole.runs
    ]
    assert found == RUNS
    for run in whole.runs:
        config = run.config
        assert (config.batch_size, config.momentum, config.weight_decay) == (256, 0.9, 5e-4)
        assert (config.epochs, config.divisions, config.model.dropout) == (74, 3, 0.5)
        assert (config.model.crop, config.model.width) == (224, 1)
        assert config.flip
    names = [run.name for run in whole.runs]
    for run in whole.runs:  # parents first
        assert run.parent is None or names.index(run.parent.name) < names.index(run.name)


def test_the_rows_are_the_papers_at_crop_224(whole: Grid) -> None:
    """At the paper's crop, every row's S and Q are those that the paper prints."""
    for section, entries in (
        ("table 3", paper.TABLE_3),
        ("table 4", paper.TABLE_4),
        ("table 5", paper.TABLE_5),
    ):
        rows = [row for row in whole.rows if row.section == section]
        assert len(rows) == len(entries)
        for row, entry in zip(rows, entries, strict=True):
            found = row.protocol_of(row.members[0])
            assert (found.net, found.S, found.Q) == (entry.net, entry.S, entry.Q)
            assert (found.method, found.averaging, found.flips) == (entry.method, "scores", True)
    submission, *_ = [row for row in whole.rows if row.section == "table 6"]
    assert isinstance(submission.protocol, Fusion)
    assert [(p.net, p.S, p.Q) for p in submission.protocol.members] == [
        (member.net, member.S, member.Q) for member in paper.TABLE_6[0].members
    ]
    names = [member.run.name for member in submission.members]
    assert names[2] == "D-S256-512-fc"
    assert sum(bool(row.members) for row in whole.rows if row.section == "table 7") == 3
    assert len([row for row in whole.rows if row.section == "table 7"]) == 15


def test_the_same_graph_at_crop_32() -> None:
    found = grid("digits", 10, False, Settings(crop=32))
    assert [run.name.split("-S")[0] for run in found.runs] == [
        name.split("-S")[0] for name, *_ in RUNS
    ]
    assert {run.config.S for run in found.runs} == {37, 55, (37, 73)}
    table_4 = [row for row in found.rows if row.section == "table 4"]
    assert {row.members[0].Q for row in table_4} == {(32, 37, 42), (50, 55, 60), (37, 55, 73)}
    assert not any(row.flips for row in found.rows)
    assert not any(run.config.flip for run in found.runs)


def test_every_term_is_asked_for_once(whole: Grid) -> None:
    jittered = next(run for run in whole.runs if run.name == "D-S256-512")
    terms = whole.terms(jittered)
    assert len(set(terms)) == len(terms)
    kinds = [(term.method, term.averaging, term.Q) for term in terms if term.flips]
    assert {Q for method, _, Q in kinds if method == "multi-crop"} == {256, 384, 512}
    dense = {Q for method, averaging, Q in kinds if (method, averaging) == ("dense", "scores")}
    assert dense == {224, 256, 288, 352, 384, 416, 512}
    fc = next(run for run in whole.runs if run.config.tune == "fc")
    assert {(term.method, term.Q) for term in whole.terms(fc)} == {
        ("dense", 256),
        ("dense", 384),
        ("dense", 512),
    }


D_AND_E = {"A-S256"} | {f"{net}-{s}" for net in "DE" for s in ("S256", "S384", "S256-512")}


@pytest.mark.parametrize(
    ("only", "rows", "runs"),
    [
        ("table 3, D", 3, {"A-S256", "D-S256", "D-S384", "D-S256-512"}),
        ("Table 3,a", 1, {"A-S256"}),
        ("tables 4, b", 1, {"A-S256", "B-S256"}),
        ("table 5", 6, D_AND_E),
        ("ablation", 2, {"A-S256", "B-S256", "B-5x5-S256"}),
        ("A-LRN", 1, {"A-S256", "A-LRN-S256"}),
        ("b-5x5, ablation", 1, {"B-5x5-S256"}),
        ("table 6, D, E", 3, D_AND_E),
    ],
)
def test_only_a_part(only: str, rows: int, runs: set[str]) -> None:
    found = grid("photographs", 1000, True, Settings(only=only))
    assert len(found.rows) == rows
    assert {run.name for run in found.runs} == runs


@pytest.mark.parametrize("only", ["table 8", "", "F", "table 3; D", "table 6, A", "table 5, C"])
def test_a_part_that_is_none(only: str) -> None:
    with pytest.raises(InputError, match="only"):
        grid("photographs", 1000, True, Settings(only=only))


def test_settings_reach_the_runs() -> None:
    settings = Settings(crop=64, width=0.5, epochs=30, batch_size=16, seed=3)
    found = grid("digits", 10, False, settings)
    for run in found.runs:
        config = run.config
        assert (config.model.crop, config.model.width) == (64, 0.5)
        assert (config.batch_size, config.seed) == (16, 3)
        assert config.epochs == (30 if config.S == 73 else 20)
    for wrong in (Settings(crop=40), Settings(width=0), Settings(epochs=0), Settings(batch_size=0)):
        with pytest.raises(InputError):
            grid("digits", 10, False, wrong)


def test_the_papers_tables_are_transcribed() -> None:
    """Sums of the printed columns, added up from the paper itself."""
    assert sum(row.top1 for row in paper.TABLE_4) == pytest.approx(266.3)
    assert sum(row.top5 for row in paper.TABLE_4) == pytest.approx(85.7)
    assert sum(row.top1 for row in paper.TABLE_5) == pytest.approx(147.6)
    assert sum(row.top5 for row in paper.TABLE_5) == pytest.approx(44.2)
    assert [(row.top1, row.top5, row.top5_test) for row in paper.TABLE_6] == [
        (24.7, 7.5, 7.3),
        (24.0, 7.1, 7.0),
        (23.9, 7.2, None),
        (23.7, 6.8, 6.8),
    ]


def test_numbers_of_a_row_are_plain_data(whole: Grid) -> None:
    for row in whole.rows:
        json.dumps(paper_numbers(row))
    first = paper_numbers(whole.rows[0])
    assert first == {"S": 256, "Q": (256,), "top1": 29.6, "top5": 10.4, "method": "dense"}
    six = next(row for row in whole.rows if row.section == "table 6")
    assert paper_numbers(six)["nets"][0] == ["D", 256]
    assert paper_numbers(six)["top5_test"] == 7.3

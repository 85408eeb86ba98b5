"""The nets of Table 7 on Fashion-MNIST at the crop that they were made for, in pieces of minutes.

    PYTHONPATH=src python3 benchmarks/gpu/table7.py OUT --nets A,D,ZF --jobs 2 --minutes 7
    PYTHONPATH=src python3 benchmarks/gpu/table7.py OUT --merge FOLDER ...

Net A, D and E at a crop of 224, and beside them Krizhevsky's at 227, Zeiler & Fergus' at 224,
OverFeat's fast one at 231, GoogLeNet at 224 and MSRA's pyramid at 224, all at the paper's width and
in bfloat16. As fashion.py, whose options it has: called again it goes on; pieces are merged without
their weights; `--plan` says what a piece takes; `--small --device cpu` is the same code on little.

The recipe is §3.1's for all (`recipes.rival_256`), so the nets differ in nothing but themselves.
Departures from the way of Table 7's own row, E of [256;512] tested at three scales, for lack of
time: S = 256 alone (in proportion to the crop), at most 12 epochs, 3 without a gain a plateau;
tested at Q = S, dense and multi-crop & dense. A and the others begin at random, D and E from A.

`--merge` writes the package's report (its Table 7 has a row measured here for every net; Clarifai's
keep the paper's number alone) and table-7.md and table-7.json: every row with its protocol, and
against D on the same images.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fashion
import pieces

from vggnet import claims, paper
from vggnet.accounting import account
from vggnet.graph import Grid, Member, Row, Settings, grid
from vggnet.parts import Dataset
from vggnet.protocols import Method, single_scale
from vggnet.rivals import MEASURED_HERE, RIVALS

NETS = ("A", "D", "E", *RIVALS)
EPOCHS = 12


def of_table_7(whole: Grid) -> Grid:
    """The runs of S = 256 and what is measured of them; Table 7 with every net that is trained."""
    runs = tuple(run for run in whole.runs if run.paper_S == 256 and run.config.model.title in NETS)
    flip = whole.rows[0].flips
    members = {run.config.model.net: Member(run, (single_scale(run.config.S),)) for run in runs}
    methods: tuple[Method, ...] = ("dense", "multi-crop+dense")
    rows = [
        Row("departure", (member,), way, flip) for member in members.values() for way in methods
    ]
    systems = {net.system: name for name, net in RIVALS.items()}
    for system in paper.TABLE_7:
        net = systems.get(system.name)
        if [member.net for member in system.members] == ["E"]:
            net = "E"
        measured = () if net is None else (members[net],)
        method = system.method if net is None else "multi-crop+dense"
        rows.append(Row("table 7", measured, method, flip, published=system))
    return Grid(runs, tuple(rows))


def setting(data: str, *, small: bool) -> tuple[Dataset, Settings, Grid]:
    """The data set, how it is learnt, and everything that may be asked for."""
    found, _, _ = fashion.setting(data, small=small)
    settings = Settings(crop=224, width=1.0, epochs=EPOCHS, precision="bfloat16", rivals=True)
    if small:
        settings = Settings(crop=64, width=1 / 32, epochs=1, rivals=True)
    return (
        found,
        settings,
        of_table_7(grid(found.name, len(found.class_names), found.flip, settings)),
    )


def report(whole: Grid, data: Dataset, settings: Settings, out: Path) -> None:
    """The package's report, and the nets beside each other."""
    pieces.report(whole, data, settings, out)
    test = pieces.Rows(data.test, out)
    rows = [
        row
        for row in whole.rows
        if row.section == "departure" and all(pieces.is_done(m.run, out) for m in row.members)
    ]
    of_d = {row.method: row for row in rows if row.nets == {"D"}}
    found = [_row(row, of_d.get(row.method), test) for row in rows]
    (out / "table-7.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (out / "table-7.md").write_text(_table(found, data))


def _row(row: Row, of_d: Row | None, test: pieces.Rows) -> dict[str, Any]:
    (member,) = row.members
    model = member.run.config.model
    systems = {net.system: name for name, net in RIVALS.items()}
    system = next(
        (
            system
            for system in paper.TABLE_7
            if systems.get(system.name) == model.net
            or [one.net for one in system.members] == [model.net]
        ),
        None,
    )
    cost = account(model)
    found = {
        "net": model.net,
        "system": None if system is None else system.name,
        "here": None if system is None else MEASURED_HERE.get(system.name),
        "paper_top1": None if system is None else system.top1,
        "crop": model.crop,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        **test.json(row),
    }
    if of_d is not None and of_d != row:
        found["against_D"] = claims.compare(row, of_d, test.wrong)
    return found


def _table(rows: Sequence[dict[str, Any]], data: Dataset) -> str:
    """Markdown."""
    lines = [
        f"Top-1 error in percent on {data.name} ({len(data.test):,} test images) with its 95 % "
        "Wilson interval; p is McNemar's against D on the same images by the same method; the "
        "paper's number is on ILSVRC-2012, validation.",
        "",
        "| net | crop | parameters | GMAC | protocol | top-1 error | p | Table 7 | paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["top1_interval"]
        p = f"{row['against_D']['p']:.3f}" if "against_D" in row else "–"
        system = "–" if row["system"] is None else row["system"]
        system += f"; {row['here']}" * bool(row["here"])
        lines.append(
            f"| {row['net']} | {row['crop']} | {row['parameters']:,} "
            f"| {row['multiply_adds'] / 1e9:.2f} | {row['row']} "
            f"| {row['top1']:.2f} [{low:.2f}, {high:.2f}] | {p} | {system} "
            f"| {row['paper_top1'] or '–'} |"
        )
    known = {net.system for net in RIVALS.values()}
    lines.append("")
    lines += [
        f"{system.name}: {MEASURED_HERE[system.name]}; the paper's top-5 error on the test set is "
        f"{system.top5_test}."
        for system in paper.TABLE_7
        if system.name in MEASURED_HERE and system.name not in known
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    fashion.main(
        arguments,
        title=(__doc__ or "").splitlines()[0],
        runs=Path("runs/table-7"),
        made=setting,
        told=report,
    )


if __name__ == "__main__":
    main()

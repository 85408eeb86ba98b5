"""Results as a page, as Markdown and as text: the paper's tables with what was measured."""

import base64
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from vggnet import charts, tables
from vggnet.charts import METHODS, Record
from vggnet.images import Pixels
from vggnet.protocols import scale_text
from vggnet.tables import HERE, MARKS, PAPER, TABLES, Column, Results

Metrics = Mapping[str, Sequence[Record]]
"""For each run's name, the records of its `metrics.jsonl`."""

_WIDTH = 100
"""Columns of the terminal."""
_THUMBNAIL = 160
"""Largest side in pixels of an image in the page."""
_PIXELATED = 80
"""An image of no larger side is shown enlarged with its pixels visible."""


def html(results: Results, metrics: Metrics, mistakes: Sequence[Pixels]) -> str:
    """One self-contained page: tables, claims, charts, confusions, mistakes, runs.

    Args:
        results: as `results.json` holds them.
        metrics: the runs' training records.
        mistakes: the images of `results["mistakes"]`, in their order.
    """
    rows = [row for row in results.get("rows") or [] if row["table"] in (3, 4, 5)]
    pictures = zip(results.get("mistakes") or [], mistakes, strict=True)
    return _render(
        "report.html.jinja",
        results,
        curves=_svgs(charts.training(results.get("runs") or [], metrics)),
        scales=_svgs(charts.error_by_scale(results.get("by_scale") or [])),
        costs=_svgs(charts.cost([*rows, *(results.get("others_protocols") or [])])),
        heat=_heat(results.get("confusion") or {}),
        mistakes=[{**mistake, **_picture(image)} for mistake, image in pictures],
    )


def markdown(results: Results) -> str:
    """The page's content as Markdown, without charts and images.

    Args:
        results: as `results.json` holds them.
    """
    return re.sub(r"\n{3,}", "\n\n", _render("report.md.jinja", results))


def text(results: Results) -> str:
    """Tables 3–7 and the verdicts for a terminal of 100 columns.

    Args:
        results: as `results.json` holds them.
    """
    parts = [found for number in TABLES if (found := table(results, number))]
    claims = results.get("claims") or []
    if claims:
        lines = ["Claims of the paper, tested on these nets and these images", ""]
        for claim in claims:
            line = f"{claim['verdict']:<14}{claim['claim']} ({claim['section']})"
            longer = f"{line}: {tables.evidence(claim)}"
            line = longer if len(longer) <= _WIDTH else line
            lines.append(line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…")
        parts.append("\n".join(lines))
    return "\n\n\n".join(parts)


def table(results: Results, number: int) -> str:
    """One of Tables 3–7 for a terminal of 100 columns; empty where nothing of it was measured.

    Args:
        results: as `results.json` holds them.
        number: 3 to 7.
    """
    found = tables.published(results, number)
    if not found:
        return ""
    names = tuple(column.name for column in found.columns)
    # A name may take several lines; so may the cells of the widest column, where there is need.
    widths = [
        max(*map(len, names[i].split()), *(len(row[i]) for row in found.rows))
        for i in range(len(names))
    ]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH else 1
    over = sum(widths) + gap * (len(widths) - 1) - _WIDTH
    if over > 0:
        widths[widths.index(max(widths))] -= over
    lines = [
        *textwrap.wrap(f"{found.label} {found.note}", _WIDTH, break_on_hyphens=False),
        "",
        _groups(found.columns, widths, gap),
    ]
    for row in (names, *found.rows):
        wrapped = [
            textwrap.wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            cells = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)


def _groups(columns: Sequence[Column], widths: Sequence[int], gap: int) -> str:
    """The line above the names: each group's name above its first column."""
    line, at, last = "", 0, ""
    for column, width in zip(columns, widths, strict=True):
        if column.group != last:
            line = line.ljust(at) + column.group
        last, at = column.group, at + width + gap
    return line


def _render(template: str, results: Results, **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vggnet", "templates"),
        autoescape=template.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["escaped"] = _escaped
    environment.globals.update(marks=MARKS, here=HERE, paper=PAPER)
    return environment.get_template(template).render(
        results=results,
        summary=_summary(results),
        claims=tables.claims(results),
        comparisons=tables.comparisons(results),
        tables=[found for number in TABLES if (found := tables.published(results, number))],
        scale_table=tables.by_scale(results),
        confused=tables.methods_text((results.get("confusion") or {}).get("row", "")),
        confusion=tables.confusion(results),
        pairs=tables.pairs(results),
        mistake_table=tables.mistakes(results),
        averaging=tables.averaging(results),
        others=tables.others_protocols(results),
        ablation=tables.ablation(results),
        table1=tables.table_1(),
        table2=tables.table_2(results),
        runs=tables.runs(results),
        **more,
    )


def _escaped(text: object) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    text = re.sub(r"\s+", " ", str(text))
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"([\\|*_`~]|\](?=[(\[]))", r"\\\1", text)


def _svgs(found: Iterable[str]) -> list[Markup]:
    return [Markup(svg) for svg in found]


def _summary(results: Results) -> list[str]:
    """What was trained and measured, the lowest error, and how many claims came out how."""
    data = results["dataset"]
    lines = [
        f"Trained on {data['train']:,} images of {data['name']} "
        f"({len(data['class_names']):,} classes); the learning rate followed "
        f"{data['validation']:,} validation images. The errors are measured on "
        f"{data['test']:,} test images that had no part in training."
    ]
    if missing := data.get("left_out"):
        counts = ", ".join(f"{n:,} of the {part} part" for part, n in missing.items())
        lines.append(f"Left out, since they cannot be read: {counts}.")
    runs = results.get("runs") or []
    nets = ", ".join(dict.fromkeys(run["net"] for run in runs))
    size = (
        f"crop {results['crop']}, width {results['width']:g} of the paper’s, seed {results['seed']}"
    )
    count = "1 training run" if len(runs) == 1 else f"{len(runs)} training runs"
    lines.append(f"{count} of the nets {nets}; {size}." if runs else f"{size.capitalize()}.")
    if results.get("only"):
        lines.append(f"Only a part of the grid was asked for: {results['only']}.")
    rows = [row for number in (3, 4, 5, 6) for row in tables.rows_of(results, number)]
    rows = [row for row in rows if row["top1"] is not None]
    if rows:
        best = min(rows, key=lambda row: row["top1"])
        if best["table"] == 6:
            fused = [net for net, _ in best["nets"]]
            which = " & ".join(fused) if len(fused) < 4 else f"{len(fused)} nets"
        else:
            scales = f"S = {scale_text(best['S'])}, Q = {tables.scales_text(best['Q'])}"
            which = f"{best['net']}, {scales}"
        lowest, method = tables.error(best, "top1"), METHODS[best["method"]]
        lines.append(
            f"Lowest top-1 error: {lowest} %: {which}, {method} "
            f"(Table {best['table']}). It is the lowest of {len(rows)}, chosen on the images that "
            "it is measured on; on new images expect more."
        )
    claims = results.get("claims") or []
    if claims:
        verdicts = [claim["verdict"] for claim in claims]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in MARKS)
        lines.append(f"Claims of the paper, tested here: {counts}.")
    return lines


def _heat(confusion: Record) -> list[list[tuple[int, str]]]:
    """For each cell of the confusion matrix its count and a background colour."""
    matrix = confusion.get("matrix") or []
    wrong = [n for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j]
    largest = max([1, *wrong])

    def shade(i: int, j: int) -> str:
        if not matrix[i][j]:
            return ""
        if i == j:  # blue, by the share of the class that is right
            return f"rgb(0 114 178/{0.1 + 0.3 * matrix[i][j] / sum(matrix[i]):.2f})"
        return f"rgb(213 94 0/{0.15 + 0.5 * matrix[i][j] / largest:.2f})"

    return [[(n, shade(i, j)) for j, n in enumerate(row)] for i, row in enumerate(matrix)]


def _picture(image: Pixels) -> dict[str, Any]:
    """An image as a data URI of a PNG, and whether its pixels are to be seen."""
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    pixelated = max(image.shape[:2]) <= _PIXELATED
    return {"data": f"data:image/png;base64,{data}", "pixelated": pixelated}

"""`vggnet weights`: known public weights, and fetching them."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from vggnet.errors import InputError

if TYPE_CHECKING:
    from vggnet.published import Published


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[fetch] NAME",
        help="all that is known of these weights, or fetch them; without NAME the table",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    from vggnet import published

    match args.words:
        case []:
            rows = published.PUBLISHED.values()
            print(_json([row.to_json() for row in rows]) if args.json else _table(list(rows)))
        case ["fetch"]:
            raise InputError("fetch: name the weights, as vggnet weights lists them")
        case ["fetch", name]:
            _fetch(published.find(name), args.json)
        case [name]:
            row = published.find(name)
            print(_json(row.to_json()) if args.json else _facts(row))
        case words:
            raise InputError(f"weights {' '.join(words)}: give one name, or fetch and one name")


def _fetch(row: "Published", as_json: bool) -> None:
    from vggnet.fetch import fetch, has_begun, next_command

    try:
        path, present = fetch(row, progress=True)
    except KeyboardInterrupt:
        if has_begun(row):
            print(f"\nwhat came is kept: vggnet weights fetch {row.name} goes on", file=sys.stderr)
        raise
    if as_json:
        facts = {"path": str(path), "downloaded": not present, "next": next_command(row, path)}
        print(_json(row.to_json() | facts))
        return
    checked = f", its {row.checksum.kind} is right" if row.checksum else ""
    print(f"{path}: {f'is there already{checked}' if present else f'downloaded{checked}'}")
    print(f"licence: {row.licence} ({row.licence_source})")
    print(f"next: {next_command(row, path)}")


def _table(rows: "list[Published]") -> str:
    head = ("name", "net", "top-1", "top-5", "protocol of these errors", "licence", "MiB")
    lines = [
        (
            row.name,
            row.config.title,
            *_error(row),
            row.licence,
            "" if row.mib is None else f"{row.mib:.0f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    numbers = (2, 3, 6)

    def text(line: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(
        [
            *map(text, [head, *lines]),
            "",
            "Errors in percent on ILSVRC-2012's validation images, as published; an empty cell: "
            "not published.",
            "All there is to know of one: vggnet weights NAME. Download: vggnet weights fetch NAME",
        ]
    )


def _error(row: "Published") -> tuple[str, str, str]:
    if not row.errors:
        return "", "", "" if row.head else "no classifier"
    error = row.errors[0]
    return _percent(error.top1), _percent(error.top5), error.protocol


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:g}"


def _facts(row: "Published") -> str:
    from vggnet.fetch import next_command, place

    head = "with its classifier" if row.head else "without a classifier"
    lines = [row.name, f"  net: {row.config.title}, {head}; {row.format}'s format"]
    if row.note:
        lines.append(f"  {row.note}")
    lines.append(f"  from: {row.url}")
    if row.repo is None:
        lines.append(f"  goes to: {place(row)}")
    lines.append(f"  licence: {row.licence} ({row.licence_source})")
    if row.checksum:
        lines.append(f"  {row.checksum.kind}: {row.checksum.digits} ({row.checksum.source})")
    else:
        hub = "the Hub's own, which its client checks" if row.repo else "not published"
        lines.append(f"  checksum: {hub}")
    lines.append(f"  size: {'not published' if row.mib is None else f'{row.mib:g} MiB'}")
    for error in row.errors:
        both = [("top-1", error.top1), ("top-5", error.top5)]
        numbers = ", ".join(f"{name} {value:g} %" for name, value in both if value is not None)
        lines.append(f"  error: {numbers} ({error.protocol}; {error.source})")
    if not row.errors:
        lines.append("  error: not published")
    lines.append(f"  its own software's images: {row.preprocessing}; the converted net: RGB 0–255")
    lines.append(f"  source: {row.source}")
    if row.repo is None:
        lines.append(f"  then: {next_command(row, place(row))}")
    return "\n".join(lines)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)

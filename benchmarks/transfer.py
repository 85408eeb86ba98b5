"""What descriptors of small nets are worth on data that they were not trained on (Appendix B).

Nets D from A's first layers, trained on the digits at three widths, and one on Fashion-MNIST; on
each linear SVMs on descriptors of the other data set, beside the same SVMs on raw pixels. All of it
is `vggnet train`, `vggnet evaluate` and `vggnet transfer`, one after the other in a folder;
stopped, the same command goes on. `--only 10,100` takes these numbers of training images a class
alone.

    .venv/bin/python benchmarks/transfer.py [--runs runs/transfer] [--only N,N] [--json]
        [--out FILE] [--quick]
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from origin import give, load, origin, parser_of


@dataclass(frozen=True)
class Net:
    data: str
    crop: int
    width: float
    epochs: int | None = None

    @property
    def name(self) -> str:
        return f"{self.data}-{self.crop}-{self.width:g}"


@dataclass(frozen=True)
class Case:
    net: Net
    layer: str
    data: str
    """Whose images are described."""
    per_class: int | None
    """Training images a class; all of them for None."""
    C: str = "0.01,0.1,1,10,100,1000"
    splits: int = 3

    @property
    def name(self) -> str:
        return f"{self.net.name}-{self.layer}-{self.data}-{self.per_class or 'all'}"


EIGHTH, SIXTEENTH = Net("digits", 32, 1 / 8), Net("digits", 64, 1 / 16)
HALF, GARMENTS = Net("digits", 32, 1 / 2), Net("fashion-mnist", 32, 1 / 8, epochs=4)
MANY = "0.1,1,10,100"
CASES = (
    *(Case(SIXTEENTH, "relu7", "fashion-mnist", n) for n in (10, 100)),
    *(Case(EIGHTH, "relu7", "fashion-mnist", n) for n in (10, 100)),
    *(Case(EIGHTH, "pool4", "fashion-mnist", n) for n in (10, 100)),
    *(Case(HALF, "pool4", "fashion-mnist", n) for n in (10, 100)),
    *(Case(GARMENTS, layer, "digits", 10) for layer in ("relu7", "pool4")),
    *(Case(GARMENTS, layer, "digits", None, splits=1) for layer in ("relu7", "pool4")),
    *(Case(EIGHTH, layer, "digits", None, splits=1) for layer in ("relu7", "pool4")),
    Case(HALF, "pool4", "fashion-mnist", 1000, MANY),
    Case(EIGHTH, "relu7", "fashion-mnist", 1000, "1,10,100", splits=1),
    Case(EIGHTH, "pool4", "fashion-mnist", None, "0.1,1,10,100,1000", splits=1),
)


def vgg(*words: str | Path) -> str:
    command = [sys.executable, "-m", "vggnet", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def trained(net: Net, runs: Path, quick: bool) -> Path:
    """The weights of D, from A's first layers."""
    size = ["--crop", net.crop, "--width", net.width]
    epochs = 1 if quick else net.epochs
    more = [*map(str, size), *([] if epochs is None else ["--epochs", str(epochs)])]
    first, last = runs / f"{net.name}-a", runs / f"{net.name}-d"
    vgg("train", net.data, "--net", "A", *more, "--out", first)
    parent = first / "weights.safetensors"
    vgg("train", net.data, "--net", "D", *more, "--init-from", parent, "--out", last)
    return last / "weights.safetensors"


def transferred(case: Case, weights: Path, runs: Path, quick: bool) -> dict[str, Any]:
    out = runs / case.name
    some = (
        [] if case.per_class is None else ["--train-per-class", str(5 if quick else case.per_class)]
    )
    some += ["--test-per-class", "20"] if quick else []
    splits = case.splits if some else 1
    flips = ["--no-flips"] if case.data == "digits" else []
    vgg("transfer", weights, case.data, "--layer", case.layer, *some, "--splits", str(splits),
        "--C", "1,10" if quick else case.C, *flips, "--out", out)  # fmt: skip
    found = json.loads((out / "transfer.json").read_text())
    return {
        "net": case.net.name,
        "layer": case.layer,
        "data": case.data,
        "per_class": case.per_class,
        "Q": found["descriptors"]["scales"],
        "C": found["protocol"]["C"],
        "rows": {
            row["name"]: {
                "length": row["length"],
                "value": round(row["value"], 2),
                "sd": row["sd"] and round(row["sd"], 2),
                "interval": [round(x, 2) for x in row["splits"][0]["interval"]],
                "C": [split["C"] for split in row["splits"]],
                "train": row["splits"][0]["train"],
                "test": row["splits"][0]["test"],
            }
            for row in found["rows"]
        },
    }


def main() -> None:
    parser = parser_of(__doc__, "few images, an epoch")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="their folder")
    parser.add_argument("--only", help="numbers of training images a class, with commas between")
    args = parser.parse_args()
    before = load()
    chosen = None if args.only is None else {int(n) for n in args.only.split(",")}
    cases = [case for case in CASES if chosen is None or case.per_class in chosen]
    args.runs.mkdir(parents=True, exist_ok=True)
    weights = {
        net: trained(net, args.runs, args.quick) for net in dict.fromkeys(c.net for c in cases)
    }
    nets = {}
    for net, path in weights.items():
        tested = json.loads(vgg("evaluate", path, net.data, "--no-flips", "--json"))
        nets[net.name] = {
            "crop": net.crop,
            "width": net.width,
            "epochs": net.epochs,
            "Q": tested["protocol"]["Q"],
            "method": tested["protocol"]["method"],
            "n": tested["n"],
            "top1": round(tested["top1"], 2),
        }
    rows = []
    for case in cases:
        rows.append(transferred(case, weights[case.net], args.runs, args.quick))
        print(case.name, {k: v["value"] for k, v in rows[-1]["rows"].items()}, file=sys.stderr)
    lines = []
    for row in rows:
        values = ", ".join(f"{name} {x['value']}±{x['sd']}" for name, x in row["rows"].items())
        count = row["per_class"] or "all"
        lines.append(f"{row['net']} {row['layer']}, {row['data']}, {count}: {values}")
    measure = "mean class recall, percent"
    result = {"nets": nets, "rows": rows, "measure": measure} | origin(before, "scikit-learn")
    give(result, args, lines)


if __name__ == "__main__":
    main()

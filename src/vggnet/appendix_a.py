"""Appendix A on the user's data: the nets that give boxes, and the rows of Tables 8 and 9."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vggnet import __version__, checkpoint, paper
from vggnet.configs import Boxes
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.evaluate import OnBad
from vggnet.files import check_writable, sha256, write_atomically
from vggnet.localize import MERGE, Localiser
from vggnet.located import Located, of_dense, of_known_class
from vggnet.loop import OnBadImage
from vggnet.parts import Dataset, other_classes
from vggnet.protocols import multi_scale
from vggnet.recipes import TrainConfig, Tune, localiser
from vggnet.scoring import gain_interval, mcnemar
from vggnet.train import train

RESULTS = "localisation.json"
Method = Literal["centre-crop", "dense", "crops"]
"""crops: the windows of the dense map, each looked at alone."""
_NUMBERS = ("n", "unread", "top1", "top1_interval", "top5", "top5_interval")
_WORDS = {"centre-crop": "centre crop", "dense": "dense", "crops": "windows as crops"}
_ALONE = World()


@dataclass(frozen=True, slots=True)
class Run:
    """A net that is trained to give boxes."""

    classifier: Path
    net: str
    S: int
    boxes: Boxes
    tune: Tune

    @property
    def name(self) -> str:
        return f"{self.net}-{self.S}-{self.boxes}-{self.tune}"


@dataclass(frozen=True, slots=True)
class Row:
    """An error: of one net on a centre crop, or of one or several dense."""

    runs: tuple[Run, ...]
    Q: tuple[tuple[int, ...], ...]
    method: Method
    known: bool
    """Whether the class is known."""
    published: paper.BoxRow | paper.DenseBoxes | None = None


def runs_of(classifiers: Sequence[Path]) -> list[Run]:
    """Of the first classifier Table 8's three, of every other the best of them.

    Raises:
        InputError: for weights that are no classifier's, of a jittered S, or of the same net and S.
    """
    runs: list[Run] = []
    for path in classifiers:
        header = checkpoint.read_header(path)
        S = header.provenance.S  # noqa: N806
        try:
            header.config.check_vgg("localisation")
            header.config.check_classes()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if not isinstance(S, int):
            what = "does not say its S" if S is None else f"was trained at S from {S[0]} to {S[1]}"
            raise InputError(f"{path}: {what}; boxes start from a classifier of a fixed S")
        kinds: list[tuple[Boxes, Tune]] = [("pcr", "all")]
        if not runs:
            kinds = [(row.boxes, row.tune) for row in paper.TABLE_8]
        runs += [Run(path, header.config.title, S, *kind) for kind in kinds]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError("two classifiers are of the same net and S: give one of them")
    return runs


def rows_of(runs: Sequence[Run], crop: int) -> list[Row]:
    """What is measured: Table 8; of its best and of the other classifiers' nets the centre crop and
    the dense map, the class being known; Table 9."""
    best = [run for run in runs if (run.boxes, run.tune) == ("pcr", "all")]
    rows = [
        Row((run,), ((run.S,),), "centre-crop", True, published)
        for run, published in zip(runs, paper.TABLE_8, strict=False)
    ]
    rows += [Row((run,), ((run.S,),), "centre-crop", True) for run in best[1:]]
    several: tuple[Method, ...] = ("dense", "crops")
    rows += [Row((run,), ((run.S,),), method, True) for run in best for method in several]
    alone = [Row((run,), ((run.S,),), "dense", False) for run in best]
    last, Q = best[-1], multi_scale(best[-1].S, crop)[:2]  # noqa: N806, in the paper {352, 384}
    dense = [*alone, Row((last,), (Q,), "dense", False)] if Q[0] >= crop else alone
    if len(best) > 1:
        scales = (*((run.S,) for run in best[:-1]), dense[-1].Q[0])
        dense.append(Row(tuple(best), scales, "dense", False))
    # The paper's rows, where the nets are as its: one S, or two of D.
    published = dict(zip(range(4), paper.TABLE_9, strict=True)) if len(dense) == 4 else {}
    return rows + [replace(row, published=published.get(i)) for i, row in enumerate(dense)]


def reproduce(
    classifiers: Sequence[Path],
    data: Dataset,
    out: Path,
    *,
    fit: Callable[[TrainConfig], TrainConfig] = lambda recipe: recipe,
    merge: float = MERGE,
    device: str = "cpu",
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
    log: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    world: World = _ALONE,
) -> dict[str, Any]:
    """Trains what is not trained yet, measures what is not measured yet, writes `RESULTS`.

    Args:
        classifiers: weight files of nets trained on this data at a fixed S each; the first one's S
            is Table 8's, and of several nets Table 9 has the fusion.
        data: boxes are known for each part.
        out: the folder; a run each in `runs/`, what each row gets wrong in `rows/`.
        fit: batch size, rate and epochs for the amount of data.
        merge: as for `localize.localise`.
        device: cpu or cuda.
        workers: processes that read images.
        on_bad_image: as for `train.train`; in testing too.
        log: gets lines of progress.
        progress: show bars on a terminal.
        world: the processes that do it together.

    Returns:
        What `RESULTS` holds.

    Raises:
        InputError: for classifiers, data or a folder that do not fit.
        RunError, Stopped: as `train.train`.
    """
    runs = runs_of(classifiers)
    on_bad = None if on_bad_image == "stop" else lambda _, why: log(f"left out: {why}")
    if data.test.boxes is None:
        raise InputError(f"{data.name}: it is not known where the objects are: give their boxes")
    for path in classifiers:
        names = checkpoint.read_header(path).provenance.class_names
        if names is not None and names != data.class_names:
            raise InputError(f"{path}: {other_classes(names, data)}")
    check_writable(out / RESULTS)
    crop = checkpoint.read_header(classifiers[0]).config.crop
    rows = rows_of(runs, crop)
    weights: dict[Run, Path] = {}
    for run in runs:
        config = checkpoint.read_header(run.classifier).config
        weights[run] = train(
            fit(localiser(config, run.boxes, run.S, run.tune)),
            data,
            out / "runs" / run.name,
            parent=run.classifier,
            device=device,
            log=log,
            label=run.name,
            progress=progress,
            workers=workers,
            on_bad_image=on_bad_image,
            world=world,
        )
    measured = []
    for row in rows:
        members = [
            Member(weights[run], run.classifier, Q) for run, Q in zip(row.runs, row.Q, strict=True)
        ]
        kept = out / "rows" / f"{_key(row, members, data, merge)}.npy"
        if kept.exists():
            found = Located.of(np.load(kept))
        else:
            found = _measure(row, members, data, merge, device, workers, on_bad, progress, world)
            world.wait()  # all have looked
            if world.is_first:
                write_atomically(kept, partial(_write, found))
        measured.append(found)
        log(f"{title(row)}: {_error(found)}")
    results = _results(rows, measured, data, merge)
    if world.is_first:
        text = json.dumps(results, indent=1) + "\n"
        write_atomically(out / RESULTS, lambda path: path.write_text(text, "utf-8"))
    return results


@dataclass(frozen=True, slots=True)
class Member:
    """A net of a row: its weight file, its classifier's, and test scales."""

    boxes: Path
    classifier: Path
    Q: tuple[int, ...]


def _key(row: Row, members: Sequence[Member], data: Dataset, merge: float) -> str:
    """A hash over what a row's errors depend on."""
    alone = row.method == "centre-crop"
    what = [data.test.fingerprint, data.flip, row.method, row.known, None if alone else merge]
    for member in members:
        files = [sha256(path) for path in (member.boxes, member.classifier)]
        what.append([*(files[:1] if alone else files), member.Q])
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]


def _measure(
    row: Row,
    members: Sequence[Member],
    data: Dataset,
    merge: float,
    device: str,
    workers: int,
    on_bad: OnBad | None,
    progress: bool,
    world: World,
) -> Located:
    label = title(row) if progress else None
    nets = [
        Localiser(
            checkpoint.load(one.boxes).to(device), checkpoint.load(one.classifier).to(device), one.Q
        )
        for one in members
    ]
    options: Any = {"workers": workers, "on_bad": on_bad, "world": world, "progress": label}
    if row.method == "centre-crop":
        return of_known_class(nets[0].boxes, data.test, members[0].Q[0], **options)
    options |= {"windows": row.method, "merge": merge, "flips": data.flip}
    return of_dense(nets, data.test, known=row.known, **options)


def _write(found: Located, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, found.wrong)


def title(row: Row) -> str:
    """A row in words: D/73 pcr all, dense at 73."""
    nets = " & ".join(f"{run.net}/{run.S} {run.boxes} {run.tune}" for run in row.runs)
    scales = " & ".join(",".join(map(str, Q)) for Q in row.Q)
    known = ", class known" * row.known
    return f"{nets}, {_WORDS[row.method]} at {scales}{known}"


def _results(
    rows: Sequence[Row], measured: Sequence[Located], data: Dataset, merge: float
) -> dict[str, Any]:
    return {
        "versions": {"vggnet": __version__, "torch": torch.__version__},
        "dataset": {"name": data.name, "test": len(data.test), "class_names": data.class_names},
        "merge": merge,
        "rows": [_row(row, found) for row, found in zip(rows, measured, strict=True)],
        "comparisons": _comparisons(rows, measured),
    }


def _comparisons(rows: Sequence[Row], measured: Sequence[Located]) -> list[dict[str, Any]]:
    """What the paper says is better after what it says is worse: PCR after SCR, all layers after
    the FC layers, and after each centre crop the same net's dense map, the class being known; and
    after that its windows as crops, of which the paper says nothing."""
    known = [i for i, row in enumerate(rows) if row.known]
    pairs = [(0, 1), (1, 2)]
    pairs += [
        (i, k)
        for i in known
        for k in known
        if rows[i].runs == rows[k].runs
        if (rows[i].method, rows[k].method) in (("centre-crop", "dense"), ("dense", "crops"))
    ]
    return [_compared(rows[i], rows[k], measured[i], measured[k]) for i, k in pairs]


def _row(row: Row, found: Located) -> dict[str, Any]:
    return {
        "title": title(row),
        "table": 9 if not row.known else None if row.published is None else 8,
        "nets": [run.net for run in row.runs],
        "S": [run.S for run in row.runs],
        "Q": row.Q,
        "boxes": row.runs[0].boxes,
        "tune": row.runs[0].tune,
        "method": row.method,
        "class_known": row.known,
        **{name: getattr(found, name) for name in _NUMBERS},
        "paper": None if row.published is None else asdict(row.published),
    }


def _compared(worse: Row, better: Row, first: Located, second: Located) -> dict[str, Any]:
    """Two rows on the images that both could read; McNemar's exact test, and the gain in points."""
    both = ~np.isnan(first.wrong[:, 0]) & ~np.isnan(second.wrong[:, 0])
    one, other = first.wrong[both, 0] > 0, second.wrong[both, 0] > 0
    alone = int((one & ~other).sum()), int((other & ~one).sum())
    return {
        "worse": title(worse),
        "better": title(better),
        "only_worse_wrong": alone[0],
        "only_better_wrong": alone[1],
        "gain": 100 * (alone[0] - alone[1]) / int(both.sum()),
        "gain_interval": gain_interval(*alone, int(both.sum())),
        "p": mcnemar(*alone),
    }


def _error(found: Located) -> str:
    five = "" if found.top5 is None else f", of five guesses {found.top5:.1f} %"
    return f"error {found.top1:.1f} %{five}"

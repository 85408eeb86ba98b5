"""Appendix B's protocol: a frozen net's descriptors, a linear SVM on them, beside raw pixels.

Every image that a split uses is described once. What is learnt from each split is kept as soon as
it is there, by all that it depends on: stopped and called again, it goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vggnet import __version__, checkpoint, paper, svm
from vggnet.actions import cut_to_boxes
from vggnet.configs import Config
from vggnet.descriptorfile import describe_files
from vggnet.descriptors import Recipe, width
from vggnet.errors import InputError
from vggnet.files import check_writable, sha256, write_atomically
from vggnet.precision import (
    Labels,
    Rule,
    Scores,
    precision_interval,
    precisions,
    recall_interval,
    recalls,
)
from vggnet.readers import TestImages
from vggnet.recipes import in_proportion
from vggnet.splits import Split, Task
from vggnet.svm import Rows, Step

PIXELS_SIDE = 32
"""Of the images whose pixels are themselves the descriptor: the tiny images of Torralba, Fergus &
Freeman 2008. Larger ones have more numbers than a linear SVM of a data set has room for."""

Results = dict[str, Any]
"""What `transfer.json` holds."""


def recipe_of(
    weights: Sequence[Path],
    task: Task,
    *,
    scales: Sequence[int] | None = None,
    layer: str = "relu7",
    over_scales: str | None = None,
    flips: bool = True,
) -> Recipe:
    """Appendix B's for a task, in proportion to the nets' crop: for VOC the average over Q of 256,
    384, 512, 640 and 768, for any other 256, 384 and 512 stacked.

    Raises:
        InputError: for nets of different crops without scales.
    """
    crops = {checkpoint.read_header(path).config.crop for path in weights}
    if scales is None and len(crops) > 1:
        raise InputError(f"nets of the crops {sorted(crops)}: give --scales, or take them singly")
    voc = task.kind in ("voc", "voc-action")
    sizes = (256, 384, 512, 640, 768) if voc else (256, 384, 512)
    return Recipe(
        tuple(scales or (in_proportion(size, min(crops)) for size in sizes)),
        layer,
        over_scales or ("average" if voc else "stack"),  # type: ignore[arg-type]
        task.flip and flips,
    )


def transfer(
    weights: Sequence[Path],
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    grid: Sequence[float] = svm.GRID,
    device: str = "cpu",
    workers: int = 0,
    progress: bool = False,
    log: Callable[[str], None] = print,
) -> Results:
    """Describes, learns, tests; each net alone, several stacked too, and raw pixels.

    Of actions each of them twice: of the images, and of these and the persons' boxes (Table 12).

    Args:
        weights: weight files.
        task: the images, and how they are split.
        recipe: of the descriptors.
        out: the folder for descriptors, what was learnt, and `transfer.json`.
        grid: values of C to choose from.
        device: cpu or cuda.
        workers: processes that read images.
        progress: show bars on a terminal.
        log: takes lines for the user.

    Raises:
        InputError: without scikit-learn, or for weights, a recipe or a folder that do not fit.
    """
    version = svm.sklearn().__version__
    if not grid or min(grid) <= 0 or max(grid) == float("inf"):
        raise InputError(f"C {', '.join(map(str, grid))}: give numbers above 0")
    check_writable(out / "transfer.json")
    configs = [checkpoint.read_header(path).config for path in weights]
    task = task.used()
    seen = [task, cut_to_boxes(task)] if task.kind == "voc-action" else [task]
    described = []
    for one in seen:
        for name, part in one.parts.items():
            file = out / f"{name}.npy"
            describe_files(
                weights, part, recipe, file, device=device, workers=workers, progress=progress
            )
        described.append(np.concatenate([np.load(out / f"{name}.npy") for name in one.parts]))
    read = ~np.isnan(np.sum([rows[:, 0] for rows in described], axis=0))
    if unread := int((~read).sum()):
        what = "images" if len(seen) == 1 else "persons"
        log(f"left out: {unread:,} of {len(read):,} {what} cannot be read")
    task = _readable(task, read)
    fitted = _Fitted(out / "fits.json", task, sorted(grid), version)
    found = []
    bar = tqdm(
        desc="learning", unit="class", leave=False, disable=None if progress else True,
        total=(len(configs) + (len(configs) > 1) + 1)
        * len(seen) * len(task.splits) * len(task.class_names) * (len(grid) + 1),
    )  # fmt: skip
    with bar:
        of_each = [
            [
                *_representations(configs, recipe, rows),
                ("raw pixels", list[str](), raw_pixels(one, workers, progress=progress)),
            ]
            for one, rows in zip(seen, described, strict=True)
        ]
        for name, nets, setting, own in _settings(*of_each):
            fits = [fitted(own, split, i, bar.update) for i, split in enumerate(task.splits)]
            if not all(fit["converged"] for fit in fits):
                log(f"{name}: liblinear did not converge for every C")
            row = _row(name, nets, own.shape[1], fits)
            found.append(row if setting is None else {"setting": setting} | row)
    results: Results = {
        "data": {
            "name": task.name,
            "classes": list(task.class_names),
            "parts": {name: len(part) for name, part in task.parts.items()},
            "unread": unread,
        },
        "protocol": {
            "name": task.kind,
            "draw": asdict(task.draw),
            "measure": "mean class recall" if task.rule is None else "mAP",
            "average_precision": task.rule,
            "svm": "LinearSVC: one against the rest, squared hinge, L2",
            "held_out": svm.HELD_OUT,
            "C": sorted(grid),
            "pixels_side": PIXELS_SIDE,
        },
        "descriptors": asdict(recipe) | {"scales": list(recipe.scales)},
        "nets": [
            {
                "net": config.title,
                "crop": config.crop,
                "width": config.width,
                "trained_on": checkpoint.read_header(path).provenance.dataset,
                "file": str(path),
                "sha256": sha256(path),
            }
            for path, config in zip(weights, configs, strict=True)
        ],
        "versions": {
            "vggnet": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": version,
        },
        "rows": found,
    }
    _write(out / "transfer.json", results)
    return results


def _readable(task: Task, read: NDArray[np.bool_]) -> Task:
    """Without images that cannot be read; their rows stay, in no split."""
    splits = [Split(s.train[read[s.train]], s.test[read[s.test]]) for s in task.splits]
    for split in splits:
        lost = [
            task.class_names[k] for k in np.flatnonzero(~(task.labels[split.train] > 0).any(axis=0))
        ]
        if lost or not len(split.test):
            what = f"training image of class {lost[0]!r}" if lost else "test image"
            raise InputError(f"{task.name}: no {what} can be read: copy the images again")
    return replace(task, splits=splits)


def _representations(
    configs: Sequence[Config], recipe: Recipe, rows: Rows
) -> Iterator[tuple[str, list[str], Rows]]:
    """Names, nets and rows: each net alone, and all of several stacked."""
    titles = [config.title for config in configs]
    if len(configs) > 1:
        widths = [width(config, recipe.layer) for config in configs]
        owners = np.repeat(np.arange(len(configs)), widths)
        # The columns of a scale have all nets' values, one net after the other.
        owners = np.tile(owners, rows.shape[1] // len(owners))
        for i, title in enumerate(titles):
            yield title, [title], _unit(rows[:, owners == i])
    yield " & ".join(titles), titles, rows


def _settings(
    images: Iterable[tuple[str, list[str], Rows]],
    boxes: Iterable[tuple[str, list[str], Rows]] | None = None,
) -> Iterator[tuple[str, list[str], str | None, Rows]]:
    """Names, nets, Table 12's settings and rows; without boxes there are no settings."""
    if boxes is None:
        yield from ((name, nets, None, rows) for name, nets, rows in images)
        return
    for (name, nets, image), (_, _, box) in zip(images, boxes, strict=True):
        whole, both = paper.TABLE_12
        yield f"{name}, {whole}", nets, whole, image
        yield f"{name}, {both}", nets, both, _unit(np.hstack([_unit(image), _unit(box)]))


def raw_pixels(task: Task, workers: int = 0, *, progress: bool = False) -> Rows:
    """The whole image at 32×32 pixels, its shape not kept, as one row of length 1.

    n×3072, or n×1024 where all images are grey; zeros where an image cannot be read.
    """
    tiny = np.zeros((len(task.labels), PIXELS_SIDE, PIXELS_SIDE, 3), np.uint8)
    images = chain.from_iterable(
        TestImages(part.images, [PIXELS_SIDE], workers) for part in task.parts.values()
    )
    bar = tqdm(
        images, "raw pixels", len(tiny), unit="image", leave=False,
        disable=None if progress else True,
    )  # fmt: skip
    for i, views in enumerate(bar):
        if not isinstance(views, InputError):
            square = Image.fromarray(views[0]).resize((PIXELS_SIDE,) * 2, Image.Resampling.BILINEAR)
            tiny[i] = np.asarray(square)
    if (tiny == tiny[..., :1]).all():  # three equal channels have the same products as one
        tiny = tiny[..., :1]
    return _unit(tiny.reshape(len(tiny), -1).astype(np.float32))


def _unit(rows: Rows) -> Rows:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _of_classes(scores: Scores, labels: Labels, rule: Rule | None) -> NDArray[np.float64]:
    return recalls(scores, labels) if rule is None else precisions(scores, labels, rule)


class _Fitted:
    """What was learnt from splits, kept in a file by a digest of all that it depends on."""

    def __init__(self, path: Path, task: Task, grid: Sequence[float], version: str) -> None:
        self.path, self.task, self.grid, self.version = path, task, grid, version
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, rows: Rows, split: Split, repetition: int, step: Step) -> dict[str, Any]:
        seed = [self.task.draw.seed, repetition]
        terms = [self.task.rule, self.grid, seed, self.version, __version__]
        digest = hashlib.sha256(json.dumps(terms).encode())
        for chosen in (split.train, split.test):
            digest.update(rows[chosen].tobytes())
            digest.update(self.task.labels[chosen].tobytes())
            if self.task.images is not None:
                digest.update(self.task.images[chosen].tobytes())
        key = digest.hexdigest()
        if key not in self.known:
            self.known[key] = self._learnt(rows, split, seed, step)
            _write(self.path, self.known)
        found: dict[str, Any] = self.known[key]
        return found

    def _learnt(self, rows: Rows, split: Split, seed: list[int], step: Step) -> dict[str, Any]:
        labels, rule = self.task.labels, self.task.rule

        def measure(scores: Scores, of: Labels) -> float:
            return float(np.nanmean(_of_classes(scores, of, rule)))

        train, own = rows[split.train], labels[split.train]
        choice = svm.choose(train, own, self.grid, measure, seed, step)
        classifier = svm.fit(train, own, choice.C, step)
        scores, tested = classifier.scores(rows[split.test]), labels[split.test]
        each = _of_classes(scores, tested, rule)
        if rule is None:
            interval = recall_interval(scores, tested)
        else:
            images = self.task.images
            interval = precision_interval(
                scores, tested, rule, None if images is None else images[split.test]
            )
        found = {
            "train": len(own),
            "test": len(tested),
            "C": choice.C,
            "held_out": [100 * value for value in choice.held_out],
            "converged": choice.converged and classifier.converged,
            "value": 100 * float(np.nanmean(each)),
            "interval": [100 * bound for bound in interval],
            "per_class": [None if np.isnan(value) else 100 * float(value) for value in each],
        }
        if rule is not None:
            other: Rule = "area" if rule == "11-point" else "11-point"
            found[other] = 100 * float(np.nanmean(precisions(scores, tested, other)))
        return found


def _row(name: str, nets: list[str], length: int, fits: list[dict[str, Any]]) -> dict[str, Any]:
    values = [fit["value"] for fit in fits]
    return {
        "name": name,
        "nets": nets,
        "length": length,
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "splits": fits,
    }


def _write(path: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))

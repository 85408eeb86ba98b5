"""Data sets in tar shards (WebDataset's layout): which shards are of which part, and classes."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.folders import SPLIT_SEED, Folder, Listing, data_set_name, tenths
from vggnet.storage import Entry, Place, entries, exists, read
from vggnet.tarindex import index_shards
from vggnet.tarstream import ShardedImages

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What folders and shards are called, and which part they are."""
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_sharded(root: Place) -> bool:
    """Whether a folder, or its `train/`, has tar files and no folders.

    Raises:
        InputError: for a folder that cannot be read.
    """
    by_folder, beside = _tars_by_folder(root)
    return bool(beside) or any(
        names for folder, names in by_folder.items() if _PARTS[folder] == "train"
    )


def read_shards(root: Place) -> Folder:
    """Lists a data set in tar shards, and splits it where it is not split already.

    A shard's part is that of its folder, `train/`, `val/` (`valid/`, `validation/`) or `test/`; of
    shards side by side it is such a word in its name: `imagenet1k-train-0000.tar`. Where no name
    has one, all are taken together. A sample is an image, `KEY.jpg` or of another of
    `folders.SUFFIXES`, and beside it `KEY.cls`, with the number of its class in digits; other
    files are left out. `classes.txt` in the folder names the classes, one a line, from 0 on;
    without it they are called by their numbers.

    With only one part beside train, that is the test part, and a tenth of each class of train is
    held out as validation; with none, each class is split 80/10/10; both by a hash of the names.

    Raises:
        InputError: for a folder that is not as described, or what `tarindex.index_shards` refuses.
    """
    shards = _parts(root)
    listings = {}
    for part, names in shards.items():
        index = index_shards(root, names)
        listings[part] = Listing(ShardedImages(root, tuple(names), index), index.label)
    class_names, note = _class_names(root, listings)
    train, validation, test, split = _split_up(root, listings, class_names)
    return Folder(
        name=data_set_name(root),
        class_names=class_names,
        train=train,
        validation=validation,
        test=test,
        note="; ".join(filter(None, (split, note))),
    )


def _tars_by_folder(root: Place) -> tuple[dict[str, list[str]], list[str]]:
    """The tar files in the parts' folders, and those beside each other."""
    found = entries(root)
    folders = sorted(entry.name for entry in found if entry.is_folder and entry.name in _PARTS)
    return {name: _tars(entries(root / name), f"{name}/") for name in folders}, _tars(found, "")


def _tars(found: Sequence[Entry], prefix: str) -> list[str]:
    """None where there are folders too: then these are the classes, and unpacked already."""
    if any(entry.is_folder for entry in found):
        return []
    kinds = (".tar", *_COMPRESSED)
    return sorted(prefix + entry.name for entry in found if entry.name.lower().endswith(kinds))


def _parts(root: Place) -> dict[str, list[str]]:
    """The shards of each part, in the order of their names; first those of train."""
    by_folder, beside = _tars_by_folder(root)
    if not any(by_folder.values()) and not beside:
        raise InputError(
            f"{root}: has no tar shards: put them there, or into train/ and val/ in it"
        )
    for name in (*beside, *(name for names in by_folder.values() for name in names)):
        if name.lower().endswith(_COMPRESSED):
            raise InputError(
                f"{root / name}: a compressed tar file cannot be read from the middle: unpack it "
                "to a plain .tar"
            )
    parts = _by_name(root, beside) if beside else _by_folder(root, by_folder)
    if "train" not in parts:
        raise InputError(f"{root}: has shards, but none for training: call them train-0000.tar …")
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _by_folder(root: Place, folders: dict[str, list[str]]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for folder, names in folders.items():
        if not names:
            raise InputError(
                f"{root / folder}: has no tar shards, which other parts have: add them, or move "
                "the folder away"
            )
        if _PARTS[folder] in parts:
            raise InputError(f"{root}: has two folders for {_PARTS[folder]}: keep one of them")
        parts[_PARTS[folder]] = names
    return parts


def _by_name(root: Place, shards: Sequence[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in shards:
        parts.setdefault(_part_of(root, name), []).append(name)
    unnamed = parts.pop("", [])
    if not parts:
        return {"train": unnamed}
    if unnamed:
        raise InputError(
            f"{root / unnamed[0]}: its name does not say which part it is of, as other shards' "
            "do: put train, val or test in it, or move it away"
        )
    return parts


def _part_of(root: Place, name: str) -> str:
    """By the words in a shard's name; empty where none says it."""
    words = re.split(r"[^0-9a-z]+", name.lower())
    parts = {_PARTS[word] for word in words if word in _PARTS}
    if len(parts) > 1:
        raise InputError(f"{root / name}: its name has two parts: rename it after one of them")
    return parts.pop() if parts else ""


def _class_names(root: Place, listings: dict[str, Listing]) -> tuple[tuple[str, ...], str]:
    """The classes' names, after checks that each part has all of them, and a note."""
    place = root / "classes.txt"
    given = _listed(place) if exists(place) else None
    if given is not None:
        for listing in listings.values():
            for i in np.flatnonzero(listing.labels >= len(given))[:1].tolist():
                raise InputError(
                    f"{listing.images.where(i)}: its class is {listing.labels[i]}, but {place} "
                    f"names {len(given)}, which count from 0: add the others there"
                )
    found = np.unique(listings["train"].labels)
    if len(found) == 1:
        raise InputError(
            f"{root}: its shards for training have only one class, {found[0]}: a classifier "
            "needs two or more"
        )
    names = given or tuple(str(label) for label in range(len(found)))
    for part, listing in listings.items():
        for i in np.flatnonzero(~np.isin(listing.labels, found))[:1].tolist():
            raise InputError(
                f"{listing.images.where(i)}: its class is {listing.labels[i]}, which train has "
                "not: add it to train's shards, or take it out of these"
            )
        own = np.unique(listing.labels)
        if len(own) < len(names) or own[-1] >= len(names):
            missing = int(np.flatnonzero(np.append(own, -1) != np.arange(len(own) + 1))[0])
            raise InputError(
                f"{root}: its shards for {part} have no image of class {missing}: add some, or "
                "number the classes anew, from 0 without gaps"
            )
    return names, "" if given else "there is no classes.txt: classes are called by their numbers"


def _listed(place: Place) -> tuple[str, ...]:
    try:
        lines = read(place).decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not UTF-8: save it as UTF-8") from None
    names: dict[str, None] = {}
    for number, name in enumerate((line.strip() for line in lines), start=1):
        if not name or name in names:
            what = f"{name!r} is there twice" if name else "is empty"
            raise InputError(f"{place}, line {number}: {what}: each class has a line and a name")
        names[name] = None
    return tuple(names)


def _split_up(
    root: Place, listings: dict[str, Listing], class_names: Sequence[str]
) -> tuple[Listing, Listing, Listing, str]:
    """Training, validation, test, and how they came to be."""
    train, others = listings["train"], [part for part in listings if part != "train"]
    if len(others) == 2:
        return train, listings["validation"], listings["test"], ""
    by = f"by a hash (seed {SPLIT_SEED}) of their names"
    if others:
        kept, validation = _held_out(root, train, 1, class_names)
        note = (
            f"the shards for {others[0]} are the test part; of train's {len(train.labels):,} "
            f"images, {len(validation.labels):,}, a tenth of each class {by}, are held out as "
            "validation for the learning-rate schedule"
        )
        return kept, validation, listings[others[0]], note
    kept, validation, test = _held_out(root, train, 2, class_names)
    note = (
        f"the shards are of one part: each class's images were split {by}, "
        f"{len(kept.labels):,} images for training, {len(validation.labels):,} for validation, "
        f"{len(test.labels):,} for testing"
    )
    return kept, validation, test, note


def _held_out(root: Place, whole: Listing, times: int, class_names: Sequence[str]) -> list[Listing]:
    """What is left of a part, and so many times a tenth of each of its classes."""
    counts = np.bincount(whole.labels)
    few, least = int(counts.argmin()), int(counts.min())
    if least <= times:
        raise InputError(
            f"{root}: the class {class_names[few]!r} has {least} image{'s' * (least > 1)} in the "
            f"shards for training; it needs {times + 1} or more, of which a tenth each is held "
            f"out for {'validation and testing' if times == 2 else 'validation'}: add images"
        )
    pieces: list[list[NDArray[np.int64]]] = [[] for _ in range(times + 1)]
    for label in range(len(counts)):
        own = np.flatnonzero(whole.labels == label)
        for piece, part in zip(pieces, tenths(whole.images.names.subset(own), times), strict=True):
            piece.append(own[part])
    chosen = [np.sort(np.concatenate(piece)) for piece in (pieces[-1], *pieces[:-1])]
    return [Listing(whole.images.subset(own), whole.labels[own]) for own in chosen]

"""The images that a run began with, kept when the first of them cannot be read any more.

A run that leaves out images that have gone bad or missing goes on with the others, each under the
index that it had: crops, order and the recipe's hash of the images stay what they were. So it does
when it is stopped and called again, though a folder that is listed anew may lack files by then.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vggnet.augment import ColourPCA
from vggnet.errors import InputError
from vggnet.files import write_atomically
from vggnet.folders import ImageFiles
from vggnet.parts import Dataset, Part
from vggnet.storage import EncodedImages, Names

NAME = "images.npz"
_PARTS = ("train", "validation")


def find(out: Path) -> Path | None:
    """The roll of a run, or of the first run of a reproduction that has one."""
    found = [path for path in (out / NAME, *sorted(out.glob(f"runs/*/{NAME}"))) if path.exists()]
    return found[0] if found else None


def write(path: Path, data: Dataset) -> None:
    """Keeps names, labels and colours of the training and validation images, which are in files.

    Raises:
        InputError, RunError: as `write_atomically`.
    """
    columns: dict[str, Any] = {
        "mean": np.array(data.mean_rgb),
        "components": data.colour_pca.components,
    }
    for name in _PARTS:
        part: Part = getattr(data, name)
        columns[f"{name}_names"] = np.frombuffer("\0".join(part.names or ()).encode(), np.uint8)
        columns[f"{name}_labels"] = part.labels
        columns[f"{name}_identity"] = np.array(part.identity)
        columns[f"{name}_left_out"] = np.array(part.left_out)
        if part.boxes is not None:
            columns[f"{name}_boxes"] = np.concatenate(part.boxes)
            columns[f"{name}_instances"] = np.array([len(boxes) for boxes in part.boxes])

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **columns)

    write_atomically(path, save)


def restored(path: Path | None, data: Dataset) -> Dataset:
    """The data set with the images that the run began with; unchanged where there is no roll.

    Raises:
        InputError: for a file that is damaged.
    """
    images = data.train.images
    if path is None or not isinstance(images, EncodedImages):
        return data
    parts: dict[str, Any] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            # Samples do not go out of a shard one by one: those are listed as they were.
            for name in _PARTS if isinstance(images, ImageFiles) else ():
                names = Names.of(kept[f"{name}_names"].tobytes().decode().split("\0"))
                labels, left_out = kept[f"{name}_labels"], int(kept[f"{name}_left_out"])
                boxes = None
                if f"{name}_boxes" in kept:
                    ends = np.cumsum(kept[f"{name}_instances"])
                    boxes = np.split(kept[f"{name}_boxes"], ends[:-1])
                part = Part(ImageFiles(images.root, names), labels, names, left_out, boxes)
                part.__dict__["identity"] = str(kept[f"{name}_identity"])
                parts[name] = part
            r, g, b = kept["mean"].tolist()
            colours = (r, g, b), ColourPCA(kept["components"])
    except Exception as error:  # whatever a damaged archive brings NumPy or zipfile to raise
        raise InputError(
            f"{path}: cannot be read ({error!r}): put it back, or delete the run to start anew"
        ) from None
    data = replace(data, **parts)
    data.__dict__["_colours"] = colours
    return data

"""Appendix B's descriptors: a vector for each image, from a frozen net, into a file.

A dense forward over the image at a smallest side Q, the last layer left out; the map averaged over
its places, and with the mirrored image's; several Q averaged, or stacked, and several nets stacked.
Each is normalised to length 1 before it is stacked, and so is the whole.

The file is written in place, chunk by chunk: however many images there are, a few of them are in
memory. Stopped and called again it goes on, on any number of processes.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet import checkpoint
from vggnet.configs import Config
from vggnet.datasets import open_dataset
from vggnet.distributed import World
from vggnet.errors import InputError, RunError
from vggnet.evaluate import check_scales
from vggnet.folders import ImageFiles, Tree, images_in
from vggnet.images import Pixels
from vggnet.index import PartName, part_of
from vggnet.inference import engine
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.predictions import pyarrow
from vggnet.readers import TestImages, Views
from vggnet.shards import is_sharded
from vggnet.storage import exists, place_of

Scales = Literal["average", "stack"]
SUFFIXES = (".npy", ".npz", ".parquet")
CHUNK = 64
"""Images after which what is done is on disk."""
_BATCH_PIXELS = 8 * 224 * 224
_ALONE = World()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done with an image."""

    scales: tuple[int, ...]
    """Q, smallest sides in pixels."""
    layer: str = "relu7"
    """Whose map is taken: of fc7 after its ReLU, as in the paper, or any other."""
    over_scales: Scales = "average"
    flips: bool = True
    """Whether the mirrored image counts too."""
    normalise: bool = True
    """To length 1."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("no test scales: give at least one")
        if self.over_scales not in get_args(Scales):
            raise InputError(f"over scales {self.over_scales!r}: take average or stack")


def describe(
    models: Sequence[VGG], images: Sequence[Pixels], recipe: Recipe, *, workers: int = 0
) -> Iterator[NDArray[np.float32] | InputError]:
    """A descriptor for each image, in their order, or why it cannot be read.

    Args:
        models: one or several; on a CPU they are computed by `vggnet.fast`.
        images: H×W×3 of uint8, RGB.
        recipe: what is done.
        workers: processes that read and rescale images; 0 for this one.

    Raises:
        InputError: for a scale below a net's crop, or a layer that a net does not have.
        RunError: where a net gives values that are not finite.
    """
    nets = [_Net(model, recipe) for model in models]
    views = iter(TestImages(images, recipe.scales, workers))
    with torch.inference_mode():
        for start in range(0, len(images), CHUNK):
            chunk = [next(views) for _ in range(min(CHUNK, len(images) - start))]
            yield from _described(nets, chunk, recipe)


def length(models: Sequence[VGG], recipe: Recipe) -> int:
    """Of a descriptor."""
    widths = sum(_Net(model, recipe, fast=False).width for model in models)
    return widths * (len(recipe.scales) if recipe.over_scales == "stack" else 1)


def width(config: Config, layer: str) -> int:
    """Channels of a layer that `VGG.activations` knows."""
    named = {one.name: one.out_channels for one in config.layers()}
    return named.get(layer, config.num_classes)  # `scores` is none of the net's layers


class _Net:
    """A net, and the layer that is taken of it."""

    def __init__(self, model: VGG, recipe: Recipe, *, fast: bool = True) -> None:
        check_scales(model.config, recipe.scales)
        model.known_layers([recipe.layer])
        # A GPU's fast engine rounds to bfloat16.
        on_cpu = model.mean.device.type == "cpu"
        self.model = engine(model) if fast and on_cpu else model.eval()
        self.layer, self.device = recipe.layer, model.mean.device
        self.width = width(model.config, recipe.layer)

    def __call__(self, images: Tensor) -> Tensor:
        """The layer's values averaged over its map: N×C."""
        found = self.model.activations(images.to(self.device), [self.layer])[self.layer].float()
        return found.flatten(2).mean(2).cpu() if found.dim() == 4 else found.cpu()


def _described(
    nets: Sequence[_Net], chunk: list[Views | InputError], recipe: Recipe
) -> Iterator[NDArray[np.float32] | InputError]:
    widths = [net.width for net in nets]
    found = torch.zeros(len(chunk), len(recipe.scales), sum(widths))
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, views in enumerate(chunk):
        if not isinstance(views, InputError):
            for scale, view in enumerate(views):
                groups[view.shape].append((i, scale))
    for shape, group in groups.items():
        together = max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
        for first in range(0, len(group), together):
            places = group[first : first + together]
            stacked = np.stack([_view(chunk, place) for place in places])
            images = torch.from_numpy(stacked).permute(0, 3, 1, 2)
            values = torch.cat([net(images) for net in nets], dim=1)
            if recipe.flips:
                mirrored = torch.cat([net(images.flip(3)) for net in nets], dim=1)
                values = (values + mirrored) / 2
            for (i, scale), value in zip(places, values, strict=True):
                found[i, scale] = value
    if not found.isfinite().all():
        raise RunError("the net's values are not finite: its weights are damaged or diverged")
    for views, of_scales in zip(chunk, found, strict=True):
        yield views if isinstance(views, InputError) else _combined(of_scales, widths, recipe)


def _view(chunk: list[Views | InputError], place: tuple[int, int]) -> Pixels:
    views = chunk[place[0]]
    assert not isinstance(views, InputError)
    return views[place[1]]


def _combined(values: Tensor, widths: list[int], recipe: Recipe) -> NDArray[np.float32]:
    """From one image's values, scales × all nets' channels, to its descriptor."""

    def unit(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1) if recipe.normalise else x

    if recipe.over_scales == "average":
        values = values.mean(0, keepdim=True)
    parts = [unit(part) for part in torch.split(values, widths, dim=1)]
    whole: NDArray[np.float32] = unit(torch.cat(parts, dim=1).flatten()).numpy()
    return whole


def images_of(spec: str, part: PartName | None) -> Part:
    """What to describe: every image of a folder, or a part of a data set.

    Args:
        spec: the path or URL of a folder, whose images are taken with those of the folders in it,
            sorted by name; or with `part` a data set as `open_dataset` has it.
        part: then the labels are known.

    Raises:
        InputError: where there is none, or no images.
    """
    root = place_of(spec)
    if part is None and exists(root) and not is_sharded(root):
        names = sorted(name.removeprefix("./") for name in images_in(Tree(root), "."))
        if not names:
            raise InputError(f"{spec}: has no images in it")
        files = ImageFiles(root, names)
        return Part(files, np.full(len(names), -1, np.int64), files.names)
    data = open_dataset(spec)
    if part is None:
        raise InputError(f"{spec}: give --part train, validation or test")
    return part_of(data, part)


class DescriptorFile:
    """A file of descriptors while it comes into being, and what goes beside it.

    `NAME.npy` is float32, n×length, for `numpy.load(…, mmap_mode="r")`; rows of images that cannot
    be read are NaN. `NAME.json` says how it was made, with which weights; `NAME.names.txt` has an
    image's name a line, after a tab its label, -1 where none is known. An .npz holds the same as
    `descriptors`, `names` and `labels`, a Parquet file as columns.

    Args:
        out: the path, ending in one of `SUFFIXES`.
        manifest: what makes two files the same.
    """

    def __init__(self, out: Path, manifest: dict[str, Any], n: int, width: int) -> None:
        check(out)
        self.out, self.n, self.width = out, n, width
        stem = out.with_suffix("")
        self.rows = stem.with_name(f"{stem.name}.part.npy")
        self.done = stem.with_name(f"{stem.name}.part.done.npy")
        self.json = stem.with_name(f"{stem.name}.json")
        self.names = stem.with_name(f"{stem.name}.names.txt")
        self.manifest = manifest | {"images": n, "length": width}

    def is_finished(self) -> bool:
        """Whether the file is there, made in the same way.

        Raises:
            InputError: when it is there, or begun, but made in another way.
        """
        if not self.json.exists():
            if self.out.exists():
                raise InputError(f"{self.out}: exists, without {self.json.name}: choose another")
            return False
        known = json.loads(self.json.read_text())
        for key, value in self.manifest.items():
            if known.get(key) != value:
                raise InputError(
                    f"{self.out}: was begun with {key} {known.get(key)!r}, not {value!r}: choose "
                    f"another --out, or delete {self.json}"
                )
        return self.out.exists() and not self.rows.exists()

    def start(self, part: Part) -> None:
        """Makes room for all rows, where it is not made yet."""
        if self.rows.exists() and self.done.exists():
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{part.name(i)}\t{part.labels[i]}\n" for i in range(self.n))
        _write(self.names, "".join(lines))
        np.lib.format.open_memmap(self.rows, "w+", np.float32, (self.n, self.width))
        np.lib.format.open_memmap(self.done, "w+", np.uint8, (-(-self.n // CHUNK),))
        _write(self.json, json.dumps(self.manifest, indent=1) + "\n")

    def opened(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The rows, and for each chunk whether it is done; both write to disk."""
        rows: Any = np.lib.format.open_memmap(self.rows, "r+")
        done: Any = np.lib.format.open_memmap(self.done, "r+")
        return rows, done

    def finish(self) -> None:
        """Gives the file its form and its name."""
        if self.out.suffix == ".npy":
            self.rows.replace(self.out)
        else:
            rows = np.load(self.rows, mmap_mode="r")
            lines = [line.split("\t") for line in self.names.read_text().splitlines()]
            names, labels = [line[0] for line in lines], np.array([int(line[1]) for line in lines])
            save = _npz if self.out.suffix == ".npz" else _parquet
            checkpoint.write_atomically(self.out, lambda file: save(file, rows, names, labels))
            self.rows.unlink()
        self.done.unlink()


def check(out: Path) -> None:
    """Raises InputError for a name that is of no known form, or cannot be written."""
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out}: give a name that ends in {', '.join(SUFFIXES)}")
    checkpoint.check_writable(out)
    if out.suffix == ".parquet":
        pyarrow(out)


def describe_files(
    weights: Sequence[Path],
    part: Part,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    world: World = _ALONE,
    progress: bool = False,
) -> list[tuple[str, str]]:
    """Writes the descriptors of a part's images into a file; goes on where it was stopped.

    Args:
        weights: weight files, of one net or several.
        part: the images.
        recipe: what is done with each.
        out: the file; see `DescriptorFile`.
        device: cpu or cuda.
        workers: processes that read images.
        world: processes that share the images, with a disk that all of them see.
        progress: show a bar on a terminal.

    Returns:
        The images that could not be read, with the reason; of this call and this rank.

    Raises:
        InputError: for weights, a recipe or a file that does not fit.
    """
    models = [checkpoint.load(path).to(device) for path in weights]
    manifest = json.loads(json.dumps(asdict(recipe))) | {
        "nets": [model.config.title for model in models],
        "weights_sha256": [checkpoint.sha256(path) for path in weights],
        "names_sha256": _names_digest(part),
    }
    file = DescriptorFile(out, manifest, len(part), length(models, recipe))
    if file.is_finished():
        return []
    if world.is_first:
        file.start(part)
    world.wait()
    rows, done = file.opened()
    open_chunks = np.flatnonzero(done == 0)
    world.wait()  # all have looked
    bad = []
    bar = tqdm(
        total=len(open_chunks) * CHUNK, unit="image", leave=False,
        disable=None if progress and world.is_first else True,
    )  # fmt: skip
    with bar:
        for indices, found in _chunks(models, part, recipe, open_chunks[world.rank :: world.ranks],
                                      workers):  # fmt: skip
            for i, row in zip(indices.tolist(), found, strict=True):
                if isinstance(row, InputError):
                    bad.append((part.name(i), str(row)))
                    rows[i] = np.nan
                else:
                    rows[i] = row
            rows.flush()  # type: ignore[attr-defined]
            done[indices[0] // CHUNK] = 1
            done.flush()  # type: ignore[attr-defined]
            bar.update(CHUNK * world.ranks)
    del rows, done
    world.wait()
    if world.is_first:
        file.finish()
    world.wait()
    return bad


def _chunks(
    models: Sequence[VGG], part: Part, recipe: Recipe, chunks: NDArray[np.int64], workers: int
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32] | InputError]]]:
    """The images' indices of each chunk, and what is found of them."""
    of_chunks = [np.arange(c * CHUNK, min((c + 1) * CHUNK, len(part))) for c in chunks.tolist()]
    if not of_chunks:
        return
    indices = np.concatenate(of_chunks)
    found = describe(models, part.subset(indices).images, recipe, workers=workers)
    for chosen in of_chunks:
        yield chosen, [next(found) for _ in chosen]


def _names_digest(part: Part) -> str:
    digest = hashlib.sha256()
    for i in range(len(part)):
        digest.update(f"{part.name(i)}\t{part.labels[i]}\n".encode())
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    checkpoint.write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _npz(
    path: Path, rows: NDArray[np.float32], names: list[str], labels: NDArray[np.int64]
) -> None:
    with path.open("wb") as file:
        np.savez(file, descriptors=rows, names=np.array(names), labels=labels)


def _parquet(
    path: Path, rows: NDArray[np.float32], names: list[str], labels: NDArray[np.int64]
) -> None:
    pa, parquet = pyarrow(path)
    kind = pa.list_(pa.float32(), rows.shape[1])
    schema = pa.schema([("name", pa.string()), ("label", pa.int64()), ("descriptor", kind)])
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, len(rows), 1024):
            some = slice(first, first + 1024)
            flat = pa.array(np.ascontiguousarray(rows[some]).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
            writer.write_table(pa.table([names[some], labels[some], column], schema=schema))

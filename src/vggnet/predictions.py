"""Nets in files, alone or fused, on a data set: errors, what every image was taken for."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggnet import checkpoint
from vggnet.cache import PosteriorCache
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.evaluate import OnBad, check_scales, combined, mean, measure
from vggnet.files import check_writable, write_atomically
from vggnet.parts import Dataset, other_classes
from vggnet.passes import Measured, Posteriors
from vggnet.protocols import Averaging, Fusion, Method, Protocol, single_scale
from vggnet.scoring import Result, confused_pairs

_SHOWN = 5
_ALONE = World()


def evaluate_files(
    weights: Sequence[str | Path],
    data: Dataset,
    *,
    scales: Sequence[int] | None = None,
    method: Method = "dense",
    averaging: Averaging = "scores",
    flips: bool = True,
    device: str = "cpu",
    cache: str | Path | None = None,
    workers: int = 0,
    on_bad: OnBad | None = None,
    progress: bool = False,
    world: World = _ALONE,
) -> tuple[Result, Posteriors, float | None]:
    """The error of one net, or of several fused by averaging their posteriors (§4.4).

    All nets look at an image while it is at hand: it is read once.

    Args:
        weights: weight files.
        data: its test images are looked at.
        scales: Q in pixels; by default each net's own S, the middle of its range where jittered.
        method, averaging, flips: as for `evaluate.posteriors`.
        device: cpu or cuda.
        cache: folder where posteriors are kept, and taken from.
        workers, on_bad: as for `evaluate.measure`; the result says how many images are left out.
        progress: show a bar on a terminal.
        world: as for `evaluate.measure`.

    Returns:
        The result, the posteriors, and the seconds it took, None where some were in the cache.

    Raises:
        InputError: for a file that holds no net for this data set, or a scale that cannot be.
    """
    paths = [Path(path) for path in weights]
    if not paths:
        raise InputError("no weight files: give at least one")
    protocols = []
    for path in paths:
        header = checkpoint.read_header(path)
        _check_classes(path, header, data)
        known = header.provenance.S
        if scales is None and known is None:
            raise InputError(f"{path}: does not say its S: give --scales")
        chosen = [single_scale(known)] if scales is None and known is not None else scales or []
        title = header.config.title
        protocol = Protocol(title, known, tuple(chosen), method, averaging, flips)
        check_scales(header.config, protocol.Q)
        protocols.append(protocol)
    wanted = [protocol.terms for protocol in protocols]
    began = time.perf_counter()
    if cache is None:
        models = [checkpoint.load(path).to(device) for path in paths]
        began = time.perf_counter()
        found = measure(
            models,
            data.test.images,
            wanted,
            workers=workers,
            on_bad=on_bad,
            progress=progress,
            world=world,
        )
        fresh = True
    else:
        store = PosteriorCache(cache)
        found = store.measure(
            paths,
            data.test,
            wanted,
            device=device,
            workers=workers,
            on_bad=on_bad,
            progress=progress,
            world=world,
        )
        fresh = store.computed
    seconds = time.perf_counter() - began if fresh else None
    nets = [combined(net, protocol.terms) for net, protocol in zip(found, protocols, strict=True)]
    fused = Measured(
        mean([net.posteriors for net in nets]),
        sum(net.forwards for net in nets),
        sum(net.multiply_adds for net in nets),
    )
    result = fused.errors(
        data.test, protocols[0] if len(protocols) == 1 else Fusion(tuple(protocols))
    )
    return result, fused.posteriors, seconds


def check(path: Path) -> None:
    """Whether posteriors can be saved under this name, before they are computed.

    Raises:
        InputError: for a name that is neither .npz nor .parquet, a folder, or a missing library.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise InputError(f"{path}: give a name that ends in .npz or .parquet")
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give the name of a file")
    check_writable(path)
    if path.suffix == ".parquet":
        pyarrow(path)


def save(path: Path, posteriors: Posteriors, data: Dataset, protocol: Protocol | Fusion) -> None:
    """Saves the test images' posteriors, one row an image that could be read.

    In an .npz: `name` (the image's file, or its index), `label` and `predicted` (indices of
    `class_names`), `posteriors` (n×K, float32), `class_names`, `protocol` (in words). In a
    .parquet: `name`, `label` and `predicted` as class names, `posterior` of the predicted class,
    `correct`, and `posteriors` as a list; protocol and class names in the schema's metadata.

    Raises:
        InputError: as `check`, or where the file cannot be written.
    """
    check(path)
    part, names = data.test, np.array(data.class_names)
    read = _read(posteriors)
    posteriors, labels = posteriors[read], part.labels[read]
    image_names = [part.name(int(i)) for i in read]
    predicted = posteriors.argmax(axis=1)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {
            "name": np.array(image_names),
            "label": labels,
            "predicted": predicted,
            "posteriors": posteriors.astype(np.float32),
            "class_names": names,
            "protocol": np.array(str(protocol)),
        }

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)

    else:
        pa, parquet = pyarrow(path)
        table = pa.table(
            {
                "name": image_names,
                "label": names[labels],
                "predicted": names[predicted],
                "posterior": posteriors.max(axis=1),
                "correct": predicted == labels,
                "posteriors": list(posteriors.astype(np.float32)),
            }
        ).replace_schema_metadata(
            {"protocol": str(protocol), "class_names": "\n".join(data.class_names)}
        )

        def write(temporary: Path) -> None:
            parquet.write_table(table, temporary)

    write_atomically(path, write)


def confusions(posteriors: Posteriors, data: Dataset) -> str:
    """The most confused classes as text; empty where there is no mistake."""
    names, read = data.class_names, _read(posteriors)
    pairs = confused_pairs(posteriors[read].argmax(axis=1), data.test.labels[read], _SHOWN)
    lines = [f"  {names[true]} taken for {names[other]}: {count}" for true, other, count in pairs]
    return "\n".join(["most confused:", *lines]) if lines else ""


def _read(posteriors: Posteriors) -> NDArray[np.int64]:
    """The images that could be read: the others' posteriors are NaN."""
    return np.flatnonzero(~np.isnan(posteriors[:, 0]))


def pyarrow(path: Path) -> tuple[Any, Any]:
    """pyarrow and its Parquet; raises InputError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install 'vggnet[parquet]', or give an .npz"
        ) from None
    return pyarrow, pyarrow.parquet


def _check_classes(path: Path, header: checkpoint.Header, data: Dataset) -> None:
    try:
        header.config.check_classes()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    names, classes = header.provenance.class_names, header.config.num_classes
    if classes != len(data.class_names):
        raise InputError(f"{path}: {classes} classes; {data.name} has {len(data.class_names)}")
    if names is not None and names != data.class_names:
        raise InputError(f"{path}: {other_classes(names, data)}")
    if header.config.in_channels != 3:
        raise InputError(f"{path}: takes {header.config.in_channels} channels; images have 3")

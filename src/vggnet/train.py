"""§3.1's training: SGD with momentum, a rate that falls on plateaus, a run that resumes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from vggnet import initialize, roll
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.files import existing, sha256
from vggnet.loop import Loop, OnBadImage
from vggnet.model import VGG, Provenance, empty
from vggnet.modules import FullyConnected
from vggnet.parts import Dataset
from vggnet.readers import default_workers
from vggnet.recipes import TrainConfig
from vggnet.runs import RunFolder
from vggnet.step import Parallel
from vggnet.stopping import stoppable
from vggnet.weights import load

_ALONE = World()


def train(
    config: TrainConfig,
    data: Dataset,
    out: str | Path,
    *,
    parent: str | Path | None = None,
    device: str | torch.device | None = None,
    log: Callable[[str], None] | None = None,
    label: str | None = None,
    progress: bool = True,
    workers: int | None = None,
    on_bad_image: OnBadImage = "skip",
    world: World = _ALONE,
    parallel: Parallel | None = None,
) -> Path:
    """Trains a net and writes `weights.safetensors` and `metrics.jsonl` into a folder.

    A run that was stopped goes on from its last checkpoint (every epoch, and every ten minutes in
    a long one) and ends with the weights and metrics of a run that was never stopped. A run that
    is finished is left as it is. SIGINT (Ctrl-C) and SIGTERM let the step end and save a
    checkpoint; the second of them ends the process at once.

    Args:
        config: every value of the run.
        data: its training part is trained on; its validation part decides when the rate falls.
        out: the run's folder.
        parent: weight file to start from, any that `weights.load` reads: of net A for a deeper net
            (staged), or of the same net; without fc8 where it has other classes, without fc6 to
            fc8 where it has none.
        device: cuda where there is one, by default; else the CPU.
        log: gets a line an epoch.
        label: shown before the progress bar; the net's name by default.
        progress: show a bar where standard error is a terminal.
        workers: processes that read images; by default `readers.default_workers`.
        on_bad_image: an image that cannot be read in the course of the run is left out of its
            batch, or of the validation, and written to `bad-images.jsonl` (skip), or ends the run
            (stop). `index.checked` finds bad images before.
        world: the processes that train it together (`distributed.joined`), each of which makes this
            call. Every batch is shared out among them: what is learnt, and with batch normalisation
            what is normalised by, is the whole batch's.
        parallel: how.

    Returns:
        The path of the weight file.

    Raises:
        InputError: when data and net do not fit, or `out` holds a run of another recipe, or
            another process trains in it.
        RunError: when the loss is not finite, an image cannot be read and `on_bad_image` is stop,
            or none can be.
        Stopped: after SIGINT or SIGTERM; it is a KeyboardInterrupt.
    """
    if config.precision == "bfloat16" and torch.device(device or best_device()).type != "cuda":
        raise InputError("precision bfloat16 is for training on a GPU: take float32")
    if on_bad_image not in get_args(OnBadImage):
        raise InputError(f"on_bad_image {on_bad_image!r} is not known: take skip or stop")
    data = roll.restored(roll.find(Path(out)), data)
    config = replace(config, flip=config.flip and data.flip)  # the header tells what was done
    place = torch.device(device or best_device())
    parallel = parallel or Parallel()
    parallel.check(world)
    folder = RunFolder(Path(out), provenance(config, data, parent), world)
    if folder.is_finished():
        folder.clear()
        return folder.weights
    parent_net = None if parent is None else load(parent)
    # Dropout draws from PyTorch's global generators; the caller gets them back as they were.
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        try:
            model = build_for(config, data, parent_net)
        except InputError as error:
            where = "" if parent is None else f", starting from {parent}"
            raise InputError(f"{error}{where}") from None
        with folder.locked():
            if folder.is_finished():  # by another process, which had the folder until now
                return folder.weights
            if workers is None:
                workers = default_workers(data.train.images, place.type)
            with stoppable() as stop:
                run = Loop(
                    config, data, folder, model, place, stop, workers, on_bad_image, world, parallel
                )
                show = progress and world.is_first
                run.go(log or _silent, label or config.model.title, show)
                stop.check()  # a signal that came when all was done is one all the same
    return folder.weights


def provenance(config: TrainConfig, data: Dataset, parent: str | Path | None) -> Provenance:
    """What the weights of a run say of themselves; two runs of equal provenance are one."""
    return Provenance(
        class_names=data.class_names,
        dataset=data.name,
        data=data.trained_on,
        S=config.S,
        seed=config.seed,
        # Through JSON, as it comes back from a file.
        recipe=json.loads(json.dumps(config.to_json())),
        parent=None if parent is None else sha256(existing(Path(parent))),
    )


def build_for(config: TrainConfig, data: Dataset, parent: VGG | None) -> VGG:
    """The net at the start of a run: drawn by its seed, then staged or copied from `parent`.

    Where the FC layers alone are tuned, the others' parameters need no gradient.

    Raises:
        InputError: when `parent` fits neither way, or the classes are not the data set's.
    """
    classes = len(data.class_names)
    if config.model.num_classes != classes:
        raise InputError(
            f"the net has {config.model.num_classes} classes, {data.name} has {classes}"
        )
    config.model.check_head()
    if config.model.boxes is not None and None in (data.train.boxes, data.validation.boxes):
        raise InputError(f"{data.name}: it is not known where the objects are: give their boxes")
    if config.model.in_channels != 3:
        raise InputError(f"{data.name} has RGB images; the net takes {config.model.in_channels}")
    if config.tune == "fc" and (parent is None or parent.config.net != config.model.net):
        raise InputError(
            f"tune fc: the convolutions stay as they are, so give trained weights of net "
            f"{config.model.net} to start from"
        )
    whole = parent is not None and parent.config.net == config.model.net
    # Weights that are trained further keep the mean that they were trained with.
    model = empty(config.model, parent.mean.tolist() if whole and parent else data.mean_rgb)
    generator = torch.Generator().manual_seed(config.seed)
    initialize.initialize_(model, config.init, generator)
    if parent is not None:
        copy = initialize.whole_ if whole else initialize.staged_
        copy(model, parent)
    if config.tune == "fc":
        for layer in model.children():
            if not isinstance(layer, FullyConnected):
                layer.requires_grad_(False)
    return model


def _silent(_: str) -> None:
    pass


def best_device() -> str:
    """cuda where PyTorch sees one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"

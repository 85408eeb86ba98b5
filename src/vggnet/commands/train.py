"""`vggnet train`: one training run."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.adaptations import Adaptation, adaptation
from vggnet.commands.arguments import (
    DATA,
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    net_flags,
    numbers,
    opened,
    parallel_flags,
    parallel_of,
    parts_of,
    readable,
    reading_flags,
    say,
    workers_of,
)
from vggnet.configs import NETS, Config
from vggnet.protocols import single_scale
from vggnet.recipes import Scale, TrainConfig, a_256, as_scale, rival_256
from vggnet.rivals import RIVALS, beside

if TYPE_CHECKING:
    from vggnet.distributed import World
    from vggnet.parts import Dataset
    from vggnet.step import Parallel


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=f"the data set: {DATA}")
    parser.add_argument("--net", required=True, help=", ".join([*NETS, *RIVALS]))
    parser.add_argument("--out", required=True, type=Path, help="folder for weights and metrics")
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="WEIGHTS",
        help="start from weights of net A (its first four convolutions and FC layers), "
        "or of the same net (all layers); any file that `vggnet convert` reads",
    )
    net_flags(parser)
    parser.add_argument(
        "--dropout", type=float, help="default: 0.5, GoogLeNet's 0.4, each its paper's"
    )
    parser.add_argument("--batch-norm", action="store_true", help="not in the paper")
    parser.add_argument("--lrn", default="krizhevsky", help="krizhevsky (default) or caffe")
    parser.add_argument(
        "--scale",
        dest="S",
        help="S: smallest side of the training images in pixels, or LOW,HIGH to draw it for every "
        "image (default: the paper's 256, in proportion to the crop)",
    )
    default = a_256(Config("A"))
    for name, text in {
        "epochs": "at most so many",
        "batch_size": "images a step",
        "learning_rate": "at the start",
        "momentum": "of SGD",
        "weight_decay": "the L2 penalty's multiplier",
        "patience": "epochs without a lower validation error before the rate is divided by 10",
        "colour_shift": "sigma of the RGB shift, 0 for none",
        "erase": "chance that a rectangle of a crop is erased; not in the paper",
        "init": "how weights are drawn: glorot, he, paper-variance, paper-std",
        "tune": "what learns: all, or fc for the FC layers alone",
        "seed": "one seed gives one loss curve",
        "precision": "of products: float32, or bfloat16 on a GPU",
    }.items():
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            help=f"{text} (default {value}, the embedded data sets have their own)"
            if name in ("epochs", "batch_size", "learning_rate", "patience")
            else f"{text} (default {value})",
        )
    reading_flags(parser, "leave out and list those that go bad while it trains")
    parallel_flags(parser)
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    fitted = adaptation(args.data)
    model = _model(args, fitted)
    names = {field.name for field in fields(TrainConfig)} & vars(args).keys() - {"S"}
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    # Of another S it would be the recipe for weights that are trained already.
    config = fitted.fit(replace(a_256(model), model=model) if model.is_vgg else rival_256(model))
    config = replace(config, S=config.S if args.S is None else _train_scale(args.S), **given)

    from vggnet import weights
    from vggnet.distributed import joined
    from vggnet.files import check_writable
    from vggnet.initialize import check

    check(config.init)
    device = device_of(args)
    check_writable(args.out / "weights.safetensors")
    start = None if args.init_from is None else weights.config_of(args.init_from)
    whole = opened(args.data)
    with joined(device) as world:
        parallel = parallel_of(args, world)
        with world.one_first():
            data = readable(whole, parts_of(args.out), args, args.out)
        choose_engine(args, device)
        config = replace(config, model=replace(model, num_classes=len(data.class_names)))
        if start is not None:
            _say_what_is_random(args.init_from, start, config.model)
        _train(args, config, data, device, world, parallel)


def _model(args: argparse.Namespace, fitted: Adaptation) -> Config:
    """The net that is asked for; the crop of one of Table 7's is in proportion to VGG's."""
    given = {
        name: value
        for name in ("crop", "width", "dropout", "batch_norm", "lrn")
        if (value := getattr(args, name)) is not None
    }
    if args.net in RIVALS:
        # A crop of 32 leaves most of them nothing.
        crop, width = fitted.grid_crop or fitted.crop, fitted.grid_width or fitted.width
        return replace(beside(args.net, Config("A", crop=crop, width=width)), **given)
    return Config(args.net, **{"crop": fitted.crop, "width": fitted.width, **given})


def _train(
    args: argparse.Namespace,
    config: TrainConfig,
    data: "Dataset",
    device: str,
    world: "World",
    parallel: "Parallel",
) -> None:
    from vggnet import checkpoint
    from vggnet.evaluate import evaluate
    from vggnet.train import train

    workers = workers_of(args, data.train.images, device)
    weights = train(
        config,
        data,
        args.out,
        parent=args.init_from,
        device=device,
        log=say,
        workers=workers,
        on_bad_image=args.on_bad_image or "skip",
        world=world,
        parallel=parallel,
    )
    net = checkpoint.load(weights).to(device)
    result = evaluate(
        net,
        data.test,
        scales=[single_scale(config.S)],
        flips=data.flip,
        workers=workers,
        on_bad=None if args.on_bad_image == "stop" else lambda i, reason: say(reason),
        progress=True,
        world=world,
    )
    say(f"test part of {data.name}:")
    say(str(result))
    say(f"weights: {weights}")


def _say_what_is_random(file: Path, start: Config, model: Config) -> None:
    if not start.head:
        say(f"fc6, fc7 and fc8 start at random: {file} has no classifier")
    elif start.num_classes != model.num_classes:
        sides = " (and the last layers at its sides)" * bool(model.sides())
        say(f"fc8{sides} starts at random: {file} has {start.num_classes:,} other classes")


def _train_scale(text: str) -> Scale:
    sides = numbers("scale", text, "one whole number of pixels, or two such as 256,512")
    return as_scale(sides[0] if len(sides) == 1 else sides)

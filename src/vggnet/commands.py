"""The commands as a table, each thin: flags in, a call, something printed.

PyTorch is imported by the commands that use it.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vggnet.configs import NETS, TABLE_1, Config
from vggnet.errors import InputError
from vggnet.graph import TABLES, Settings
from vggnet.protocols import Method, single_scale
from vggnet.recipes import PAPER_CROP, Scale, TrainConfig, a_256, adaptation, as_scale

if TYPE_CHECKING:
    from vggnet.datasets import Dataset
    from vggnet.scoring import Result

_DATA = "digits, fashion-mnist, fashion-mnist:DIR, or a folder of images by class or of ImageNet"


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: its line in the help, its flags, what it does."""

    help: str
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


# info


def _info_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "net", nargs="?", help=f"{', '.join(NETS)}, or 'kernels'; without it, the six of Table 1"
    )
    parser.add_argument(
        "--crop",
        type=int,
        default=PAPER_CROP,
        help=f"side in pixels, a multiple of 32 (default {PAPER_CROP})",
    )
    parser.add_argument(
        "--width", type=float, default=1.0, help="multiplies the channels (default 1, the paper's)"
    )
    parser.add_argument("--num-classes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--batch-norm", action="store_true", help="not in the paper")
    parser.add_argument(
        "--batch",
        type=int,
        default=256,
        help="images a step, for the training memory (default 256)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _info(args: argparse.Namespace) -> None:
    from vggnet import info
    from vggnet.accounting import account

    def config(net: str) -> Config:
        return Config(
            net,
            num_classes=args.num_classes,
            crop=args.crop,
            width=args.width,
            batch_norm=args.batch_norm,
        )

    if args.net == "kernels":
        print(json.dumps(info.kernels_json(), indent=1) if args.json else info.kernels())
    elif args.net:
        net = account(config(args.net))
        memory = net.training_memory(args.batch)
        if args.json:
            totals = {"net": args.net, **net.to_json(), "layers": net.layers_json()}
            print(json.dumps(totals | {"training_memory": memory}, indent=1))
        else:
            print(info.walk(net, args.batch))
    else:
        accounts = [account(config(net)) for net in TABLE_1]
        if args.json:
            print(json.dumps({net.config.net: net.to_json() for net in accounts}, indent=1))
        else:
            print(f"{info.side_by_side(accounts)}\n\n{info.kernels()}")


# train


def _train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=f"the data set: {_DATA}")
    parser.add_argument("--net", required=True, help=", ".join(NETS))
    parser.add_argument("--out", required=True, type=Path, help="folder for weights and metrics")
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="WEIGHTS",
        help="start from weights of net A (its first four convolutions and FC layers), "
        "or of the same net (all layers)",
    )
    _net_flags(parser)
    parser.add_argument("--dropout", type=float, default=0.5, help="default: 0.5")
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
        "init": "how weights are drawn: glorot, he, paper-variance, paper-std",
        "tune": "what learns: all, or fc for the FC layers alone",
        "seed": "one seed gives one loss curve",
    }.items():
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            help=f"{text} (default {value}, the embedded data sets have their own)"
            if name in ("epochs", "batch_size", "learning_rate", "patience")
            else f"{text} (default {value})",
        )
    _device_flag(parser)


def _train(args: argparse.Namespace) -> None:
    fitted = adaptation(args.data)
    model = Config(
        args.net,
        crop=fitted.crop if args.crop is None else args.crop,
        width=fitted.width if args.width is None else args.width,
        dropout=args.dropout,
        batch_norm=args.batch_norm,
        lrn=args.lrn,
    )
    names = {field.name for field in fields(TrainConfig)} & vars(args).keys() - {"S"}
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    # Of another S it would be the recipe for weights that are trained already.
    config = fitted.fit(replace(a_256(model), model=model))
    config = replace(config, S=config.S if args.S is None else _train_scale(args.S), **given)

    from vggnet import checkpoint
    from vggnet.evaluate import evaluate
    from vggnet.initialize import check
    from vggnet.train import train

    check(config.init)
    data = _open(args.data)
    config = replace(config, model=replace(model, num_classes=len(data.class_names)))
    weights = train(config, data, args.out, parent=args.init_from, device=_device(args), log=_say)
    net = checkpoint.load(weights).to(_device(args))
    result = evaluate(
        net, data.test, scales=[single_scale(config.S)], flips=data.flip, progress=True
    )
    print(result)
    print(f"weights: {weights}")


def _train_scale(text: str) -> Scale:
    sides = _numbers("scale", text, "one whole number of pixels, or two such as 256,512")
    return as_scale(sides[0] if len(sides) == 1 else sides)


# evaluate


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        nargs="+",
        help="files that training wrote; the posteriors of several are averaged (fusion)",
    )
    parser.add_argument("data", metavar="DATA", help=f"the data set: {_DATA}")
    parser.add_argument(
        "--method",
        default="dense",
        help=f"{', '.join(get_args(Method))} (default dense)",
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas; posteriors are averaged over them "
        "(default: each net's S, the middle of its range where it is jittered)",
    )
    parser.add_argument(
        "--averaging", default="scores", help="over the dense map: scores (default) or posteriors"
    )
    parser.add_argument(
        "--no-flips", action="store_true", help="without mirrored images; a centre crop has none"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="save posteriors and what every image was taken for: .npz, or .parquet",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep posteriors in this folder, and use them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _device_flag(parser)


def _evaluate(args: argparse.Namespace) -> None:
    from vggnet import predictions
    from vggnet.checkpoint import check_writable

    scales = None if args.scales is None else _scales(args.scales)
    if args.out is not None:
        predictions.check(args.out)
    if args.cache is not None:
        check_writable(args.cache / "posteriors")
    data = _open(args.data)
    found, posteriors, seconds = predictions.evaluate_files(
        args.weights,
        data,
        scales=scales,
        method=args.method,
        averaging=args.averaging,
        flips=data.flip and not args.no_flips and args.method != "centre-crop",
        device=_device(args),
        cache=args.cache,
        progress=True,
    )
    if args.out is not None:
        predictions.save(args.out, posteriors, data, found.protocol)
    if args.json:
        views = {"views_per_image": found.protocol.views}
        print(json.dumps(found.to_json() | views, indent=1))
        return
    print(found)
    print(_cost(found, seconds))
    if text := predictions.confusions(posteriors, data):
        print(text)
    if args.out is not None:
        print(f"posteriors and predictions: {args.out}")


def _cost(result: "Result", seconds: float | None) -> str:
    views = result.protocol.views
    speed = "" if seconds is None else f", {result.n / seconds:.1f} images/s"
    giga = (result.multiply_adds_per_image or 0) / 1e9
    return (
        f"cost: {result.forwards_per_image:g} forwards an image for {views} views, "
        f"{giga:.3g} billion multiply-adds{speed}"
    )


def _scales(text: str) -> list[int]:
    return _numbers("scales", text, "whole numbers of pixels, such as 32,36")


def _numbers(name: str, text: str, wanted: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} {text!r}: give {wanted}") from None


# reproduce


def _reproduce_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help=f"the data set: {_DATA}; imagenet with --plan needs no images"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for results and report")
    parser.add_argument(
        "--only",
        help=f'part of the grid, such as "table 3, D": of {", ".join(TABLES)} and of the nets; '
        "results and report are then of this part",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print every run and its estimated cost, start nothing"
    )
    _net_flags(parser)
    parser.add_argument("--epochs", type=int, help="at most so many a net")
    parser.add_argument("--batch-size", type=int, help="images a step")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (default 0)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each a process (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _device_flag(parser)


def _reproduce(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise InputError(f"jobs {args.jobs} is not 1 or more")
    settings = Settings(
        crop=args.crop,
        width=args.width,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        only=args.only,
    )
    if args.plan:
        _plan(args, settings)
        return

    from vggnet import report
    from vggnet.reproduce import reproduce

    log = None if args.json else _say
    results = reproduce(
        _open(args.data), args.out, settings, device=_device(args), jobs=args.jobs, log=log
    )
    if args.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(f"\n{report.text(results)}\n\nreport: {args.out / 'report.html'}")


def _plan(args: argparse.Namespace, settings: Settings) -> None:
    from vggnet import plan
    from vggnet.graph import grid

    without = args.data == plan.ILSVRC_2012.name and not Path(args.data).exists()
    facts = plan.ILSVRC_2012 if without else plan.Facts.of(_open(args.data))
    device = _device(args)
    steps = plan.plan(
        grid(facts.name, facts.num_classes, facts.flip, settings), facts, args.out, device
    )
    if args.json:
        print(json.dumps(plan.to_json(steps), indent=1))
    else:
        print(plan.text(steps, facts, device))


def _open(name: str) -> "Dataset":
    from vggnet.datasets import open_dataset

    data = open_dataset(name)
    if data.note:
        print(f"{data.name}: {data.note}", file=sys.stderr)
    return data


def _net_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--crop",
        type=int,
        help="side in pixels, a multiple of 32 (default 224, the paper's; less for digits and "
        "fashion-mnist)",
    )
    parser.add_argument(
        "--width",
        type=float,
        help="multiplies the channels (default 1, the paper's; less for digits and fashion-mnist)",
    )


def _device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def _device(args: argparse.Namespace) -> str:
    import torch

    from vggnet.train import best_device

    device: str = args.device or best_device()
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not known: take cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this PyTorch sees no CUDA device; take cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"device {device!r}: there are {count}, counted from cuda:0")
    return device


def _say(line: str) -> None:
    """Prints a line above a progress bar, if there is one."""
    from tqdm import tqdm

    if sys.stdout:
        # A run goes on when nobody reads it any more.
        with suppress(BrokenPipeError):
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()


COMMANDS = {
    "info": Command("what the nets are and cost (Tables 1 and 2, §2.3)", _info_flags, _info),
    "train": Command("train a net by the paper's recipe (§3.1)", _train_flags, _train),
    "evaluate": Command("errors of a trained net (§3.2)", _evaluate_flags, _evaluate),
    "reproduce": Command(
        "the paper's grid on your data, its tables beside the paper's", _reproduce_flags, _reproduce
    ),
}

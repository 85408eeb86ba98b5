"""The command line: a table of thin commands. PyTorch is imported by the commands that use it.

Exit codes: 0 done; 1 the run failed (the loss is not finite, the disk is full); 2 bad input,
nothing written; 130 interrupted, the same command goes on.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

from vggnet import __version__
from vggnet.configs import NETS, TABLE_1, Config
from vggnet.errors import InputError, RunError
from vggnet.recipes import DIGITS_CROP, DIGITS_WIDTH, TrainConfig, a_256, on_digits


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: its line in the help, its flags, what it does."""

    help: str
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code is in the module's docstring."""
    args = _parser().parse_args(arguments)
    try:
        COMMANDS[args.command].run(args)
        if sys.stdout:  # there is none where it was closed
            sys.stdout.flush()
    except InputError as error:
        return _fail(2, error)
    except RunError as error:
        return _fail(1, error)
    except KeyboardInterrupt:
        resumes = args.command in ("train", "reproduce")
        note = ": the same command goes on where it stopped" * resumes
        print(f"\ninterrupted{note}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(1, f"{error.filename or 'writing'}: {error.strerror or error}")
    return 0


def _fail(code: int, error: object) -> int:
    print(f"vggnet: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vggnet",
        description="The complete VGG (Simonyan & Zisserman 2014): its nets, training and tests.",
    )
    parser.add_argument("--version", action="version", version=f"vggnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        flags = commands.add_parser(name, help=command.help, description=command.help)
        command.flags(flags)
    return parser


# info


def _info_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "net", nargs="?", help=f"{', '.join(NETS)}, or 'kernels'; without it, the six of Table 1"
    )
    _net_flags(parser, crop=224, width=1.0)
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
    parser.add_argument("data", metavar="DATA", help="the data set: digits")
    parser.add_argument("--net", required=True, help=", ".join(NETS))
    parser.add_argument("--out", required=True, type=Path, help="folder for weights and metrics")
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="WEIGHTS",
        help="start from weights of net A (its first four convolutions and FC layers), "
        "or of the same net (all layers)",
    )
    _net_flags(parser, crop=DIGITS_CROP, width=DIGITS_WIDTH)
    parser.add_argument("--dropout", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--batch-norm", action="store_true", help="not in the paper")
    parser.add_argument("--lrn", default="krizhevsky", help="krizhevsky (default) or caffe")
    parser.add_argument(
        "--scale",
        dest="S",
        type=int,
        help="S: smallest side of the training images in pixels (default: the paper's 256, "
        "in proportion to the crop)",
    )
    default = on_digits(a_256(Config("A", crop=DIGITS_CROP)))
    for name, text in {
        "epochs": "at most so many",
        "batch_size": "images a step",
        "learning_rate": "at the start",
        "momentum": "of SGD",
        "weight_decay": "the L2 penalty's multiplier",
        "patience": "epochs without a lower validation error before the rate is divided by 10",
        "colour_shift": "sigma of the RGB shift, 0 for none",
        "init": "how weights are drawn: glorot, he, paper-variance, paper-std",
        "seed": "one seed gives one loss curve",
    }.items():
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            default=value,
            help=f"{text} (default {value})",
        )
    _device_flag(parser)


def _train(args: argparse.Namespace) -> None:
    model = Config(
        args.net,
        crop=args.crop,
        width=args.width,
        dropout=args.dropout,
        batch_norm=args.batch_norm,
        lrn=args.lrn,
    )
    names = {field.name for field in fields(TrainConfig)} & vars(args).keys()
    values = {name: getattr(args, name) for name in names}
    if args.S is None:
        values["S"] = a_256(model).S
    config = TrainConfig(model, **values)

    from vggnet import checkpoint
    from vggnet.datasets import open_dataset
    from vggnet.evaluate import evaluate
    from vggnet.initialize import check
    from vggnet.train import train

    check(config.init)
    data = open_dataset(args.data)
    config = replace(config, model=replace(model, num_classes=len(data.class_names)))
    weights = train(config, data, args.out, parent=args.init_from, device=_device(args), log=_say)
    net = checkpoint.load(weights).to(_device(args))
    result = evaluate(net, data.test, scales=[config.S], flips=data.flip)
    print(result)
    print(f"weights: {weights}")


# evaluate


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="file that training wrote")
    parser.add_argument("data", metavar="DATA", help="the data set: digits")
    parser.add_argument(
        "--method",
        default="dense",
        help="dense: the whole image, scores averaged (default); centre-crop: one crop",
    )
    parser.add_argument(
        "--scales",
        help="test scales Q in pixels, separated by commas; posteriors are averaged over them "
        "(default: the S of training)",
    )
    parser.add_argument(
        "--averaging", default="scores", help="over the dense map: scores (default) or posteriors"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _device_flag(parser)


def _evaluate(args: argparse.Namespace) -> None:
    from vggnet import checkpoint
    from vggnet.datasets import open_dataset
    from vggnet.evaluate import evaluate

    data = open_dataset(args.data)
    model = checkpoint.load(args.weights)
    names = model.provenance.class_names
    if names is not None and names != data.class_names:
        raise InputError(f"{args.weights}: its classes are not those of {data.name}")
    if model.config.num_classes != len(data.class_names):
        classes = model.config.num_classes
        raise InputError(f"{args.weights}: {classes} classes; {data.name} has another number")
    if args.scales is None and model.provenance.S is None:
        raise InputError(f"{args.weights}: does not say its S: give --scales")
    result = evaluate(
        model.to(_device(args)),
        data.test,
        scales=_scales(args.scales) if args.scales is not None else [model.provenance.S or 0],
        method=args.method,
        averaging=args.averaging,
        flips=data.flip,
        progress=True,
    )
    print(json.dumps(result.to_json(), indent=1) if args.json else result)


def _scales(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"scales {text!r}: give whole numbers of pixels, such as 32,36") from None


# reproduce


def _reproduce_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="the data set: digits")
    parser.add_argument("--out", required=True, type=Path, help="folder for results and report")
    _net_flags(parser, crop=DIGITS_CROP, width=DIGITS_WIDTH)
    parser.add_argument("--epochs", type=int, help="at most so many a net")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (default 0)")
    _device_flag(parser)


def _reproduce(args: argparse.Namespace) -> None:
    from vggnet import report
    from vggnet.datasets import open_dataset
    from vggnet.reproduce import reproduce

    results = reproduce(
        open_dataset(args.data),
        args.out,
        crop=args.crop,
        width=args.width,
        epochs=args.epochs,
        seed=args.seed,
        device=_device(args),
        log=_say,
    )
    print(f"\n{report.table_3(results)}\n\nreport: {args.out / 'report.html'}")


def _net_flags(parser: argparse.ArgumentParser, crop: int, width: float) -> None:
    parser.add_argument(
        "--crop", type=int, default=crop, help=f"side in pixels, a multiple of 32 (default {crop})"
    )
    parser.add_argument(
        "--width",
        type=float,
        default=width,
        help=f"multiplies the channels; 1 is the paper's (default {width:g})",
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
        "train and test the paper's nets, tables beside the paper's", _reproduce_flags, _reproduce
    ),
}

"""The command line: a table of commands, errors as one line, exit codes.

Exit codes: 0 done; 1 the run failed (the loss is not finite, the disk is full); 2 bad input,
nothing written but the list of bad images; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM): the
same command goes on.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from vggnet import __version__
from vggnet.commands import (
    bench,
    check_data,
    convert,
    evaluate,
    export,
    features,
    info,
    localize,
    plan,
    predict,
    reproduce,
    serve,
    train,
    train_boxes,
    transfer,
    weights,
)
from vggnet.errors import InputError, RunError
from vggnet.stopping import Stopped, raising, stoppable


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: its line in the help, its flags, what it does."""

    help: str
    flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS = {
    "info": Command("what the nets are and cost (Tables 1 and 2, §2.3)", info.flags, info.run),
    "check-data": Command(
        "what a data set holds, and what is wrong with it", check_data.flags, check_data.run
    ),
    "train": Command("train a net by the paper's recipe (§3.1)", train.flags, train.run),
    "evaluate": Command("errors of a trained net (§3.2)", evaluate.flags, evaluate.run),
    "features": Command("descriptors of images (Appendix B)", features.flags, features.run),
    "transfer": Command(
        "a linear SVM on descriptors, beside raw pixels and Tables 11 and 12 (Appendix B)",
        transfer.flags,
        transfer.run,
    ),
    "predict": Command("what is in pictures", predict.flags, predict.run),
    "serve": Command("answers over HTTP, and a page that shows them", serve.flags, serve.run),
    "train-boxes": Command(
        "nets that say where the object is; Tables 8 to 10 (Appendix A)",
        train_boxes.flags,
        train_boxes.run,
    ),
    "localize": Command(
        "what is in a picture, and where (Appendix A)", localize.flags, localize.run
    ),
    "weights": Command(
        "known public weights: sources, licences, errors; fetch them", weights.flags, weights.run
    ),
    "convert": Command(
        "weights of torchvision, timm, Keras, Caffe, MatConvNet to vggnet's, and back",
        convert.flags,
        convert.run,
    ),
    "export": Command(
        "a net for ONNX Runtime, OpenVINO, torch.export or ncnn", export.flags, export.run
    ),
    "reproduce": Command(
        "the paper's grid on your data, its tables beside the paper's",
        reproduce.flags,
        reproduce.run,
    ),
    "plan": Command(
        "what training on several GPUs will take: bytes, seconds, hours", plan.flags, plan.run
    ),
    "bench": Command(
        "speed of this machine: forward, dense, training step, reading", bench.flags, bench.run
    ),
}

TOGETHER = ("train", "evaluate", "features", "train-boxes", "reproduce")
"""Commands that the processes of a torchrun do together."""
_RESUME = ("check-data", "features", "predict", "train", "train-boxes", "transfer", "reproduce")
"""Commands that go on where they stopped."""
_MEMORY = "out of memory: lower --batch-size, --jobs, the scales or --width"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code is in the module's docstring."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no failure
            stream.reconfigure(errors="replace")
    args = parser().parse_args(arguments)
    try:
        if _ranks() > 1 and args.command not in TOGETHER:
            raise InputError(
                f"{args.command} is the work of one process: start it without torchrun"
            )
        if args.command not in ("info", "plan"):
            # A signal that were raised within them would leave NumPy or PyTorch half imported.
            with stoppable() as stop:
                import torch  # noqa: F401
            stop.check()
        with raising():
            COMMANDS[args.command].run(args)
        if sys.stdout:  # there is none where it was closed
            sys.stdout.flush()
    except InputError as error:
        return _fail(2, error)
    except RunError as error:
        return _fail(1, error)
    except KeyboardInterrupt as error:
        resumes = args.command in _RESUME
        note = ": the same command goes on where it stopped" * resumes
        number = error.signal if isinstance(error, Stopped) else signal.SIGINT
        what = "terminated" if number == signal.SIGTERM else "interrupted"
        print(f"\n{what}{note}", file=sys.stderr)
        return 128 + number
    except MemoryError:
        return _fail(1, _MEMORY)
    except RuntimeError as error:
        if _ranks() > 1 and ("gloo" in str(error) or type(error).__name__ == "DistBackendError"):
            return _fail(1, "another process of this run has ended, or does not answer")
        # PyTorch's, which may not be imported: of a GPU, and of a processor.
        if type(error).__name__ != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        return _fail(1, _MEMORY)
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(1, f"{error.filename or 'writing'}: {error.strerror or error}")
    return 0


def _ranks() -> int:
    """How many processes torchrun has started, of which this is one; 1 without it.

    As `distributed` knows it, which imports PyTorch.
    """
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def _fail(code: int, error: object) -> int:
    of = f" (process {os.environ['RANK']} of {_ranks()})" if _ranks() > 1 else ""
    print(f"vggnet: error{of}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Of all commands with their flags."""
    whole = _Parser(
        prog="vggnet",
        description="The complete VGG (Simonyan & Zisserman 2014): its nets, training and tests.",
    )
    whole.add_argument("--version", action="version", version=f"vggnet {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        flags = commands.add_parser(name, help=command.help, description=command.help)
        command.flags(flags)
    return whole

"""`vggnet serve`: answers over HTTP, and a page."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vggnet.commands.arguments import (
    choose_engine,
    device_flag,
    device_of,
    fast_flag,
    say,
)
from vggnet.errors import InputError

if TYPE_CHECKING:
    from socket import socket

KEY = "VGGNET_API_KEY"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        type=Path,
        help="of a net with classes; any that vggnet.load reads",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default 127.0.0.1: this machine alone; others need a key)",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    parser.add_argument(
        "--api-key",
        help=f"needed in every request that computes; better by the environment, {KEY}, where "
        "other users of this machine do not see it",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=12,
        metavar="N",
        help="pictures that are taken in and not yet answered; more are refused at once with 503 "
        "(default 12)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=8,
        metavar="N",
        help="pictures that are computed together at most (default 8)",
    )
    parser.add_argument(
        "--max-body", type=int, default=32, metavar="MB", help="a request's size (default 32)"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=50,
        metavar="MILLIONS",
        help="a picture's size before it is decoded (default 50)",
    )
    parser.add_argument(
        "--max-work",
        type=int,
        default=16,
        metavar="MILLIONS",
        help="pixels of all of a picture's views that go through the net (default 16)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20,
        metavar="SECONDS",
        help="time that a request's headers, and its body, have to arrive (default 20)",
    )
    parser.add_argument(
        "--examples", type=Path, metavar="FOLDER", help="pictures that the page offers to try"
    )
    device_flag(parser)
    fast_flag(parser)


def run(args: argparse.Namespace) -> None:
    for name in ("queue", "batch", "max_body", "max_pixels", "max_work"):
        if getattr(args, name) < 1:
            raise InputError(f"{name.replace('_', '-')} {getattr(args, name)} is not 1 or more")
    if not 0.1 <= args.patience <= 3600:
        raise InputError(f"patience {args.patience} is not from 0.1 to 3600 seconds")
    try:
        from vggnet.serve import app, server  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"serve needs {error.name}: pip install 'vggnet[serve]'") from None
    key = args.api_key or os.environ.get(KEY) or None
    server.check_key(args.host, key)
    with server.bound(args.host, args.port) as found:
        _serve(args, found, key)


def _serve(args: argparse.Namespace, listening: "socket", key: str | None) -> None:
    from vggnet.serve import examples, server
    from vggnet.serve.app import create
    from vggnet.serve.batching import Batcher
    from vggnet.serve.metrics import Metrics
    from vggnet.serve.service import Limits, Service
    from vggnet.weights import load

    limits = Limits(
        body=args.max_body << 20,
        pixels=args.max_pixels * 1_000_000,
        work=args.max_work * 1_000_000,
        pictures=min(Limits().pictures, args.queue),
        seconds=args.patience,
    )
    device = device_of(args)
    choose_engine(args, device)
    model = load(args.weights).to(device)
    try:
        service = Service(model, limits)
    except InputError as error:
        raise InputError(f"{args.weights}: {error}") from None
    shown = (
        examples.from_folder(args.examples)
        if args.examples is not None
        else examples.embedded(service.default.class_names)
    )
    service.warm_up(args.batch)
    metrics = Metrics()
    batcher = Batcher(args.queue, args.batch, metrics.batch)
    metrics.watch(lambda: batcher.taken)
    port = listening.getsockname()[1]
    host = f"[{args.host}]" if ":" in args.host else args.host
    say(f"net {model.config.title}, {service.engine}")
    app = create(service, batcher, metrics, key, shown)
    running = server.of(
        app, args.patience, lambda: say(f"http://{host}:{port} answers; Ctrl-C ends it")
    )
    running.run([listening])

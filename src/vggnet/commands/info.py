"""`vggnet info`: what the nets are and cost."""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from vggnet.configs import NETS, TABLE_1, Config
from vggnet.errors import InputError
from vggnet.recipes import PAPER_CROP
from vggnet.rivals import RIVALS, beside


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "net",
        nargs="?",
        help=f"{', '.join([*NETS, *RIVALS])}, or 'kernels'; without it, the six of Table 1, and "
        "those that Table 7 compares with",
    )
    parser.add_argument(
        "--crop",
        type=int,
        help=f"side in pixels, a multiple of 32 (default {PAPER_CROP}); of one of Table 7's other "
        "nets any that leaves it a map (default its own paper's)",
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


def run(args: argparse.Namespace) -> None:
    from vggnet import info
    from vggnet.accounting import account

    crop = PAPER_CROP if args.crop is None else args.crop
    options = {"num_classes": args.num_classes, "width": args.width}

    def config(net: str) -> Config:
        if net in RIVALS:
            # `Rival` refuses batch normalisation.
            own = {} if args.crop is None else {"crop": args.crop}
            return replace(beside(net, Config("A", **options)), batch_norm=args.batch_norm, **own)
        return Config(net, crop=crop, batch_norm=args.batch_norm, **options)

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
        others = [account(net) for net in _compared(accounts[0].config)]
        if args.json:
            found = {net.config.net: net.to_json() for net in (*accounts, *others)}
            print(json.dumps(found, indent=1))
        else:
            tables = [info.side_by_side(accounts), info.kernels()]
            print("\n\n".join(tables[:1] + [info.rivals(others)] * bool(others) + tables[1:]))


def _compared(vgg: Config) -> Iterator[Config]:
    """Table 7's other nets beside this one; where its crop leaves them a map."""
    for name in RIVALS:
        with suppress(InputError):
            yield beside(name, vgg)

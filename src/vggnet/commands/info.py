"""`vggnet info`: what the nets are and cost."""

import argparse
import json

from vggnet.configs import NETS, TABLE_1, Config
from vggnet.recipes import PAPER_CROP


def flags(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
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

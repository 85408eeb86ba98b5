"""`vggnet weights`."""

import argparse


def flags(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> None:
    raise NotImplementedError

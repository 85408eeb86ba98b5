"""Runs before PyTorch is imported."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from vggnet.home import cache_home

# Two workers share the machine's cores; threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the tests start gets Ctrl-C, also where a shell in the background has had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is remembered of data sets goes into a folder that ends with the tests; compiled kernels,
# which are named by all that they are made from, stay where they are.
_KERNELS = cache_home() / "kernels"
_KERNELS.mkdir(parents=True, exist_ok=True, mode=0o700)
_CACHE = tempfile.TemporaryDirectory()
(Path(_CACHE.name) / "kernels").symlink_to(_KERNELS)
os.environ["VGGNET_CACHE"] = _CACHE.name


LONG = (
    *("test_distributed.py", "test_docs.py", "test_reproduce.py", "test_cli.py", "test_dying.py"),
    *("test_keras.py", "test_fashion.py", "test_model.py", "test_fuzz.py"),
)
"""The files that take longest come first, so that at the end no process waits for one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))

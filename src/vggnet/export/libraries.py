"""The runtimes' Python packages: imported when they are needed, quietly, without telemetry."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vggnet.errors import InputError

# OpenVINO, NNCF and ONNX Runtime send usage data from their import on, and keep an identifier in
# the home folder: the first two unless this package cannot be imported, the last unless this
# variable is set.
_TELEMETRY, _NO_TELEMETRY = "openvino_telemetry", "ORT_DISABLE_TELEMETRY"


def library(name: str, extra: str) -> Any:
    """The package or module of this name.

    Raises:
        InputError: where it is not installed, with the command that installs it.
    """
    try:
        with quiet(), _without_telemetry():
            return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(
            f"{package} is not installed, which this export needs: pip install 'vggnet[{extra}]'"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other packages, whether Python's or in their logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """What somebody else has imported or set is left as it is."""
    blocked, unset = _TELEMETRY not in sys.modules, _NO_TELEMETRY not in os.environ
    if blocked:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it is an ImportError
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        yield
    finally:
        if blocked:
            del sys.modules[_TELEMETRY]
        if unset:
            del os.environ[_NO_TELEMETRY]

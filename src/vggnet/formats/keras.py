"""Keras."""

from pathlib import Path

from vggnet.formats.foreign import Foreign
from vggnet.model import VGG


def read(path: Path) -> Foreign:
    raise NotImplementedError


def write(model: VGG, path: Path) -> str:
    raise NotImplementedError

"""Caffe."""

from pathlib import Path

from vggnet.formats.foreign import Foreign


def read(path: Path) -> Foreign:
    raise NotImplementedError

"""The pictures that a command line names: files, folders, patterns, URLs, standard input."""

import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from vggnet.errors import InputError
from vggnet.folders import SUFFIXES, Tree, images_in
from vggnet.predict import Pictures
from vggnet.storage import Place, exists, is_file, place_of, utf8

STDIN = "-"
_LARGEST = 256 << 20
"""Bytes from standard input at most."""


def pictures_of(specs: Sequence[str]) -> Pictures:
    """The pictures, in the order of the arguments; those of a folder or pattern sorted by name.

    Args:
        specs: paths or URLs of files, or of folders, all images in which and below which are taken;
            patterns such as `photos/*.jpg`, where the shell has left them (`**` goes through
            folders); `-` for one picture from standard input.

    Raises:
        InputError: for what is not there, a folder without images, or a name that is not UTF-8.
    """
    places: list[Place | bytes] = []
    names: list[str] = []
    for spec in specs:
        if spec == STDIN:
            content = sys.stdin.buffer.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise InputError(f"standard input has more than {_LARGEST >> 20} MB: give a file")
            places.append(content)
            names.append(STDIN)
            continue
        root = place_of(spec)
        if exists(root) and is_file(root):
            places.append(root)
            names.append(spec)
        elif exists(root):
            found = sorted(name.removeprefix("./") for name in images_in(Tree(root), "."))
            if not found:
                raise InputError(f"{spec}: has no images ({', '.join(SUFFIXES)}) in it")
            places += [root / name for name in found]
            names += [f"{spec.rstrip('/')}/{name}" for name in found]
        elif isinstance(root, Path) and (found := sorted(glob(str(root), recursive=True))):  # noqa: PTH207
            files = [Path(name) for name in found if Path(name).is_file()]
            places += files
            names += map(str, files)
        else:
            pattern = any(sign in spec for sign in "*?[")
            why = "no file is called so" if pattern else "there is no such file or folder"
            raise InputError(f"{spec}: {why}")
    if not places:
        raise InputError(f"{' '.join(specs)}: no file is so called")
    return Pictures(places, [utf8(name) for name in names])

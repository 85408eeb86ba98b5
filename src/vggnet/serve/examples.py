"""Pictures to try: the user's own, or embedded ones."""

import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from vggnet.errors import InputError
from vggnet.folders import SUFFIXES, Tree, images_in
from vggnet.images import EncodedImage, Pixels, decode, read_file
from vggnet.storage import place_of

_MOST = 12
_KINDS = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


@dataclass(frozen=True, slots=True)
class Example:
    """A picture in a file that browsers show."""

    name: str
    kind: str
    content: bytes


def from_folder(folder: Path) -> list[Example]:
    """The first pictures of a folder, by name.

    Raises:
        InputError: for a folder without such pictures, or one that cannot be read.
    """
    root = place_of(str(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = []
    for name in sorted(images_in(Tree(root), "."))[:_MOST]:
        content = read_file(folder / name)
        kind = _KINDS.get(EncodedImage(content, str(folder / name)).format)
        if kind is not None:
            found.append(Example(Path(name).stem, kind, content))
    if not found:
        raise InputError(f"{folder}: has no pictures ({', '.join(SUFFIXES)}) that browsers show")
    return found


def embedded(class_names: tuple[str, ...]) -> list[Example]:
    """Digits for a net that knows them, else two photographs.

    By danielbuechele and vultilion, CC BY 2.0.
    """
    if class_names == tuple("0123456789"):
        from vggnet.datasets import digits

        test = digits().test
        chosen = [int(np.flatnonzero(test.labels == label)[0]) for label in (3, 5, 8)]
        return [_png(f"a {test.labels[i]}", test.images[i]) for i in chosen]
    with (files("vggnet") / "data" / "photos.png").open("rb") as file:
        photos = np.split(decode(file.read()), 2)
    return [_png(f"photograph {i}", photo) for i, photo in enumerate(photos, 1)]


def _png(name: str, pixels: Pixels) -> Example:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Example(name, "image/png", file.getvalue())

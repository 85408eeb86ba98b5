"""IDX files, the format of MNIST: reading it, and Fashion-MNIST's four files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.storage import is_file

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Grey images, n×H×W, 0–255, and their n classes."""


def find_idx(folder: Path, name: str) -> Path:
    """The file itself, or its .gz, whether that is there or not."""
    plain = folder / name
    return plain if is_file(plain) else folder / f"{name}.gz"


def read_fashion_mnist(folder: Path) -> tuple[Labelled, Labelled]:
    """Fashion-MNIST's training and test images from its four files, each as it is or as .gz.

    Raises:
        InputError: for a file that is missing, truncated, damaged, or at odds with the others.
    """
    paths = [find_idx(folder, name) for name in FASHION_MNIST_FILES]
    missing = [
        name for name, path in zip(FASHION_MNIST_FILES, paths, strict=True) if not is_file(path)
    ]
    if missing:
        raise InputError(
            f"{folder}: Fashion-MNIST's {', '.join(missing)} (as it is, or .gz) not found there: "
            "install it with 'sudo apt-get install dataset-fashion-mnist', or give the folder "
            "that has the four files as fashion-mnist:DIR"
        )
    train, test = _labelled(paths[0], paths[1]), _labelled(paths[2], paths[3])
    if len(train[0]) < 2:
        raise InputError(f"{paths[0]}: has {len(train[0])} images: Fashion-MNIST has 60,000 there")
    return train, test


def _labelled(images: Path, labels: Path) -> Labelled:
    grey, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(grey) != len(classes):
        raise InputError(
            f"{labels}: has {len(classes):,} labels for the {len(grey):,} images in {images}: "
            "take both from one copy of the data set"
        )
    wrong = np.flatnonzero(classes >= len(FASHION_MNIST_CLASSES))
    if len(wrong):
        raise InputError(
            f"{labels}: label {classes[wrong[0]]} of image {wrong[0]} is not in 0–9: is it "
            "Fashion-MNIST's?"
        )
    return grey, classes.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of uint8 from an IDX file: 0, 0, type, dimensions; sizes, big-endian; values.

    Args:
        path: of the file; one that ends in .gz is unpacked.
        dimensions: that it must have.

    Raises:
        InputError: for a file that is not as described.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({why}): copy or install it again") from None
    magic = bytes([0, 0, 8, dimensions])  # 8: uint8
    if content[:4] != magic:
        raise InputError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}, not with {magic.hex(' ')}: "
            f"not an IDX file of uint8 in {dimensions} dimension{'s' * (dimensions > 1)}"
        )
    start = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4))
    if len(content) != start + math.prod(shape) or 0 in shape:
        raise InputError(
            f"{path}: {len(content):,} bytes, where its sizes {'×'.join(map(str, shape))} make "
            f"{start + math.prod(shape):,}: truncated or damaged: copy or install it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)

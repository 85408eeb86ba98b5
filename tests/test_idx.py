"""Fashion-MNIST from IDX files that are written here as the format is published."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vggnet import InputError, datasets
from vggnet.datasets import open_dataset


def idx(values: np.ndarray) -> bytes:
    """As the IDX format is published: 0, 0, 8 for uint8, dimensions; big-endian sizes; values."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def small_fashion(folder: Path) -> Path:
    """36 training and 8 test images; the first pixel is 10 times the label, the second a number."""
    folder.mkdir(exist_ok=True)
    for images, labels, count in ((*FILES[:2], 36), (*FILES[2:], 8)):
        classes = np.arange(count) * 7 % 10
        grey = np.full((count, 4, 6), 99)
        grey[:, 0, 0], grey[:, 0, 1] = 10 * classes, np.arange(count)
        (folder / images).write_bytes(idx(grey))
        (folder / f"{labels}.gz").write_bytes(gzip.compress(idx(classes)))
    return folder


def test_fashion_mnist_comes_from_its_four_files(tmp_path: Path) -> None:
    data = open_dataset(f"fashion-mnist:{small_fashion(tmp_path)}")
    assert (data.name, data.flip) == ("fashion-mnist", True)
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert len(set(data.class_names)) == 10
    # 1 in 12, which is 5,000 of 60,000
    assert [len(part) for part in (data.train, data.validation, data.test)] == [33, 3, 8]
    assert "of its 36 training images, 3 drawn by a fixed seed" in data.note
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert image.shape == (4, 6, 3)
            assert image.dtype == np.uint8
            assert image[0, 0].tolist() == [10 * label] * 3
            assert image[3, 5].tolist() == [99] * 3
    drawn = [int(image[0, 1, 0]) for part in (data.train, data.validation) for image in part.images]
    assert sorted(drawn) == list(range(36))
    assert drawn != list(range(36))
    assert [int(image[0, 1, 0]) for image in data.test.images] == list(range(8))
    again = open_dataset(f"fashion-mnist:{tmp_path}/")
    assert again.validation.fingerprint == data.validation.fingerprint


def test_fashion_mnists_package_is_looked_for_where_debian_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.FASHION_MNIST_FOLDER == "/usr/share/datasets/fashion-mnist"
    monkeypatch.setattr(datasets, "FASHION_MNIST_FOLDER", str(small_fashion(tmp_path)))
    assert len(open_dataset("fashion-mnist").test) == 8
    monkeypatch.setattr(datasets, "FASHION_MNIST_FOLDER", str(tmp_path / "none"))
    with pytest.raises(InputError) as error:
        open_dataset("fashion-mnist")
    for words in (str(tmp_path / "none"), "apt-get install dataset-fashion-mnist", *FILES):
        assert words in str(error.value)


def truncated(content: bytes) -> bytes:
    return content[:-5]


def test_a_missing_file_of_fashion_mnist_is_named(tmp_path: Path) -> None:
    (small_fashion(tmp_path) / FILES[2]).unlink()
    with pytest.raises(InputError) as error:
        open_dataset(f"fashion-mnist:{tmp_path}")
    assert FILES[2] in str(error.value)
    assert FILES[0] not in str(error.value)
    assert "fashion-mnist:DIR" in str(error.value)
    with pytest.raises(InputError, match="names no folder: write fashion-mnist:DIR"):
        open_dataset("fashion-mnist:")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (FILES[0], truncated, "875 bytes, where its sizes 36×4×6 make 880: truncated"),
        (FILES[0], lambda content: content + b"x", "881 bytes, where .* 880"),
        (FILES[0], lambda content: content[:9], "truncated"),
        (FILES[0], lambda _: b"", "starts with nothing"),
        (FILES[0], lambda content: b"\0\0\x0d" + content[3:], "00 00 0d 03, not with 00 00 08 03"),
        (FILES[0], lambda _: idx(np.zeros(36)), "not an IDX file of uint8 in 3 dimensions"),
        (FILES[0], lambda _: idx(np.zeros((35, 4, 6))), r"36 labels for the 35 images .*one copy"),
        (FILES[0], lambda _: idx(np.zeros((36, 0, 6))), "truncated or damaged"),
        (FILES[1] + ".gz", truncated, "cannot be read .*copy or install it again"),
        (FILES[1] + ".gz", lambda content: b"no" + content, "cannot be read .*[Nn]ot a gzip"),
        (
            FILES[1] + ".gz",
            lambda content: content[:12] + b"\xff" * 8 + content[20:],
            "cannot be read .*copy or install it again",
        ),
        (
            FILES[3] + ".gz",
            lambda _: gzip.compress(idx(np.array([0, 1, 2, 10, 4, 5, 6, 7]))),
            "label 10 of image 3 is not in 0–9",
        ),
    ],
)
def test_damaged_files_of_fashion_mnist_are_named(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = small_fashion(tmp_path) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        open_dataset(f"fashion-mnist:{tmp_path}")
    assert str(path).removesuffix(".gz") in str(error.value)


def test_idx_files_in_a_plain_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"has IDX files .*: write fashion-mnist:{tmp_path} "):
        open_dataset(str(small_fashion(tmp_path)))

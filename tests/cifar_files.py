"""CIFAR's files as they are published, with few images: pickles step by step as Python 2's cPickle
wrote them, and records of bytes."""

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CIFAR_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
CIFAR_10 += ["truck"]
CIFAR_100 = [f"class-{number:03}" for number in range(100)]
EACH = 4
"""Images in a batch of CIFAR-10, and in the test file of CIFAR-100."""


def images(count: int, first: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Planes of red, green and blue, n×3×32×32, and labels. Image i is known by its red corner."""
    rng = np.random.default_rng(first)
    planes = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    planes[:, 0, 0, 0] = np.arange(first, first + count) % 256
    return planes, (np.arange(first, first + count) * 7) % classes


def string(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + length(value) + value


def length(value: bytes) -> bytes:
    return struct.pack("<i", len(value))


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return (
        b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)
    )


def listed(items: list[bytes]) -> bytes:
    return b"]q\x05(" + b"".join(items) + b"e"


UINT8 = (
    b"cnumpy\ndtype\nq\n" + string(b"u1") + number(0) + number(1) + b"\x87Rq\x0b("
    + number(3) + string(b"|") + b"NNN" + 2 * number(-1) + number(0) + b"tb"
)  # fmt: skip


def array(values: np.ndarray, *, fortran: bool = False) -> bytes:
    """A matrix of bytes."""
    shape = b"".join(map(number, values.shape)) + b"\x86"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        + number(0) + b"\x85" + string(b"b") + b"\x87Rq\t("
        + number(1) + shape + UINT8 + (b"\x88" if fortran else b"\x89")
        + string(values.tobytes("F" if fortran else "C")) + b"tb"
    )  # fmt: skip


def pickle(items: Mapping[bytes, bytes]) -> bytes:
    """A dict of values that are pickled already."""
    inside = b"".join(string(key) + value for key, value in items.items())
    return b"\x80\x02}q\x01(" + inside + b"u."


def batch(planes: np.ndarray, **labels: np.ndarray) -> bytes:
    """A file of the Python version."""
    return pickle(
        {b"batch_label": string(b"training batch 1 of 5")}
        | {key.encode(): listed([number(int(x)) for x in value]) for key, value in labels.items()}
        | {b"data": array(planes.reshape(len(planes), -1))}
        | {b"filenames": listed([string(b"a_%i.png" % i) for i in range(len(planes))])}
    )


def meta_10(each: int) -> bytes:
    """CIFAR-10's batches.meta; every string has its place in the memo."""
    names = [string(name.encode()) + b"q" + bytes([i]) for i, name in enumerate(CIFAR_10, start=5)]
    return (
        b"\x80\x02}q\x01(" + string(b"num_cases_per_batch") + b"q\x02" + number(each)
        + string(b"label_names") + b"q\x03]q\x04(" + b"".join(names) + b"e"
        + string(b"num_vis") + b"q\x0f" + number(3072) + b"u."
    )  # fmt: skip


def records(planes: np.ndarray, *labels: np.ndarray) -> bytes:
    """A file of the binary version."""
    columns = [value[:, None].astype(np.uint8) for value in labels]
    return np.concatenate([*columns, planes.reshape(len(planes), -1)], axis=1).tobytes()


def cifar_10(kind: str) -> dict[str, bytes]:
    """Files by name; kind is py or bin."""
    files = {}
    for part in range(6):
        planes, labels = images(EACH, part * EACH, 10)
        name = f"data_batch_{part + 1}" if part < 5 else "test_batch"
        if kind == "py":
            files[name] = batch(planes, labels=labels)
        else:
            files[f"{name}.bin"] = records(planes, labels)
    if kind == "bin":
        return files | {"batches.meta.txt": "\n".join([*CIFAR_10, "", ""]).encode()}
    return files | {"batches.meta": meta_10(EACH)}


def cifar_100(kind: str) -> dict[str, bytes]:
    """As `cifar_10`; kind is python or binary. A coarse label is a fifth of the fine one."""
    files = {}
    for name, count, first in (("train", 5 * EACH, 0), ("test", EACH, 5 * EACH)):
        planes, fine = images(count, first, 100)
        if kind == "python":
            files[name] = batch(planes, fine_labels=fine, coarse_labels=fine // 5)
        else:
            files[f"{name}.bin"] = records(planes, fine // 5, fine)
    if kind == "binary":
        return files | {"fine_label_names.txt": "\n".join(CIFAR_100).encode()}
    names = listed([string(name.encode()) for name in CIFAR_100])
    return files | {"meta": pickle({b"fine_label_names": names})}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(folder: str, files: Mapping[str, bytes]) -> bytes:
    """An archive as the public ones are."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, content in {"readme.html": b"<html/>", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue())

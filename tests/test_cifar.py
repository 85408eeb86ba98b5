"""CIFAR-10 and CIFAR-100 from files that are written here as the public ones are."""

import gzip
import hashlib
import io
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cifar_files as made
from vggnet import InputError, cifar
from vggnet.cli import main
from vggnet.datasets import open_dataset
from vggnet.formats import numpypickle
from vggnet.parts import Dataset

FORMS: dict[str, tuple[str, dict[str, bytes]]] = {
    "cifar-10-batches-py": ("cifar-10", made.cifar_10("py")),
    "cifar-10-batches-bin": ("cifar-10", made.cifar_10("bin")),
    "cifar-100-python": ("cifar-100", made.cifar_100("python")),
    "cifar-100-binary": ("cifar-100", made.cifar_100("binary")),
}
ARCHIVES = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}


def check(data: Dataset, name: str) -> None:
    """Against the planes and labels that the files were made from."""
    classes = 10 if name == "cifar-10" else 100
    names = made.CIFAR_10 if name == "cifar-10" else made.CIFAR_100
    assert (data.name, data.flip, list(data.class_names)) == (name, True, names)
    # 1 in 10, which is 5,000 of 50,000
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, made.EACH]
    assert "of its 20 training images, 2 drawn by a fixed seed" in data.note
    seen = []
    batches = [(made.EACH, i * made.EACH) for i in range(5)]
    if name == "cifar-100":
        batches = [(5 * made.EACH, 0)]
    parts = [made.images(count, first, classes) for count, first in batches]
    planes, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    for part in (data.train, data.validation):
        for image, label in zip(part.images, part.labels, strict=True):
            number = int(image[0, 0, 0])
            seen.append(number)
            assert image.dtype == np.uint8
            assert np.array_equal(image.transpose(2, 0, 1), planes[number])
            assert label == labels[number]
    assert sorted(seen) == list(range(20))
    assert seen != list(range(20))
    planes, labels = made.images(made.EACH, 5 * made.EACH, classes)
    assert np.array_equal(np.stack(data.test.images).transpose(0, 3, 1, 2), planes)
    assert data.test.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("folder", FORMS)
def test_every_form_gives_the_same_images(folder: str, tmp_path: Path) -> None:
    name, files = FORMS[folder]
    made.write(tmp_path / "x" / folder, files)
    archive = tmp_path / "y" / ARCHIVES[folder]
    archive.parent.mkdir()
    archive.write_bytes(made.packed(folder, files))
    unpacked = tmp_path / "z.tar"
    unpacked.write_bytes(gzip.decompress(archive.read_bytes()))
    places = [tmp_path / "x", tmp_path / "x" / folder, archive.parent, archive, unpacked]
    opened = [open_dataset(f"{name}:{place}") for place in places]
    for data in opened:
        check(data, name)
    assert len({data.trained_on for data in opened}) == 1
    assert not list((tmp_path / "y").glob("*/"))  # nothing is unpacked
    # A plain folder that has these files is told how they are called.
    for place in (tmp_path / "x", tmp_path / "x" / folder, archive.parent):
        with pytest.raises(InputError, match=f"write {name}:{place}"):
            open_dataset(str(place))


def loads(content: bytes) -> Any:
    """By Python's own pickle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core's new name
        return pickle.loads(content, encoding="bytes")


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-100-python"])
def test_pickles_hold_what_python_finds_in_them(folder: str) -> None:
    for content in FORMS[folder][1].values():
        expected, found = loads(content), numpypickle.read(content)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(value, found[key])  # type: ignore[arg-type]
            else:
                assert value == found[key]
    long = made.pickle({b"a": b"\x8a\x03\x00\x00\x80", b"b": b"\x8a\x00"})
    assert loads(long) == numpypickle.read(long) == {b"a": -(1 << 23), b"b": 0}
    planes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for fortran in (False, True):
        content = made.pickle({b"data": made.array(planes, fortran=fortran)})
        assert np.array_equal(loads(content)[b"data"], planes)
        assert np.array_equal(numpypickle.read(content)[b"data"], planes)  # type: ignore[arg-type]


def test_the_files_are_written_as_the_public_ones() -> None:
    """The public batches.meta byte by byte, and how the array in data_batch_1 begins."""
    meta = made.meta_10(10_000)
    assert hashlib.md5(meta).hexdigest() == "5ff9c542aee3614f3951f8cda6e48888"
    assert numpypickle.read(meta)[b"label_names"] == [name.encode() for name in made.CIFAR_10]
    begins = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"
        b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\xc0\xd4\x01"
    )
    whole = np.zeros((10_000, 3072), np.uint8)
    assert made.array(whole).startswith(begins)
    assert np.array_equal(numpypickle.read(made.pickle({b"a": made.array(whole)}))[b"a"], whole)  # type: ignore[arg-type]


def hidden(module: str, name: str, *, argument: bytes = b"U\x04true") -> bytes:
    """A dict with a value that calls something."""
    return made.pickle({b"data": f"c{module}\n{name}\n".encode() + argument + b"\x85R"})


ARRAY, SHAPE = made.array(np.zeros((2, 3), np.uint8)), b"K\x02K\x03\x86"
PICKLES: list[tuple[bytes, str]] = [
    (hidden("os", "system"), "names 'os.system', which arrays of bytes do not need"),
    (hidden("numpy", "load"), "names 'numpy.load'"),
    (hidden("numpy.core.multiarray", "_reconstruct"), "makes something else than an array"),
    (hidden("numpy", "ndarray"), "makes something else than an array"),
    (hidden("numpy", "dtype", argument=b"U\x01O"), "makes something else than an array"),
    # An array of a claimed terabyte, one of structures, and one of objects.
    (made.pickle({b"data": ARRAY.replace(SHAPE, b"J\xff\xff\xff\x7fK\x03\x86")}), "6 values"),
    (made.pickle({b"data": ARRAY.replace(b"U\x01|NNN", b"U\x01|NN}")}), "other values than bytes"),
    (made.pickle({b"data": ARRAY.replace(b"U\x02u1", b"U\x02O8")}), "makes something else"),
    (made.pickle({b"data": ARRAY.replace(SHAPE, b"K\x02U\x01a\x86")}), "unknown form"),
    (made.pickle({b"data": ARRAY[: ARRAY.index(b"(K\x01")]}), "without its values"),
    (b"\x80\x02]q\x01.", "holds no dict"),
    (b"\x80\x04}q\x01.", "protocol 4, not 2"),
    (b"\x80\x02}q\x01(K\x01K\x02u.", "other keys than strings"),
    (b"\x80\x02}q\x01(U\x01au.", "key without its value"),
    (b"\x80\x02K\x01K\x02a.", "appends to what is no list"),
    (b"\x80\x02}]U\x01ab.", "sets the state of what is no array"),
    (b"\x80\x02}\x8a\xff" + b"\x01" * 255 + b".", "more than 64 bits"),
    (b"\x80\x02}P0\n.", "does what Python 2 does not .*0x50"),
    (b"\x80\x02h\x05.", "cut off or damaged"),
    (b"\x80\x02a.", "takes what is not there"),
    (b"\x80\x02", "cut off or damaged"),
    (b"", "cut off or damaged"),
    (b"\x00" * 40, r"\(0x00\)"),
    (b"\x80\x02}(" + b"N" * numpypickle.STEPS + b"u.", "takes more than 1,000,000 steps"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), PICKLES)
def test_pickles_that_ask_for_more_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(numpypickle.NumpyPickleError, match=message):
        numpypickle.read(content)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_pickles_are_read_or_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for content in (FORMS["cifar-10-batches-py"][1]["batches.meta"], made.pickle({b"a": ARRAY})):
        for _ in range(400):
            mutant = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 4)):
                mutant[place] = rng.integers(256)
            try:
                numpypickle.read(bytes(mutant[: rng.integers(len(content) // 2, len(content) + 1)]))
            except numpypickle.NumpyPickleError:
                continue


PLANES, LABELS = made.images(made.EACH, 0, 10)
PY, BIN = "cifar-10-batches-py", "cifar-10-batches-bin"


@pytest.mark.parametrize(
    ("folder", "file", "change", "message"),
    [
        (PY, "data_batch_2", lambda content: content[:-100], "is cut off or damaged"),
        (PY, "data_batch_2", lambda _: hidden("os", "system"), "names 'os.system'"),
        (PY, "data_batch_2", lambda _: made.pickle({}), "has no array 'data' of 3,072 bytes"),
        (
            PY,
            "test_batch",
            lambda _: made.pickle({b"data": made.array(PLANES.reshape(4, -1))}),
            "has no list 'labels' of whole numbers",
        ),
        (PY, "test_batch", lambda _: made.batch(PLANES, labels=LABELS[:3]), "3 labels for 4"),
        (
            PY,
            "data_batch_5",
            lambda _: made.batch(PLANES, labels=LABELS + 9),
            "label 16 of image 1 is not in 0–9",
        ),
        (PY, "data_batch_1", lambda _: made.batch(PLANES, labels=-LABELS), "label -7 of image 1"),
        (
            PY,
            "data_batch_3",
            lambda _: made.batch(PLANES[:3], labels=LABELS[:3]),
            "has 3 images, where the 4 of test_batch ask for 4: one of the two is cut off",
        ),
        (PY, "batches.meta", lambda _: made.pickle({}), "has no list 'label_names' of names"),
        (PY, "batches.meta", lambda content: content.replace(b"frog", b"from"), "not CIFAR-10's"),
        (BIN, "data_batch_4.bin", lambda content: content[:-1], "12,291 bytes, no .* 3,073"),
        (BIN, "data_batch_4.bin", lambda content: content[3073:], "has 3 images, where the 4 of"),
        (BIN, "data_batch_4.bin", lambda _: b"", "has no images"),
        (BIN, "test_batch.bin", lambda _: made.records(PLANES, LABELS + 9), "label 16 of image 1"),
        (BIN, "batches.meta.txt", lambda _: b"cat\ndog\n", "has 2 names of classes, where"),
        (
            "cifar-100-binary",
            "train.bin",
            lambda content: content[: 3074 * 19],
            "has 19 images, where the 4 of test.bin ask for 20",
        ),
        ("cifar-100-python", "test", lambda _: made.pickle({}), "has no array 'data'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("archived", [False, True])
def test_damaged_files_are_named(
    folder: str,
    file: str,
    change: Callable[[bytes], bytes],
    message: str,
    archived: bool,
    tmp_path: Path,
) -> None:
    name, files = FORMS[folder]
    files = files | {file: change(files[file])}
    if archived:
        (tmp_path / ARCHIVES[folder]).write_bytes(made.packed(folder, files))
    else:
        made.write(tmp_path / folder, files)
    with pytest.raises(InputError, match=message) as error:
        open_dataset(f"{name}:{tmp_path}")
    where = tmp_path / ARCHIVES[folder] / folder if archived else tmp_path / folder
    assert str(error.value).startswith(f"{where}/{file}: ")
    for words in (f"download {ARCHIVES[folder]} (md5sum ", "again from https://www.cs.toronto.edu"):
        assert words in str(error.value)


@pytest.mark.parametrize("folder", FORMS)
def test_missing_files_are_named(folder: str, tmp_path: Path) -> None:
    name, files = FORMS[folder]
    gone = list(files)[1]
    left = {key: value for key, value in files.items() if key != gone}
    (tmp_path / "a.tgz").write_bytes(made.packed(folder, left))
    made.write(tmp_path / folder, left)
    with pytest.raises(InputError, match=rf"{folder}: CIFAR-\d+'s {gone} not found there, beside"):
        open_dataset(f"{name}:{tmp_path}")
    with pytest.raises(InputError, match=rf"a.tgz: {folder}/ in it has no {gone}: download"):
        open_dataset(f"{name}:{tmp_path}/a.tgz")


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    whole = made.packed(PY, FORMS[PY][1])
    plain = gzip.decompress(whole)
    path = tmp_path / "cifar-10-python.tar.gz"

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            open_dataset(f"cifar-10:{tmp_path}")
        assert str(error.value).startswith(f"{path}: ")
        assert "cifar-10-python.tar.gz" in str(error.value).removeprefix(str(path))
        assert cifar.PAGE in str(error.value)

    def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for member, content in members:
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue()

    def named(name: str, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        return member, content

    refused(whole[:-9], "cannot be read as a tar file")
    refused(whole[:2000], "cannot be read as a tar file")
    refused(whole[:-8] + b"\0\0\0\0" + whole[-4:], "CRC")
    refused(plain[:20_000], "cannot be read as a tar file")
    refused(b"", "cannot be read as a tar file")
    refused(b"<html>not found</html>" * 100, "cannot be read as a tar file")
    refused(made.packed("other", FORMS[PY][1]), "has none of CIFAR-10's files")
    refused(made.packed("cifar-100-python", FORMS["cifar-100-python"][1]), "none of CIFAR-10's")
    refused(tar(*[named(f"{i}") for i in range(100)]), "more or larger members than any archive")
    refused(tar(named(f"{PY}/test_batch"), named(f"./{PY}/test_batch")), "has .*test_batch twice")
    large = tarfile.TarInfo(f"{PY}/test_batch")
    large.size = cifar.LARGEST + 1
    refused(large.tobuf() + b"\0" * 1024, "more or larger members than any archive")
    refused(gzip.compress(plain + b"\0" * (3 << 20)), "has more behind its files")
    # A link in it leads nowhere.
    link = tarfile.TarInfo(f"{PY}/test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    refused(tar((link, b"")), "has none of CIFAR-10's files")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for name in ("cifar-10", "cifar-100"):
        for spec in (name, f"{name}:"):
            with pytest.raises(InputError, match=f"'{spec}': names no folder: write {name}:DIR"):
                open_dataset(spec)
        for place in (tmp_path, tmp_path / "none"):
            with pytest.raises(
                InputError, match=f"{place}: CIFAR-.* not found there: give"
            ) as error:
                open_dataset(f"{name}:{place}")
            assert cifar.PAGE in str(error.value)
        with pytest.raises(InputError, match="is read from a folder of this machine alone"):
            open_dataset(f"{name}:s3://bucket/x")
    large = made.write(tmp_path / "x", FORMS[BIN][1]) / "test_batch.bin"
    with large.open("r+b") as file:
        file.truncate(cifar.LARGEST + 1)
    with pytest.raises(InputError, match=r"test_batch\.bin: has 209,715,201 bytes, more than any"):
        open_dataset(f"cifar-10:{large.parent}")


def test_folders_of_images_with_such_names_stay_what_they_are(tmp_path: Path) -> None:
    for part in ("train", "test", "meta"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (8, 8)).save(tmp_path / part / label / f"{i}.png")
    (tmp_path / "cifar-10-python.tar.gz").touch()
    assert open_dataset(str(tmp_path)).class_names == ("a", "b")


def test_a_net_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"cifar-10:{made.write(tmp_path / PY, FORMS[PY][1])}"
    out = str(tmp_path / "a")
    small = "--crop", "32", "--width", "0.0625", "--epochs", "1"
    assert main(["train", data, "--net", "A", *small, "--out", out]) == 0
    assert main(["evaluate", f"{out}/weights.safetensors", data]) == 0
    assert "cifar-10: of its 20 training images" in capsys.readouterr().err
    assert main(["reproduce", data, "--plan", "--only", "table 3, A", "--out", out + "2"]) == 0
    assert "A-S73" in capsys.readouterr().out

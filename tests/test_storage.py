"""Places and the images in them: every file system against the local one, names against a list."""

import multiprocessing
import os
import pickle
import shutil
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from test_folders import picture, pictures
from test_imagenet import VALIDATION, devkit, imagenet
from vggnet import InputError
from vggnet.datasets import open_dataset
from vggnet.folders import ImageFiles, read_folder
from vggnet.parts import Dataset
from vggnet.remote import Remote, stamp_of
from vggnet.storage import (
    Names,
    entries,
    exists,
    is_file,
    open_file,
    place_of,
    read,
    stamp,
    stamps,
)


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    """memory:// is one for the whole process."""
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def in_memory(root: Path) -> str:
    system = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/some/{root.name}/{path.relative_to(root)}", path.read_bytes())
    return f"memory://some/{root.name}"


def in_archive(root: Path) -> str:
    archive = root.parent / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, f"{root.name}/{path.relative_to(root)}")
    return f"zip://{root.name}::{archive}"


def cached(root: Path) -> str:
    return f"simplecache::file://{root}"


def by_url(root: Path) -> str:
    return f"file://{root}"


Copy = Callable[[Path], str]
copies = pytest.mark.parametrize(
    "copy", [in_memory, in_archive, cached, by_url, lambda root: f"simplecache::{in_archive(root)}"]
)


def unsplit(root: Path) -> None:
    pictures(root / "pets", 12, 10)  # a class that is called as the folder is
    pictures(root / "Ärger mit ∞", 5, 20)
    pictures(root / "b" / "deeper", 3, 30)
    pictures(root / "b", 1, 30)
    picture(root / "b" / ".hidden.png")
    picture(root / ".hidden" / "x.png")
    (root / "b" / "notes.txt").touch()


def held_out(root: Path) -> None:
    for part in ("train", "val"):
        pictures(root / part / "cat", 7, 10)
        pictures(root / part / "dog", 2, 20)


def three_parts(root: Path) -> None:
    held_out(root)
    shutil.copytree(root / "val", root / "test")


def flat_imagenet(root: Path) -> None:
    devkit(imagenet(root, flat=True) / "data", VALIDATION)


def same(one: Dataset, two: Dataset) -> None:
    assert (one.name, one.class_names, one.note) == (two.name, two.class_names, two.note)
    assert one.trained_on == two.trained_on
    for part in ("train", "validation", "test"):
        mine, other = getattr(one, part), getattr(two, part)
        assert mine.names == other.names
        assert list(mine.names) == list(other.names)
        assert mine.labels.tolist() == other.labels.tolist()
        for image, of_other in zip(mine.images, other.images, strict=True):
            assert np.array_equal(image, of_other)


@copies
@pytest.mark.parametrize("layout", [unsplit, held_out, three_parts, flat_imagenet])
def test_a_url_gives_what_the_folder_gives(
    tmp_path: Path, copy: Copy, layout: Callable[[Path], None]
) -> None:
    layout(tmp_path / "pets")
    same(open_dataset(copy(tmp_path / "pets")), open_dataset(str(tmp_path / "pets")))


@copies
def test_tar_shards_are_a_data_set_too(tmp_path: Path, copy: Copy) -> None:
    root = tmp_path / "sharded"
    root.mkdir()
    pictures(tmp_path / "loose", 8, 7)
    with tarfile.open(root / "all-0000.tar", "w") as shard:
        for path in sorted((tmp_path / "loose").iterdir()):
            shard.add(path, f"x/{path.name}")
            label = path.with_suffix(".cls")
            label.write_text(str(int(path.stem) % 2))
            shard.add(label, f"x/{label.name}")
    data = open_dataset(copy(root))
    same(data, open_dataset(str(root)))
    parts = (data.train, data.validation, data.test)
    found = {
        int(image[0, 0, 1]): int(label)
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert found == {number: number % 2 for number in range(8)}


def test_local_files_through_fsspec_are_what_they_are_without(tmp_path: Path) -> None:
    unsplit(tmp_path / "pets")
    mine, other = read_folder(Remote(f"file://{tmp_path}/pets")), read_folder(tmp_path / "pets")
    assert mine.train.images.names == other.train.images.names
    # Sizes are the same; times are told apart, not kept.
    facts, local = list(mine.train.images.stamps()), list(other.train.images.stamps())
    assert [fact[:2] for fact in facts] == [fact[:2] for fact in local]
    changed = tmp_path / "pets" / facts[0][0]
    os.utime(changed, ns=(0, 10**18))
    again = list(mine.train.images.stamps())
    assert again[0] != facts[0]
    assert again[1:] == facts[1:]


def first_pixels(images: ImageFiles) -> list[list[int]]:
    return [image[0, 0].tolist() for image in images]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@copies
def test_forked_processes_read(tmp_path: Path, copy: Copy) -> None:
    """At once, after the first process did: from one open archive they would read each other's."""
    pictures(tmp_path / "pets", 40, 5)
    names = [f"{number:03d}.png" for number in range(40)]
    images = ImageFiles(place_of(copy(tmp_path / "pets")), names)
    expected = [[5, number, 0] for number in range(40)]
    assert first_pixels(images) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(first_pixels, [images] * 6, chunksize=1)
    assert found == [expected] * 6


def test_a_stream_goes_on_after_what_cannot_be_read(tmp_path: Path) -> None:
    pictures(tmp_path, 4, 0)
    images = ImageFiles(tmp_path, [f"{number:03d}.png" for number in (0, 1, 7, 3)])
    contents = list(images.stream(np.array([3, 2, 0])))
    assert contents[::2] == [images.read(3), images.read(0)]
    assert isinstance(contents[1], InputError)
    assert str(contents[1]) == f"{tmp_path}/007.png: no such file"
    assert sorted(images.order(np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


def test_places() -> None:
    bucket = place_of("s3://bucket/images/")
    assert str(bucket / "train" / "a/1.jpg") == "s3://bucket/images/train/a/1.jpg"
    assert (bucket.name, (bucket / "train").name) == ("images", "train")
    assert str(place_of("memory://") / "a") == "memory://a"
    assert place_of("s3://bucket").name == "bucket"
    # The path of a chained URL is in its first link that has one.
    inside = place_of("zip://images::s3://bucket/all.zip")
    assert str(inside / "a" / "1.jpg") == "zip://images/a/1.jpg::s3://bucket/all.zip"
    assert inside.name == "images"
    assert place_of("zip://::/data/all.zip").name == "all.zip"
    assert str(place_of("simplecache::s3://b/x") / "a") == "simplecache::s3://b/x/a"
    assert bucket / "" == bucket
    assert hash(bucket / "a") == hash(pickle.loads(pickle.dumps(bucket / "a")))
    assert place_of("file:///data/x") == Path("/data/x")
    assert place_of("~") == Path.home()
    assert place_of("images") / "" == Path("images")


@copies
def test_files_one_by_one(tmp_path: Path, copy: Copy) -> None:
    root = tmp_path / "pets"
    (root / "sub" / "pets").mkdir(parents=True)
    (root / "sub" / "a b#%41.txt").write_bytes(b"content")
    (root / "sub" / "empty").touch()
    (root / "sub" / "pets" / "x").touch()
    place = place_of(copy(root)) / "sub"
    assert sorted(entries(place)) == [
        ("a b#%41.txt", False, False),
        ("empty", False, False),
        ("pets", True, False),
    ]
    file = place / "a b#%41.txt"
    assert read(file) == b"content"
    assert read(place / "empty") == b""
    with open_file(file) as opened:
        opened.seek(3)
        assert opened.read() == b"tent"
    assert (is_file(file), is_file(place), is_file(place / "none")) == (True, False, False)
    assert (exists(file), exists(place), exists(place / "none" / "x")) == (True, True, False)
    assert stamp(file)[0] == 7
    assert stamp(file)[1] > 0
    assert list(stamps(place, ["empty", "pets/x", "a b#%41.txt"])) == [
        (name, *stamp(place / name)) for name in ("empty", "pets/x", "a b#%41.txt")
    ]
    for missing in (
        lambda: read(place / "none"),
        lambda: open_file(place / "none").close(),
        lambda: stamp(place / "none"),
        lambda: list(stamps(place, ["none"])),
        lambda: entries(place / "none"),
    ):
        with pytest.raises(InputError, match=r"none.*: (no such file|cannot be read)") as error:
            missing()
        assert "\n" not in str(error.value)


def test_a_changed_remote_file_is_noticed(tmp_path: Path) -> None:
    for name in "ab":
        pictures(tmp_path / "pets" / name, 4, 0)
    url = in_memory(tmp_path / "pets")
    data = open_dataset(url)
    first, path = data.train.fingerprint, f"/some/pets/{data.train.name(0)}"
    assert open_dataset(url).train.fingerprint == first
    system = fsspec.filesystem("memory")
    system.pipe_file(path, system.cat_file(path))
    again = open_dataset(url)
    assert again.train.fingerprint != first
    assert again.trained_on == data.trained_on  # of the same size
    system.rm(path)
    with pytest.raises(InputError, match=f"memory:/{path}: no such file"):
        _ = open_dataset(url).train and ImageFiles(place_of(url), data.train.names or ()).read(0)
    with pytest.raises(InputError, match=f"memory:/{path}: no such file"):
        list(data.train.images.stamps())  # type: ignore[attr-defined]


def test_stamps_tell_versions_apart() -> None:
    facts = {"name": "x", "size": 5, "ETag": '"1"', "LastModified": "today"}
    assert stamp_of(facts) == stamp_of(dict(facts))
    assert stamp_of(facts)[0] == 5
    assert 0 < stamp_of(facts)[1] < 2**63
    assert stamp_of(facts | {"ETag": '"2"'})[1] != stamp_of(facts)[1]
    assert stamp_of({"name": "x", "size": None, "ETag": None}) == (0, 0)


def refused(spec: str, *words: str) -> None:
    with pytest.raises(InputError) as error:
        open_dataset(spec)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@copies
def test_folders_that_do_not_fit_are_named_by_url(tmp_path: Path, copy: Copy) -> None:
    root = tmp_path / "pets"
    for change, words in (
        (lambda: pictures(root / "train" / "cat", 2, 0), "train: has only one class, 'cat'"),
        (lambda: pictures(root / "train" / "dog", 2, 0), "has train/, but neither val/ nor test/"),
        (lambda: pictures(root / "val" / "emu", 2, 0), "val: has the class 'emu' (1 such)"),
        (lambda: pictures(root / "val" / "cat", 2, 0), "val: has the class 'emu' (1 such)"),
        (lambda: (root / "val" / "emu").rename(root / "emu"), "val: lacks the class 'dog'"),
    ):
        change()
        MemoryFileSystem.store.clear()
        url = copy(root)
        place = str(place_of(url) / words.partition(":")[0]) if ":" in words else str(place_of(url))
        refused(url, place, words.partition(": ")[2] or words)


@pytest.mark.parametrize("scheme", ["file", "memory", "simplecache::memory"])
def test_what_is_not_there_is_named(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/none"
    refused(url, f"unknown data set {url!r}: there is no such folder; give 'digits'", "URL")


def test_remote_files_are_no_data_sets(tmp_path: Path) -> None:
    for name in "ab":
        pictures(tmp_path / "pets" / name, 3, 0)
    url = in_memory(tmp_path / "pets")
    refused(f"{url}/a/000.png", "is a file, not a data set")
    refused(f"{url}/a", f"{url}/a: has no folders")
    refused(f"fashion-mnist:{url}", f"'fashion-mnist:{url}': is read from a folder of this machine")
    fsspec.filesystem("memory").pipe_file("/some/pets/c/notes.txt", b"")
    refused(url, f"{url}/c: has no images (.jpg")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    refused(f"zip://::{tmp_path}/broken.zip", "broken.zip: cannot be read (BadZipFile")
    refused(f"zip://::{tmp_path}/none.zip", f"zip://::{tmp_path}/none.zip: no such file")


def test_drivers_and_protocols_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3fs", "gcsfs", "smbclient"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    refused("s3://bucket/x", "s3://bucket/x: reading it needs s3fs: pip install s3fs")
    refused("gs://bucket", "gs://bucket: reading it needs gcsfs: pip install gcsfs")
    refused("simplecache::s3://b/y", "needs s3fs: pip install s3fs")
    refused("smb://host/x", "pip install smbprotocol")
    refused("s4://bucket/x", "s4://bucket/x: fsspec knows no such protocol", "s3://bucket/images")


class Odd(MemoryFileSystem):  # type: ignore[misc]
    """Lists each folder among what it holds, as object stores do, and has moods."""

    protocol = "odd"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent
    error: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.replace("odd://", "memory://"))
        return stripped

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        if Odd.error:
            raise Odd.error
        listed: list[Any] = super().ls(path, detail=True)
        return [{"name": path, "size": 0, "type": "directory"}, *listed]

    def cat_file(self, path: str, **options: Any) -> Any:
        if Odd.error:
            raise Odd.error
        return super().cat_file(path, **options)


def test_whatever_a_file_system_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("odd", Odd, clobber=True)
    unsplit(tmp_path / "pets")
    for path in (tmp_path / "pets").rglob("*.png"):
        Odd().pipe_file(f"/pets/{path.relative_to(tmp_path / 'pets')}", path.read_bytes())
    data = open_dataset("odd://pets")
    same(data, open_dataset(str(tmp_path / "pets")))
    url = f"odd://pets/{data.train.name(0)}"
    for error, words in (
        (PermissionError("403"), ": cannot be read (permission denied): may you read it?"),
        (RuntimeError("no\ncredentials"), ": cannot be read (RuntimeError: no): is the URL right"),
        (TimeoutError(), ": cannot be read (TimeoutError): is the URL right, and may you"),
    ):
        monkeypatch.setattr(Odd, "error", error)
        refused("odd://pets", f"odd://pets{words}")
        with pytest.raises(InputError) as raised:
            data.train.images[0]
        assert str(raised.value).startswith(f"{url}{words}")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's whole path may be too long
    try:
        server.bind("socket.jpg")
    finally:
        os.chdir(here)
        server.close()
    for name, words in (
        ("pipe", "is a pipe, not a file: remove it"),
        ("link", "is a pipe, not a file: remove it"),
        ("socket", "is a socket, not a file"),
        ("device", "is a device, not a file"),
        ("folder", "is a folder, not a file"),
        ("broken", "no such file"),
    ):
        path = tmp_path / f"{name}.jpg"
        for reading in (read, open_file, ImageFiles(tmp_path, [path.name]).open):
            with pytest.raises(InputError) as error:
                reading(0 if "open" == reading.__name__ else path)  # type: ignore[arg-type]
            assert str(error.value).startswith(f"{path}: {words}")


def test_files_that_may_not_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.touch()

    def forbidding(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidding)  # root may read everything
    with pytest.raises(InputError, match=f"{path}: cannot be read .Permission denied.: may you"):
        read(path)
    monkeypatch.setattr(Path, "stat", forbidding)
    monkeypatch.setattr(os, "stat", forbidding)
    for asking in (stamp, is_file):
        with pytest.raises(InputError, match=f"{path}: cannot be read .Permission denied."):
            asking(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch(mode=stat.S_IWUSR)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read .Permission denied.: may you"):
        read(path)


def test_names_that_are_not_utf8_are_refused_in_every_system(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xe9.png", "wb"):  # noqa: PTH123
        pass
    for place in (tmp_path, Remote(f"file://{tmp_path}")):
        with pytest.raises(InputError, match=r"/\\xe9\.png: its name is not UTF-8: rename it"):
            entries(place)


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=40)


@given(texts, st.data())
def test_names_are_a_list_of_text(names: list[str], data: st.DataObject) -> None:
    compact = Names.of(names)
    assert len(compact) == len(names)
    assert list(compact) == [compact[i] for i in range(len(names))] == names
    assert [compact[i - len(names)] for i in range(len(names))] == names
    for outside in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            compact[outside]
    cut = data.draw(st.slices(len(names)))
    assert list(compact[cut]) == names[cut]
    if names:
        chosen = data.draw(st.lists(st.integers(-len(names), len(names) - 1), max_size=60))
        subset = compact.subset(np.array(chosen, np.int64))
        assert list(subset) == [names[i] for i in chosen]
        assert list(Names.joined([subset, compact, subset])) == [*subset, *names, *subset]
    again = pickle.loads(pickle.dumps(compact))
    assert again == compact == Names.of(tuple(names))
    others = data.draw(texts)
    assert (Names.of(others) == compact) == (others == names)
    assert all(name in compact for name in names)


def test_many_names_take_little_more_than_their_bytes() -> None:
    """More than one block of them, of lengths that vary."""
    names = [f"train/{i % 1000:03d}/{'é' * (i % 7)}{i}.jpg" for i in range(150_000)]
    compact = Names.of(names)
    assert list(compact) == names
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = compact.subset(order)
    assert list(shuffled) == [names[i] for i in order]
    size = sum(len(name.encode()) for name in names)
    assert len(pickle.dumps(shuffled)) < size + 8 * len(names) + 1000
    assert list(Names.joined([])) == []

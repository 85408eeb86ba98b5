"""The index of image files against NumPy's sums over the same pixels, and against itself."""

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photos import photo, write_photos
from vggnet import InputError
from vggnet import index as index_module
from vggnet.datasets import digits, open_dataset
from vggnet.errors import RunError
from vggnet.images import EncodedImage
from vggnet.index import PARTS, Index, checked, files_of
from vggnet.measuring import Measured, measure
from vggnet.parts import Dataset, Part, colour_sums
from vggnet.storage import EncodedImages

Decodes = list[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "pets", {"train": 8, "val": 2, "test": 3})


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    """The names of the images that are decoded, in this process."""
    found: Decodes = []
    original = EncodedImage.reduced

    def reduced(self: EncodedImage, side: int) -> np.ndarray:
        found.append(self.name)
        return original(self, side)

    monkeypatch.setattr(EncodedImage, "reduced", reduced)
    return found


def train(data: Dataset) -> EncodedImages:
    return files_of(data, ["train"])["train"]


def brought_up_to_date(root: Path, workers: int = 0) -> tuple[Dataset, Index]:
    data = open_dataset(str(root))
    index = Index.of(data)
    index.check(list(files_of(data, PARTS).values()), workers=workers)
    return data, index


def in_memory(data: Dataset) -> Dataset:
    part = data.train
    return replace(data, train=Part([np.asarray(image) for image in part.images], part.labels))


def skipping(data: Dataset, log: Callable[[str], None] = lambda _: None) -> Dataset:
    return checked(data, PARTS, on_bad="skip", workers=0, progress=False, log=log)


def stopping(data: Dataset) -> Dataset:
    return checked(data, PARTS, on_bad="stop", workers=0, progress=False, log=lambda _: None)


def test_statistics_are_numpys(root: Path) -> None:
    data, index = brought_up_to_date(root)
    mean, covariance = index.statistics(train(data))
    images = [np.asarray(image, np.float64).reshape(-1, 3) for image in data.train.images]
    assert np.allclose(mean, np.mean([image.mean(axis=0) for image in images], axis=0), rtol=1e-6)
    assert np.allclose(covariance, np.cov(np.concatenate(images).T, bias=True), rtol=1e-5)


def test_statistics_are_those_of_images_in_memory(root: Path) -> None:
    data = stopping(open_dataset(str(root)))
    assert data.statistics is not None
    expected = in_memory(replace(data, statistics=None))
    assert np.allclose(data.mean_rgb, expected.mean_rgb, rtol=1e-6)
    found, wanted = (d.colour_pca.components for d in (data, expected))
    assert np.allclose(found @ found.T, wanted @ wanted.T, rtol=1e-5)


def test_large_images_weigh_as_in_the_data_set_itself(root: Path) -> None:
    """Both decode a JPEG at a reduced size, and weigh it by its whole size."""
    photo(np.random.default_rng(7), 600, 1100).save(root / "train/class0/large.jpg")
    data = stopping(open_dataset(str(root)))
    other = replace(data, statistics=None)
    assert np.allclose(data.mean_rgb, other.mean_rgb, rtol=1e-6)
    found, wanted = (d.colour_pca.components for d in (data, other))
    assert np.allclose(found @ found.T, wanted @ wanted.T, rtol=1e-5)
    # Nearly all pixels are the large image's.
    large = np.asarray(Image.open(root / "train/class0/large.jpg"), np.float64).reshape(-1, 3)
    small = [np.asarray(image, np.float64).reshape(-1, 3) for image in data.train.images]
    whole = np.cov(np.concatenate(small).T, bias=True)
    assert len(large) > 0.8 * sum(map(len, small))
    assert np.allclose(found @ found.T, whole, rtol=0.02, atol=20)


def test_what_is_known_is_what_the_files_say(root: Path) -> None:
    data, index = brought_up_to_date(root)
    images = train(data)
    for i, pixels in enumerate(data.train.images):
        assert index.column(images, "height")[i] == pixels.shape[0]
        assert index.column(images, "width")[i] == pixels.shape[1]
        assert index.column(images, "size")[i] == (root / images.names[i]).stat().st_size
    assert {index.formats[code] for code in index.column(images, "format")} == {"JPEG"}
    assert len(np.unique(index.column(images, "digest"))) == len(images)
    assert index.rows.nbytes <= 120 * len(index.rows)
    assert len(index.rows) == sum(len(part) for part in (data.train, data.validation, data.test))


def test_only_what_changed_is_read_again(root: Path, decodes: Decodes) -> None:
    brought_up_to_date(root)
    assert len(decodes) == 26
    decodes.clear()
    brought_up_to_date(root)
    assert decodes == []

    touched = root / "train/class0/001.jpg"
    os.utime(touched, ns=(1, 1))
    brought_up_to_date(root)
    assert decodes == [str(touched)]
    decodes.clear()

    altered = root / "test/class1/000.jpg"
    photo(np.random.default_rng(8), 50, 60).save(altered)
    data, index = brought_up_to_date(root)
    assert decodes == [str(altered)]
    assert (50, 60) in zip(
        index.column(files_of(data, ["test"])["test"], "height").tolist(),
        index.column(files_of(data, ["test"])["test"], "width").tolist(),
        strict=True,
    )
    decodes.clear()

    new = root / "train/class0/aaa.jpg"
    shutil.copy(altered, new)
    before = index.statistics(train(data))
    data, index = brought_up_to_date(root)
    assert decodes == [str(new)]
    assert index.statistics(train(data))[0] != before[0]
    decodes.clear()

    new.unlink()
    data, index = brought_up_to_date(root)
    assert decodes == []
    assert index.statistics(train(data))[0] == before[0]


def test_an_image_in_two_parts_is_read_once(root: Path, decodes: Decodes) -> None:
    data = open_dataset(str(root))
    data = replace(data, validation=data.test)
    Index.of(data).check(list(files_of(data, PARTS).values()))
    assert len(decodes) == 22
    # Two views of the same files, not the same object.
    again = replace(data, test=open_dataset(str(root)).test)
    shutil.rmtree(Path(os.environ["VGGNET_CACHE"]))
    index = Index.of(again)
    index.check(list(files_of(again, PARTS).values()))
    assert len(decodes) == 44
    assert index.count(files_of(again, PARTS).values()) == 22


def spoil(root: Path) -> list[str]:
    """Spoils three training images and a test image; the first three in order."""
    whole = (root / "train/class0/000.jpg").read_bytes()
    (root / "train/class0/000.jpg").write_bytes(b"")
    (root / "train/class0/002.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/class1/003.jpg").write_text("no image, but a text")
    (root / "test/class1/001.jpg").write_bytes(b"\x89PNG\r\n\x1a\n")
    return ["train/class0/000.jpg", "train/class0/002.jpg", "train/class1/003.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_have_their_reasons(root: Path, workers: int) -> None:
    names = spoil(root)
    data = open_dataset(str(root))
    (root / "train/class1/005.jpg").unlink()  # after it was listed
    index = Index.of(data)
    index.check(list(files_of(data, PARTS).values()), workers=workers)
    found = index.bad(train(data))
    assert [data.train.name(i) for i, _ in found] == [*names, "train/class1/005.jpg"]
    reasons = [reason for _, reason in found]
    assert "is empty" in reasons[0]
    assert "cannot be read as an image" in reasons[1]
    assert "not an image" in reasons[2]
    assert "no such file" in reasons[3]
    assert not any(str(root) in reason for reason in reasons)
    assert len(index.bad(files_of(data, ["test"])["test"])) == 1
    good = replace(data, train=skipping(data).train)
    assert np.allclose(index.statistics(train(data))[0], in_memory(good).mean_rgb, rtol=1e-6)


def test_bad_images_are_tried_again(root: Path, decodes: Decodes) -> None:
    bad = root / "train/class0/000.jpg"
    content, status = bad.read_bytes(), bad.stat()
    bad.write_bytes(b"x" * len(content))
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    data, index = brought_up_to_date(root)
    assert len(index.bad(train(data))) == 1
    decodes.clear()
    bad.write_bytes(content)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had been
    data, index = brought_up_to_date(root)
    assert index.bad(train(data)) == []
    assert decodes == [str(bad)]


def test_workers_change_nothing(root: Path) -> None:
    spoil(root)
    write_photos(root / "more", {"a": 45, "b": 1})
    shutil.copytree(root / "more/a/class0", root / "train/class0", dirs_exist_ok=True)
    shutil.copytree(root / "more/a/class1", root / "train/class1/deeper")
    shutil.rmtree(root / "more")
    found = []
    for workers in (0, 1, 2):
        data, index = brought_up_to_date(root, workers)
        kept = Index.of(data)
        assert kept.rows.tobytes() == index.rows.tobytes()
        mean, covariance = index.statistics(train(data))
        found.append((index.rows.tobytes(), index.bad(train(data)), mean, covariance.tobytes()))
        shutil.rmtree(Path(os.environ["VGGNET_CACHE"]))
    assert found[0] == found[1] == found[2]


def test_an_interrupted_check_goes_on(
    root: Path, decodes: Decodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def interrupted(images: EncodedImages, i: int) -> Measured:
            if len(decodes) == 5:
                raise KeyboardInterrupt
            return measure(images, i)

        patch.setattr("vggnet.measuring.measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            brought_up_to_date(root)
    assert len(decodes) == 5
    data, index = brought_up_to_date(root)
    assert len(decodes) == len(set(decodes)) == 26
    shutil.rmtree(Path(os.environ["VGGNET_CACHE"]))
    assert brought_up_to_date(root)[1].rows.tobytes() == index.rows.tobytes()
    assert index.bad(train(data)) == []


def test_it_is_saved_in_between(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[None] = []
    original = Index._save
    monkeypatch.setattr(index_module, "_SECONDS_BETWEEN_SAVES", -1)
    monkeypatch.setattr(Index, "_save", lambda self: saves.append(original(self)))
    brought_up_to_date(root)
    assert len(saves) == 27  # after each image, and at the end


def test_a_dead_process_is_told_with_its_files(
    root: Path, monkeypatch: pytest.MonkeyPatch, decodes: Decodes
) -> None:
    def deadly(images: EncodedImages, i: int) -> Measured:
        if images.names[i] == "train/class1/007.jpg":
            time.sleep(1)  # a thread of the process is sending what was read before
            os._exit(1)
        return measure(images, i)

    write_photos(root / "more", {"a": 70})
    shutil.copytree(root / "more/a/class0", root / "val/class0", dirs_exist_ok=True)
    shutil.rmtree(root / "more")
    data = open_dataset(str(root))
    images = files_of(data, ["validation", "train"])  # the deadly one in the last chunk
    with monkeypatch.context() as patch:
        patch.setattr("vggnet.measuring.measure", deadly)
        with pytest.raises(RunError, match=r"died while .*train/class1/007\.jpg"):
            Index.of(data).check(list(images.values()), workers=1)
    # The next check goes on after the chunks that were read.
    Index.of(data).check(list(images.values()))
    assert 0 < len(decodes) <= 32


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "format", "columns", "flipped"])
def test_a_damaged_index_is_made_anew(root: Path, decodes: Decodes, how: str) -> None:
    _, index = brought_up_to_date(root)
    content = index.path.read_bytes()
    if how in ("format", "columns"):
        with np.load(index.path, allow_pickle=False) as file:
            rows, header = file["rows"], json.loads(file["header"].item())
        if how == "format":
            header["format"] += 1
        else:
            rows = rows[["key", "size"]]
        with index.path.open("wb") as out:
            np.savez(out, rows=rows, header=np.array(json.dumps(header).encode()))
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        damaged = {"truncated": content[:middle], "text": b"index", "empty": b""}
        index.path.write_bytes(damaged.get(how, flipped))
    decodes.clear()
    again = brought_up_to_date(root)[1]
    assert len(decodes) == 26
    assert again.rows.tobytes() == index.rows.tobytes()
    assert again.path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(index_module, "_SECONDS_BETWEEN_SAVES", -1)
    data = stopping(open_dataset(str(root)))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "not kept" in err
    assert np.allclose(data.mean_rgb, in_memory(replace(data, statistics=None)).mean_rgb)


def test_two_data_sets_have_two_indexes(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    paths = {brought_up_to_date(place)[1].path for place in (root, tmp_path / "copy")}
    assert len(paths) == 2
    (tmp_path / "link").symlink_to(root)
    assert brought_up_to_date(tmp_path / "link")[1].path in paths


def test_images_that_were_not_checked_are_an_error(root: Path) -> None:
    data = open_dataset(str(root))
    with pytest.raises(ValueError, match="not checked"):
        Index.of(data).statistics(train(data))


def test_images_in_memory_need_no_check() -> None:
    data = digits()
    assert stopping(data) is data


def test_bad_images_stop(root: Path) -> None:
    spoil(root)
    with pytest.raises(InputError) as error:
        stopping(open_dataset(str(root)))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(
        f"4 of 26 images cannot be read, first {root}/train/class0/000.jpg: is empty"
    )
    assert "--on-bad-image skip" in text
    lines = [json.loads(line) for line in Path("bad-images.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines[:2]] == [
        f"{root}/train/class0/000.jpg",
        f"{root}/train/class0/002.jpg",
    ]
    assert [line["part"] for line in lines] == ["train"] * 3 + ["test"]
    assert all(line["reason"] for line in lines)


def test_bad_images_are_left_out(root: Path) -> None:
    names = spoil(root)
    whole, said = open_dataset(str(root)), list[str]()
    data = skipping(whole, said.append)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [13, 4, 5]
    assert data.train.names is not None
    assert set(data.train.names) == {*(whole.train.names or ())} - set(names)
    for i in range(len(data.train)):
        assert data.train.name(i).split("/")[1] == data.class_names[data.train.labels[i]]
    assert "3 of 16 training images cannot be read and are left out: n = 13" in data.note
    assert "1 of 6 test images cannot be read and are left out: n = 5" in data.note
    assert len(said) == 2
    assert data.statistics is not None
    assert stopping(data).statistics is not None  # nothing is bad any more


def test_only_the_parts_that_are_asked_for_are_read(root: Path, decodes: Decodes) -> None:
    data = open_dataset(str(root))
    found = checked(data, ["test"], on_bad="stop", workers=0, progress=False, log=print)
    assert len(decodes) == 6
    assert found.statistics is None


def test_a_class_or_part_without_images_is_an_error(root: Path) -> None:
    for i in range(8):
        (root / f"train/class1/{i:03}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="class 'class1' no training image can be read"):
        skipping(open_dataset(str(root)))
    for path in (root / "test").rglob("*.jpg"):
        path.write_bytes(b"")
    data = open_dataset(str(root))
    with pytest.raises(InputError, match="no test image"):
        checked(data, ["test"], on_bad="skip", workers=0, progress=False, log=print)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (256, 256), (375, 500)])
@pytest.mark.parametrize("lowest", [0, 255])
def test_sums_of_colours_are_exact(shape: tuple[int, int], lowest: int) -> None:
    image = np.random.default_rng(1).integers(lowest, 256, (*shape, 3), dtype=np.uint8)
    flat = image.reshape(-1, 3).astype(np.int64)
    sums, products = colour_sums(image)
    assert (sums == flat.sum(axis=0)).all()
    assert (products == flat.T @ flat).all()


def test_tar_shards(root: Path, tmp_path: Path) -> None:
    """The same images in shards: the same statistics, and a bad one is named in its shard."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in ("train", "val", "test"):
        with tarfile.open(folder / f"{part}-0000.tar", "w") as tar:
            for path in sorted((root / part).rglob("*.jpg")):
                key = f"{path.parent.name}-{path.stem}"
                tar.add(path, f"{key}.jpg")
                label = tarfile.TarInfo(f"{key}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(path.parent.name[-1:].encode()))
            bad = tarfile.TarInfo("class1-zzz.jpg")
            bad.size = 4
            tar.addfile(bad, io.BytesIO(b"text"))
            label = tarfile.TarInfo("class1-zzz.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    data, index = brought_up_to_date(folder, workers=2)
    assert [len(index.bad(files_of(data, [part])[part])) for part in PARTS] == [1, 1, 1]
    found = skipping(data)
    assert found.train.name(0) == "train-0000.tar/class0-000.jpg"
    assert "not an image" in index.bad(train(data))[0][1]
    assert "train-0000.tar" not in index.bad(train(data))[0][1]
    expected = stopping(open_dataset(str(root)))
    assert np.allclose(found.mean_rgb, expected.mean_rgb, rtol=1e-12)

"""Crops that hang on seed, epoch and image alone: not on workers, ranks, resumes, bad images."""

import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from photos import write_photos
from tars import three_parts
from vggnet import InputError, RunError, roll
from vggnet.augment import ColourPCA, jittered_side
from vggnet.crops import rng_of
from vggnet.datasets import digits, open_dataset
from vggnet.images import Pixels, rescale
from vggnet.loading import Batch, TrainingImages
from vggnet.parts import Dataset, Part
from vggnet.readers import TestImages, shard


class OnDemand(Sequence[Pixels]):
    """Images that are not a list, as files are not."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        return self.images[i]


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = digits()
    return replace(whole, train=Part(whole.train.images[:40], whole.train.labels[:40]))


def loader(data: Dataset, **options: Any) -> TrainingImages:
    values: dict[str, Any] = {
        "S": (37, 40), "crop": 32, "batch_size": 16, "flip": False, "colour_shift": 0.1, "seed": 0
    }  # fmt: skip
    return TrainingImages(data, **{**values, **options})


def test_sides_are_uniform_with_both_ends() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(jittered_side((37, 40), rng) for _ in range(8000))
    assert set(counts) == {37, 38, 39, 40}
    assert all(1800 < count < 2200 for count in counts.values())  # 2000 ± 5 standard deviations


def test_a_jittered_view_is_a_crop_of_an_image_of_its_own_size(data: Dataset) -> None:
    images = loader(data)
    sides: Counter[int] = Counter()
    for epoch in range(4):
        order = rng_of(0, epoch).permutation(40)
        views = np.concatenate([b.images.permute(0, 2, 3, 1).numpy() for b in images.epoch(epoch)])
        for index, view in zip(order, views, strict=True):
            found = [
                side
                for side in range(37, 41)
                if any(
                    (rescale(data.train.images[index], side)[t : t + 32, l : l + 32] == view).all()
                    for t in range(side - 31)
                    for l in range(side - 31)  # noqa: E741
                )
            ]
            assert len(found) == 1
            sides[found[0]] += 1
    assert all(20 < sides[side] < 62 for side in range(37, 41))  # 40 of 160 each, 4 deviations


def test_one_image_has_another_size_in_another_epoch(data: Dataset) -> None:
    """Its S is drawn for every image of every epoch, from the seed alone."""
    alone = replace(data, train=Part(data.train.images[:1], data.train.labels[:1]))
    epochs = [next(iter(loader(alone).epoch(epoch))).images for epoch in range(12)]
    again = [next(iter(loader(alone).epoch(epoch))).images for epoch in range(12)]
    assert all((a == b).all() for a, b in zip(epochs, again, strict=True))
    assert len({image.numpy().tobytes() for image in epochs}) > 4


def test_erasing_changes_a_rectangle_and_nothing_else(data: Dataset) -> None:
    pairs = zip(loader(data).epoch(0), loader(data, erase=0.5).epoch(0), strict=True)
    shares, whole = [], 0
    for plain, other in pairs:
        assert (plain.shifts == other.shifts).all()
        for a, b in zip(plain.images, other.images, strict=True):
            differs = (a != b).any(dim=0)
            if not differs.any():
                whole += 1
                continue
            rows, columns = differs.any(dim=1).nonzero(), differs.any(dim=0).nonzero()
            height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
            # Of the noise, hardly a pixel is as it was.
            assert int(differs.sum()) > 0.95 * height * width
            shares.append(height * width / 32**2)
    assert 10 < whole < 30  # of 40, three deviations
    assert 0.01 < min(shares) < max(shares) < 0.45


@pytest.mark.parametrize("scale", [37, (37, 40)])
def test_images_at_hand_and_on_demand_give_the_same_crops(
    scale: Any, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where grey images are kept as one channel, between others."""
    coloured = [image.copy() for image in data.train.images]
    for image in coloured[::2]:
        image[3, 5, 1] ^= 9
    data = replace(data, train=Part(coloured, data.train.labels))
    options = {"S": scale, "flip": True, "erase": 0.5}
    expected = list(loader(data, **options).epoch(1))
    later = replace(data, train=Part(OnDemand(data.train.images), data.train.labels))
    monkeypatch.setattr("vggnet.crops._KEPT_BYTES", 0)
    for found in (loader(later, **options).epoch(1), loader(data, **options).epoch(1)):
        for batch, other in zip(found, expected, strict=True):
            assert (batch.images == other.images).all()
            assert (batch.shifts == other.shifts).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_photos(tmp_path_factory.mktemp("photos"), {"train": 11, "val": 2, "test": 2})
    return open_dataset(str(root))


def photo_loader(data: Dataset, **options: Any) -> TrainingImages:
    return loader(data, **({"batch_size": 5, "flip": True} | options))


def same(batch: Batch, other: Batch) -> bool:
    return (
        torch.equal(batch.images, other.images)
        and torch.equal(batch.shifts, other.shifts)
        and torch.equal(batch.labels, other.labels)
        and batch.bad == other.bad
    )


@pytest.mark.parametrize("scale", [33, (33, 90)])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(photos: Dataset, scale: Any, workers: int) -> None:
    alone = photo_loader(photos, S=scale)
    several = photo_loader(photos, S=scale, workers=workers)
    for epoch in range(3):  # the workers stay from one to the next
        found, expected = list(several.epoch(epoch)), list(alone.epoch(epoch))
        assert [len(batch.labels) for batch in found] == [5, 5, 5, 5, 2]
        assert all(same(*pair) for pair in zip(found, expected, strict=True))
        assert found[0].images.is_contiguous(memory_format=torch.channels_last)
    several.close()


def test_spawned_workers_give_the_same_too(
    photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows, where nothing is inherited."""
    several = photo_loader(photos, workers=1)
    assert several._loader is not None
    several._loader.multiprocessing_context = "spawn"
    both = zip(several.epoch(0), photo_loader(photos).epoch(0), strict=True)
    assert all(same(*pair) for pair in both)
    several.close()


def test_an_epoch_goes_on_in_its_midst(photos: Dataset) -> None:
    whole = list(photo_loader(photos).epoch(2))
    for workers in (0, 2):
        first = photo_loader(photos, workers=workers)
        batches = first.epoch(2)
        next(batches), next(batches)
        state = first.state_dict()
        assert state == {"epoch": 2, "step": 2}  # whatever was read ahead
        other = photo_loader(photos, workers=workers)
        other.load_state_dict(state)
        assert all(same(*pair) for pair in zip(other, whole[2:], strict=True))
        first.close()
        other.close()


def test_an_epoch_that_is_left_leaves_no_trace(photos: Dataset) -> None:
    """What was read ahead of it does not get into the next one."""
    expected = [list(photo_loader(photos, batch_size=2).epoch(epoch)) for epoch in range(4)]
    images = photo_loader(photos, batch_size=2, workers=2)
    for taken, epoch in ((1, 0), (4, 1), (0, 2), (11, 3), (2, 0), (11, 1)):
        batches = images.epoch(epoch)
        found = [next(batches) for _ in range(taken)]  # all of them are kept
        assert all(same(*pair) for pair in zip(found, expected[epoch], strict=False))
    images.close()


def test_a_view_is_a_window_of_the_rescaled_photograph(photos: Dataset) -> None:
    """Found again among all windows of the image rescaled by Pillow: a shift would show."""
    images = photo_loader(photos, S=36, flip=False)
    order = rng_of(0, 0).permutation(22)
    views = torch.cat([batch.images for batch in images.epoch(0)]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([batch.labels for batch in images.epoch(0)])
    assert (labels.numpy() == photos.train.labels[order]).all()
    for index, view in zip(order, views, strict=True):
        whole = rescale(photos.train.images[index], 36).astype(int)
        windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), axis=(0, 1))
        off = np.abs(windows - view.transpose(2, 0, 1)).max(axis=(2, 3, 4))
        assert off.min() <= 12  # libjpeg has reduced the largest; a neighbouring window is farther
        assert (off == off.min()).sum() == 1


def test_ranks_share_every_batch(photos: Dataset) -> None:
    whole = list(photo_loader(photos).epoch(0))
    ranks = [list(photo_loader(photos, rank=rank, ranks=3).epoch(0)) for rank in range(3)]
    for step, batch in enumerate(whole):
        shares = [found[step] for found in ranks]
        assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
        assert torch.equal(torch.cat([share.labels for share in shares]), batch.labels)
        sizes = [len(share.labels) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n", "ranks"), [(10, 3), (2, 4), (0, 2), (10_007, 8)])
def test_testing_shards_have_every_image_once(n: int, ranks: int) -> None:
    shards = [shard(n, rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_and_named(tmp_path: Path, workers: int) -> None:
    root = write_photos(tmp_path, {"train": 4, "val": 1, "test": 1})
    data = open_dataset(str(root))
    gone, cut = root / "train/class0/001.jpg", root / "train/class1/002.jpg"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:300])
    data.__dict__["_colours"] = ((0.0, 0.0, 0.0), ColourPCA(np.eye(3)))  # without reading any
    images = photo_loader(data, batch_size=3, workers=workers)
    batches = list(images.epoch(0))
    bad = dict(pair for batch in batches for pair in batch.bad)
    assert sorted(bad) == [1, 6]
    assert re.search(r"001\.jpg: no such file", bad[1])
    assert re.search(r"002\.jpg: cannot be read as an image .*: copy it again or remove it", bad[6])
    assert sum(len(batch.labels) for batch in batches) == 6
    assert [len(batch.labels) + len(batch.bad) for batch in batches] == [3, 3, 2]
    images.close()


def test_a_worker_that_dies_is_one_clear_error(
    photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("vggnet.images.EncodedImage.window", die)
    images = photo_loader(photos, workers=1)
    with pytest.raises(RunError, match=r"a process that reads images died .*--workers"):
        list(images.epoch(0))
    images.close()


def test_test_images_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"train": 12, "val": 1, "test": 1})
    images = open_dataset(str(root)).train.images
    for i in (0, 9, 10):
        (root / f"train/class0/{i:03}.jpg").write_text("text")
    for workers in (0, 2):
        found = list(TestImages(images, [33, 50], workers))
        assert [i for i, views in enumerate(found) if isinstance(views, InputError)] == [0, 9, 10]
        assert len(found) == 24


def test_the_callers_random_numbers_are_left_alone(photos: Dataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    images = photo_loader(photos, workers=1)
    next(iter(images.epoch(0)))
    assert torch.rand(1) == expected
    images.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_test_images_come_in_order_whoever_reads_them(photos: Dataset, workers: int) -> None:
    images = photos.train.images
    found = list(TestImages(images, [33, 50], workers))
    assert len(found) == len(images)
    for views, image in zip(found, images, strict=True):
        assert not isinstance(views, InputError)
        for view, side in zip(views, (33, 50), strict=True):
            assert view.shape == rescale(image, side).shape
    alone = list(TestImages(images, [33, 50]))
    for one, other in zip(found, alone, strict=True):
        assert not isinstance(one, InputError)
        assert not isinstance(other, InputError)
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_epochs(photos: Dataset) -> None:
    """Of this process and of a worker; benchmarks/data.py --memory has the figures."""
    images = photo_loader(photos, workers=1)
    resident = []
    for epoch in range(50):
        for batch in images.epoch(epoch):
            assert len(batch.labels)
        if epoch in (4, 49):
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
            resident.append(sum(pages) * os.sysconf("SC_PAGE_SIZE"))
            assert len(pids) == 2
    images.close()
    # 45 epochs of 22 crops of 32×32×3 are 3 MB of pixels; what is kept would be seen.
    assert resident[1] - resident[0] < 2_000_000


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_each_image_once_and_go_on_in_the_midst(tmp_path: Path, workers: int) -> None:
    """The colour of an image in the shards is its number, so each crop says which it is."""
    data = open_dataset(str(three_parts(tmp_path / "set")))
    data.__dict__["_colours"] = ((0.0, 0.0, 0.0), ColourPCA(np.eye(3)))
    whole = list(photo_loader(data, batch_size=16).epoch(1))
    colours = torch.cat([batch.images[:, 0, 16, 16] for batch in whole])
    assert sorted(colours.tolist()) == list(range(130))
    assert (torch.cat([batch.labels for batch in whole]) == colours % 2).all()
    assert colours.tolist() != sorted(colours.tolist())
    for step in (0, 3, 8):
        images = photo_loader(data, batch_size=16, workers=workers)
        images.load_state_dict({"epoch": 1, "step": step})
        assert all(same(*pair) for pair in zip(images, whole[step:], strict=True))
        images.close()
    roll.write(tmp_path / roll.NAME, data)  # a roll of shards keeps their colours
    again = roll.restored(roll.find(tmp_path), open_dataset(str(tmp_path / "set")))
    assert again.trained_on == data.trained_on
    assert (again.colour_pca.components == np.eye(3)).all()
    ranks = [list(photo_loader(data, batch_size=16, rank=i, ranks=2).epoch(1)) for i in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([found[step].images for found in ranks]), batch.images)

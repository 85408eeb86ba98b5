"""The embedded digits against scikit-learn's, the split, what is no data set, the geometry."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vggnet import InputError, parts
from vggnet.augment import ColourPCA, random_flip, random_window
from vggnet.datasets import digits, open_dataset
from vggnet.images import Pixels, rescale, scaled_size
from vggnet.loading import TrainingImages
from vggnet.parts import Dataset, Part


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def test_the_images_are_scikit_learns_each_once(data: Dataset) -> None:
    source = load_digits()
    expected = sorted(
        (label, np.rint(image * 255 / 16).astype(np.uint8).tobytes())
        for image, label in zip(source.images, source.target, strict=True)
    )
    found = []
    for part in (data.train, data.validation, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert image.shape == (8, 8, 3)
            assert image.dtype == np.uint8
            assert (image[..., 0] == image[..., 1]).all()
            assert (image[..., 0] == image[..., 2]).all()
            found.append((label, image[..., 0].tobytes()))
    assert sorted(found) == expected
    assert max(image.max() for image in data.train.images) == 255


def test_the_split_is_fixed(data: Dataset) -> None:
    assert (len(data.train), len(data.validation), len(data.test)) == (1000, 297, 500)
    again = digits()
    for part in ("train", "validation", "test"):
        assert (getattr(data, part).labels == getattr(again, part).labels).all()
        assert set(getattr(data, part).labels) == set(range(10))
    # Written down, so that a change of NumPy or of the code cannot move it unseen.
    assert data.test.labels[:10].tolist() == TEST_LABELS
    assert data.class_names == tuple("0123456789")
    assert not data.flip


TEST_LABELS = [9, 9, 1, 5, 2, 6, 0, 0, 7, 8]


def test_mean_and_colours_come_from_the_training_images_alone(data: Dataset) -> None:
    pixels = np.concatenate([image.reshape(-1, 3) for image in data.train.images]).astype(float)
    assert data.mean_rgb == pytest.approx(pixels.mean(axis=0), rel=1e-12)
    covariance = np.cov(pixels.T, bias=True)
    components = data.colour_pca.components
    assert components @ components.T == pytest.approx(covariance, rel=1e-6, abs=1e-6)


class Counted(Sequence[Pixels]):
    """Images that note which were asked for."""

    def __init__(self, images: list[Pixels]) -> None:
        self.images = images
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.asked.append(index)
        return self.images[index]


@pytest.mark.parametrize(("limit", "count"), [(10, 10), (100, 25)])
def test_mean_and_colours_take_one_pass_over_evenly_spaced_images(
    monkeypatch: pytest.MonkeyPatch, limit: int, count: int
) -> None:
    monkeypatch.setattr(parts, "STATISTICS_IMAGES", limit)
    monkeypatch.setattr(parts, "_BLOCK", 17)
    rng = np.random.default_rng(0)
    images = Counted(
        [rng.integers(0, 256, (*rng.integers(1, 9, 2), 3), dtype=np.uint8) for _ in range(25)]
    )
    part = Part(images, np.zeros(25, np.int64))
    data = Dataset("random", ("one",), part, part, part, flip=True)
    mean, pca = data.mean_rgb, data.colour_pca
    assert data.mean_rgb == mean
    assert len(images.asked) == count
    assert images.asked[0] == 0
    assert set(np.diff(images.asked)) == ({2, 3} if limit == 10 else {1})
    used = [images.images[i].astype(float) for i in images.asked]
    assert mean == pytest.approx(np.mean([image.mean(axis=(0, 1)) for image in used], axis=0))
    covariance = np.cov(np.concatenate([image.reshape(-1, 3) for image in used]).T, bias=True)
    assert pca.components @ pca.components.T == pytest.approx(covariance, rel=1e-9)


def test_a_part_names_its_images_by_file_or_index(data: Dataset) -> None:
    assert data.test.name(3) == "3"
    assert Part(data.test.images[:2], data.test.labels[:2], ("a/1.png", "b.png")).name(1) == "b.png"


def test_the_fingerprint_is_that_of_pixels_shapes_and_labels(data: Dataset) -> None:
    part = Part(data.test.images[:3], data.test.labels[:3])
    fingerprint = part.fingerprint
    assert len(fingerprint) == 64
    assert Part([image.copy() for image in part.images], part.labels.copy()).fingerprint == (
        fingerprint
    )
    changed = [image.copy() for image in part.images]
    changed[2][7, 7, 2] ^= 1
    others = [
        Part(changed, part.labels),
        Part(part.images[::-1], part.labels),
        Part(part.images, np.roll(part.labels, 1)),
        Part(part.images[:2], part.labels[:2]),
        Part([image.reshape(4, 16, 3) for image in part.images], part.labels),
    ]
    assert len({fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    code = "from vggnet.datasets import digits; print(digits().test.fingerprint)"
    again = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == data.test.fingerprint


def test_unknown_data_lists_what_there_is(tmp_path: Path) -> None:
    for spec in ("mnist", "", str(tmp_path / "none"), "a\0b"):
        with pytest.raises(InputError) as error:
            open_dataset(spec)
        assert str(error.value).startswith(f"unknown data set {spec!r}: there is no such folder")
        for known in (
            *("'digits'", "'fashion-mnist'", "'fashion-mnist:DIR'", "folder of images"),
            *("'cifar-10:DIR'", "'cifar-100:DIR'"),
        ):
            assert known in str(error.value)
    (tmp_path / "file.zip").touch()
    with pytest.raises(InputError, match=r"file\.zip' is a file, not a data set: give 'digits'"):
        open_dataset(str(tmp_path / "file.zip"))


def test_imagenet_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec in ("imagenet", "imagenet/"):
        with pytest.raises(InputError) as error:
            open_dataset(spec)
        assert str(error.value).startswith(f"{spec!r}: there is no such folder: ImageNet is given")
        for words in ("train/", "n01440764", "val/", "for example /data/imagenet"):
            assert words in str(error.value)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="'~/file' is a file, not a data set"):
        open_dataset("~/file")
    with pytest.raises(InputError, match=rf"{tmp_path}/none: Fashion-MNIST's .* not found there"):
        open_dataset("fashion-mnist:~/none/")
    with pytest.raises(InputError, match="unknown data set '~nobody-of-that-name/x'"):
        open_dataset("~nobody-of-that-name/x")


def test_the_colour_shift_has_the_covariance_of_the_pixels() -> None:
    covariance = np.array([[900.0, 300, 100], [300, 400, 50], [100, 50, 250]])
    pca = ColourPCA.of_covariance(covariance)
    rng = np.random.default_rng(0)
    shifts = np.stack([pca.shift(rng, 0.1) for _ in range(20_000)]).astype(float)
    # σ = 0.1 on every component: a hundredth of the covariance.
    assert np.cov(shifts.T) == pytest.approx(covariance / 100, abs=0.35)
    assert np.abs(shifts.mean(axis=0)).max() < 0.1
    assert np.abs(pca.shift(rng, 0.0)).max() == 0


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        ((8, 8), 37, (37, 37)),
        ((375, 500), 256, (256, 341)),
        ((500, 375), 256, (341, 256)),
        ((1, 1000), 32, (32, 32_000)),
        ((100, 101), 10, (10, 10)),
        ((224, 225), 512, (512, 514)),
    ],
)
def test_rescaled_sizes(size: tuple[int, int], smallest: int, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, smallest) == expected
    image = np.zeros((*size, 3), np.uint8)
    assert rescale(image, smallest).shape == (*expected, 3)


def test_rescaling_is_pillows_bilinear() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for smallest in (32, 97):
        expected = Image.fromarray(image).resize(
            (round(90 * smallest / 60), smallest), Image.Resampling.BILINEAR
        )
        assert (rescale(image, smallest) == np.asarray(expected)).all()
    assert rescale(image, 60) is image
    with pytest.raises(InputError, match="smallest side 0"):
        rescale(image, 0)


def test_random_crops_reach_every_place_equally() -> None:
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    rng = np.random.default_rng(0)
    corners: dict[int, int] = {}
    for _ in range(6000):
        top, left, side, _ = random_window(*image.shape[:2], 4, rng)
        crop = image[top : top + side, left : left + side]
        assert crop.shape == (4, 4, 3)
        corners[int(crop[0, 0, 0])] = corners.get(int(crop[0, 0, 0]), 0) + 1
    assert set(corners) == {15 * row + 3 * column for row in range(3) for column in range(2)}
    assert all(850 < count < 1150 for count in corners.values())  # 1000 ± 5 standard deviations


def test_random_flips_mirror_left_and_right() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    rng = np.random.default_rng(0)
    views = [random_flip(torch.from_numpy(image), rng)[0].numpy() for _ in range(1000)]
    kept = sum((view == image).all() for view in views)
    mirrored = sum((view == image[:, ::-1]).all() for view in views)
    assert kept + mirrored == 1000
    assert 420 < mirrored < 580  # 500 ± 5 standard deviations


def training_images(data: Dataset, **options: object) -> TrainingImages:
    values = {"S": 37, "crop": 32, "batch_size": 64, "flip": False, "colour_shift": 0.1, "seed": 0}
    return TrainingImages(data, **{**values, **options})  # type: ignore[arg-type]


def test_an_epoch_has_every_image_once_as_a_crop_of_its_rescaled_self(data: Dataset) -> None:
    loader = training_images(data)
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == [64] * 15 + [40]
    assert len(batches) == loader.steps
    order = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, 0])).permutation(1000)
    assert sorted(order) == list(range(1000))
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    assert (labels == data.train.labels[order]).all()
    image, index = batches[3].images[5].permute(1, 2, 0).numpy(), order[3 * 64 + 5]
    whole = rescale(data.train.images[index], 37)
    places = [
        (top, left)
        for top in range(6)
        for left in range(6)
        if (whole[top : top + 32, left : left + 32] == image).all()
    ]
    assert len(places) == 1


def test_randomness_hangs_on_seed_epoch_and_image_alone(data: Dataset) -> None:
    loader = training_images(data)
    first = list(loader.epoch(2))
    list(loader.epoch(1))  # what was read before does not matter
    for again, batch in zip(training_images(data).epoch(2, start=9), first[9:], strict=True):
        assert (again.images == batch.images).all()
        assert (again.shifts == batch.shifts).all()
        assert (again.labels == batch.labels).all()
    # Nor does the size of the batch, whose images keep their crops.
    large = next(iter(training_images(data, batch_size=1000).epoch(2)))
    assert (large.images[:64] == first[0].images).all()
    for other in (loader.epoch(3), training_images(data, seed=1).epoch(2)):
        batch = next(iter(other))
        assert (batch.labels != first[0].labels).any()
        assert (batch.shifts != first[0].shifts).all()

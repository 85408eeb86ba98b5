"""Scale jitter: each image's S drawn anew, uniformly, and a crop of just that size's image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vggnet.augment import jittered_side
from vggnet.datasets import Dataset, Part, digits
from vggnet.images import Pixels, rescale
from vggnet.loading import TrainingImages


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
        order = images._rng(epoch).permutation(40)
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


@pytest.mark.parametrize("scale", [37, (37, 40)])
def test_images_at_hand_and_on_demand_give_the_same_crops(
    scale: Any, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(loader(data, S=scale).epoch(1))
    later = replace(data, train=Part(OnDemand(data.train.images), data.train.labels))
    monkeypatch.setattr("vggnet.loading._KEPT_BYTES", 0)
    for found in (loader(later, S=scale).epoch(1), loader(data, S=scale).epoch(1)):
        for batch, other in zip(found, expected, strict=True):
            assert (batch.images == other.images).all()
            assert (batch.shifts == other.shifts).all()

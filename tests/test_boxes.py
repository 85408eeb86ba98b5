"""Boxes against another library, literal implementations, and pictures that show them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vggnet import canvases
from vggnet.boxes import in_image, in_window, iou, loss, merged, mirrored, of_class
from vggnet.datasets import open_dataset
from vggnet.folders import ImageFiles
from vggnet.images import scaled_size
from vggnet.loading import TrainingImages
from vggnet.parts import Dataset, Part
from vggnet.recipes import Scale


def random_boxes(rng: np.random.Generator, n: int, size: float = 100) -> Tensor:
    corners = np.sort(rng.uniform(0, size, (n, 2, 2)), axis=1)
    return torch.from_numpy(corners.reshape(n, 4))


def test_iou_is_shapelys() -> None:
    rng = np.random.default_rng(0)
    # Whole numbers too: boxes that touch, lie in each other, are the same.
    boxes = torch.cat([random_boxes(rng, 60), random_boxes(rng, 40, 4).round()])
    found = iou(boxes[:, None], boxes[None])
    shapes = [shapely.box(*box) for box in boxes.tolist()]
    for (i, one), (j, other) in itertools.product(enumerate(shapes), repeat=2):
        covered = one.union(other).area
        expected = one.intersection(other).area / covered if covered else 0.0
        assert found[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_iou_of_boxes_that_are_none() -> None:
    box = torch.tensor([0.0, 0, 2, 2])
    for empty in ([1.0, 1, 1, 2], [2.0, 0, 0, 2], [3.0, 3, 3, 3]):
        assert iou(torch.tensor(empty), box) == 0
        assert iou(torch.tensor(empty), torch.tensor(empty)) == 0


def literally_merged(
    boxes: list[list[float]], ratings: list[float], threshold: float
) -> list[tuple[list[float], float]]:
    """With lists of members, whose mean is taken at last."""
    groups = [[i] for i in range(len(boxes))]

    def mean(group: list[int]) -> list[float]:
        return [sum(boxes[i][side] for i in group) / len(group) for side in range(4)]

    def overlap(one: list[float], other: list[float]) -> float:
        a, b = shapely.box(*one), shapely.box(*other)
        return float(a.intersection(b).area / a.union(b).area)

    while len(groups) > 1:
        pairs = list(itertools.combinations(range(len(groups)), 2))
        overlaps = [overlap(mean(groups[i]), mean(groups[j])) for i, j in pairs]
        best = max(overlaps)
        if best < threshold:
            break
        i, j = pairs[overlaps.index(best)]
        groups[i] += groups.pop(j)
    return [(mean(group), sum(ratings[i] for i in group)) for group in groups]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_merging_is_the_literal_one(threshold: float) -> None:
    rng = np.random.default_rng(1)
    sets = torch.stack([random_boxes(rng, 14) for _ in range(6)])
    sets[3:] = 20 + sets[3:] / 20 + torch.tensor([0.0, 0, 40, 40])  # close together
    sets[5, 4] = sets[5, 9]
    ratings = torch.from_numpy(rng.uniform(0, 1, (6, 14)))
    given = sets.clone(), ratings.clone()
    boxes, rated, left = merged(sets, ratings, threshold)
    assert torch.equal(sets, given[0])
    assert torch.equal(ratings, given[1])
    counts = set()
    for s in range(6):
        expected = literally_merged(sets[s].tolist(), ratings[s].tolist(), threshold)
        found = boxes[s][left[s]]
        counts.add(len(found))
        np.testing.assert_allclose(found, [box for box, _ in expected], atol=1e-9)
        np.testing.assert_allclose(rated[s][left[s]], [rate for _, rate in expected], atol=1e-9)
    assert len(counts) > 1 or threshold == 1


def test_merging_of_the_same_and_of_none() -> None:
    box = torch.tensor([1.0, 2, 5, 9]).double()
    boxes, ratings, left = merged(box.expand(1, 7, 4), torch.ones(1, 7).double(), 0.5)
    assert left.sum() == 1
    assert torch.equal(boxes[left], box[None])
    assert ratings[left].tolist() == [7]
    assert merged(torch.empty(0, 3, 4), torch.empty(0, 3), 0.5)[2].shape == (0, 3)
    assert merged(box.expand(2, 1, 4), torch.ones(2, 1), 0.5)[2].all()


def test_four_numbers_and_back() -> None:
    """Of a window in an image that is scaled by other amounts in both directions."""
    box = np.array([30.0, 12, 90, 70])
    numbers = in_window(box, (100, 160), (50, 81), (5, 9, 32, 32))
    # By hand: x is scaled by 81/160, y by 1/2; the window's centre is at x 25, y 21.
    x0, x1 = 30 * 81 / 160, 90 * 81 / 160
    expected = ((x0 + x1) / 2 - 25) / 32, (20.5 - 21) / 32, (x1 - x0) / 32, 29 / 32
    np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    back = in_image(torch.from_numpy(numbers), torch.tensor([5, 9]), 32, (100, 160), (50, 81))
    np.testing.assert_allclose(back, box, rtol=1e-5)
    assert mirrored(numbers).tolist() == [-numbers[0], *numbers[1:]]
    outside = in_image(torch.tensor([0.0, 0, 9, 9]), torch.tensor([0, 0]), 32, (40, 50), (40, 50))
    assert outside.tolist() == [0, 0, 50, 40]


def test_the_loss_is_euclidean() -> None:
    rng = torch.Generator().manual_seed(0)
    targets = torch.rand(6, 4, generator=rng, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 2, 0, 1])
    for outputs in (torch.rand(6, 4, generator=rng), torch.rand(6, 12, generator=rng)):
        outputs = outputs.double().requires_grad_()
        losses, _ = loss(outputs, labels, targets)
        own = outputs if outputs.shape[1] == 4 else torch.stack(
            [outputs[i, 4 * k : 4 * k + 4] for i, k in enumerate(labels.tolist())]
        )  # fmt: skip
        assert torch.equal(of_class(outputs, labels), own)
        expected = F.mse_loss(own, targets, reduction="none").sum(1) / 2
        torch.testing.assert_close(losses, expected)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        others = [k for k in range(outputs.shape[1]) if k // 4 not in (0, *labels[:1].tolist())]
        assert not outputs.grad[0, others].any()  # boxes of other classes learn nothing


def test_who_is_wrong() -> None:
    """The same box is right; one of half the height has an IoU of exactly 1/2, which is wrong."""
    target = torch.tensor([[0.0, 0, 0.5, 0.5]])
    for height, wrong in ((0.5, False), (0.26, False), (0.25, True), (-0.5, True)):
        outputs = torch.tensor([[0.0, 0, 0.5, height]])
        assert loss(outputs, torch.tensor([0]), target)[1].tolist() == [wrong]


def with_rectangles(n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Black images of different sizes with a white rectangle, and its box."""
    rng = np.random.default_rng(2)
    images, boxes = [], []
    for _ in range(n):
        height, width = rng.integers(60, 140, 2)
        image = np.zeros((height, width, 3), np.uint8)
        top, left = rng.integers(height // 3), rng.integers(width // 3)
        bottom, right = height - rng.integers(1, height // 3), width - rng.integers(1, width // 3)
        image[top:bottom, left:right] = 255
        images.append(image)
        boxes.append(np.array([[left, top, right, bottom]], np.float64))
    return images, boxes


@pytest.mark.parametrize(
    ("S", "in_files", "workers"),
    [(48, False, 0), ((40, 80), False, 0), (48, True, 0), ((40, 80), True, 2)],
)
def test_targets_are_where_the_pictures_have_them(
    tmp_path: Path,
    S: Scale,  # noqa: N803
    in_files: bool,
    workers: int,
) -> None:
    """Rescaled, cropped and mirrored: the white of the crop is inside the box of the target."""
    images, boxes = with_rectangles(40)
    labels = np.zeros(40, np.int64)
    part = Part(images, labels, boxes=boxes)
    if in_files:
        names = [f"{i:02}.png" for i in range(40)]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image).save(tmp_path / name)
        part = Part(ImageFiles(tmp_path, names), labels, names, boxes=boxes)
    data = Dataset("rectangles", ("one",), part, part, part, flip=True)
    loader = TrainingImages(
        data, S=S, crop=32, batch_size=8, flip=True, colour_shift=0, seed=0, workers=workers
    )
    inside = 0
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            for image, numbers in zip(batch.images, batch.boxes.tolist(), strict=True):
                x, y, width, height = (32 * number for number in numbers)
                whole = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                expected = (whole + 16).clip(0, 32)  # of what the crop holds
                inside += int((expected == whole + 16).sum())
                white = np.argwhere(image[0].numpy() > 127)
                if min(expected[2:] - expected[:2]) < 2:
                    continue
                found = [*white.min(0)[::-1], *(white.max(0)[::-1] + 1)]
                np.testing.assert_allclose(found, expected, atol=1.01)
    loader.close()
    assert 100 < inside < 480  # sides that the crop holds


def test_of_several_instances_each_is_drawn() -> None:
    images, boxes = with_rectangles(4)
    several = [np.concatenate([box, box / 2]) for box in boxes]
    part = Part(images, np.zeros(4, np.int64), boxes=several)
    options = {"S": 48, "crop": 32, "batch_size": 4, "flip": False, "colour_shift": 0, "seed": 0}
    seen, crops = set(), []
    for own in (part, replace(part, boxes=boxes)):
        data = Dataset("rectangles", ("one",), own, own, own, flip=False)
        loader = TrainingImages(data, **options)  # type: ignore[arg-type]
        for epoch in range(6):
            (batch,) = loader.epoch(epoch)
            seen |= {round(1000 * width) for width in batch.boxes[:, 2].tolist()}
        crops.append(batch.images)
    assert len(seen) == 8
    assert torch.equal(*crops)  # the crops do not depend on the boxes


def test_digits_on_photos() -> None:
    data = open_dataset("digits-on-photos")
    parts = data.train, data.validation, data.test
    assert [len(part) for part in parts] == [3000, 891, 1500]
    again = canvases.drawn(open_dataset("digits").test.images[:5], "right", 2)[0]
    assert all(map(np.array_equal, again, data.test.images[:15]))
    heights = []
    for part in parts:
        assert part.boxes is not None
        for image, (box,) in zip(part.images[::7], part.boxes[::7], strict=True):
            assert image.shape == (96, 128, 3)
            left, top, right, bottom = box.astype(int)
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 96
            heights.append(bottom - top)
            # Backgrounds are at most half as bright as white; ink that is full is 200 or more.
            ink = image.min(axis=2) > 195
            rows, columns = np.nonzero(ink)
            assert len(rows)
            assert left <= columns.min()
            assert columns.max() < right
            assert top <= rows.min()
            assert rows.max() < bottom
            assert scaled_size(96, 128, 73) == (73, 97)
    assert min(heights) < 36
    assert max(heights) > 72
    backgrounds = [np.stack(part.images).mean(axis=(0, 1, 2)) for part in parts]
    assert np.abs(backgrounds[0] - backgrounds[2]).max() > 3  # cut from other halves

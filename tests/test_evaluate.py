"""Every protocol against a literal restatement, one view at a time; what is computed once."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from reference import classifier, pool5, randomise
from vggnet import VGG, Config, InputError, RunError, account, build, posteriors
from vggnet.evaluate import evaluate, measure
from vggnet.images import Pixels
from vggnet.inference import Fast
from vggnet.parts import Part
from vggnet.protocols import Averaging, Method, Protocol


@pytest.fixture(scope="module")
def model() -> VGG:
    return randomise(build("B", num_classes=9, crop=32, width=0.125)).double()


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    sizes = [(40, 90), (33, 32), (40, 90), (120, 61), (8, 8)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def crops(method: Method, height: int, width: int) -> list[tuple[int, int]]:
    """Corners of the crops of side 32, written out anew; those that coincide are repeated."""
    down, right = height - 32, width - 32
    centre = (round(down / 2), round(right / 2))
    if method == "centre-crop":
        return [centre]
    if method == "ten-crop":
        return [(0, 0), (0, right), (down, 0), (down, right), centre]
    places = [0, 0.25, 0.5, 0.75, 1]
    return [(round(down * i), round(right * j)) for i in places for j in places]


def of_view(model: VGG, view: NDArray[np.uint8], averaging: Averaging) -> NDArray[np.float64]:
    """Posteriors of one view, by the FC layers at each window of pool5."""
    tensor = torch.from_numpy(view.transpose(2, 0, 1).copy()).double()[None]
    features = pool5(model, tensor)
    cells = [
        classifier(model, features[:, :, i : i + 1, j : j + 1])[0].detach().numpy()
        for i in range(features.shape[2])
        for j in range(features.shape[3])
    ]
    if averaging == "scores":
        cells = [np.mean(cells, axis=0)]
    exponentials = [np.exp(cell - cell.max()) for cell in cells]
    return np.asarray(np.mean([e / e.sum() for e in exponentials], axis=0))


def literal(
    model: VGG,
    image: NDArray[np.uint8],
    scales: list[int],
    method: Method,
    averaging: Averaging,
    flips: bool,
) -> NDArray[np.float64]:
    """§3.2 for one image, one view after the other."""
    if method == "multi-crop+dense":
        both: tuple[Method, ...] = ("multi-crop", "dense")
        found = [literal(model, image, scales, one, averaging, flips) for one in both]
        return np.asarray(np.mean(found, axis=0))
    views = []
    for scale in scales:
        height, width = image.shape[:2]
        factor = scale / min(height, width)
        size = (max(scale, round(width * factor)), max(scale, round(height * factor)))
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        parts = [whole]
        if method != "dense":
            corners = crops(method, size[1], size[0])
            parts = [whole[top : top + 32, left : left + 32] for top, left in corners]
        for part in parts:
            for view in (part, part[:, ::-1]) if flips else (part,):
                views.append(of_view(model, view, averaging))
    return np.asarray(np.mean(views, axis=0))


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("averaging", ["scores", "posteriors"])
@pytest.mark.parametrize(
    "method", ["dense", "multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"]
)
@pytest.mark.parametrize("scales", [[37], [32, 65]])
def test_posteriors_are_the_literal_protocol(
    model: VGG,
    images: list[NDArray[np.uint8]],
    scales: list[int],
    method: Method,
    averaging: Averaging,
    flips: bool,
) -> None:
    found = posteriors(
        model, images, scales=scales, method=method, averaging=averaging, flips=flips
    )
    expected = [literal(model, image, scales, method, averaging, flips) for image in images]
    assert np.abs(found - expected).max() < 1e-9
    assert found.sum(axis=1) == pytest.approx(1)
    assert found.std(axis=0).max() > 1e-3  # the images are told apart


def test_options_make_a_difference(model: VGG, images: list[NDArray[np.uint8]]) -> None:
    base: dict[str, Any] = {"scales": [70], "method": "dense", "flips": True}
    first = posteriors(model, images, **base)
    methods: list[Method] = ["multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"]
    changes: list[dict[str, Any]] = [
        {"scales": [96]},
        {"flips": False},
        *({"method": method} for method in methods),
    ]
    for change in changes:
        assert np.abs(posteriors(model, images, **{**base, **change}) - first).max() > 1e-4
    assert np.abs(posteriors(model, images, **base, averaging="posteriors") - first).max() > 1e-6


def test_batches_do_not_change_an_image(
    model: VGG, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = posteriors(model, images, scales=[40])
    monkeypatch.setattr("vggnet.passes._BATCH_IMAGES", 1)
    assert np.abs(posteriors(model, images, scales=[40]) - together).max() < 1e-12


def test_what_is_no_array_is_refused() -> None:
    model = build("A", num_classes=3, crop=32, width=1 / 16)
    for given in (Image.new("RGB", (40, 40)), "a.jpg"):
        with pytest.raises(
            InputError, match=f"image 0 is a {type(given).__name__}: expected an arr"
        ):
            posteriors(model, [given], scales=[32])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"scales 64: give a list: \[64\]"):
        posteriors(model, [], scales=64)  # type: ignore[arg-type]


def test_no_images_have_no_posteriors() -> None:
    model = build("A", num_classes=3, crop=32, width=1 / 16)
    for method in get_args(Method):
        scales = [32] if method != "centre-crop" else [36]
        assert posteriors(model, [], scales=scales, method=method).shape == (0, 3)


def test_the_model_is_left_in_its_mode(model: VGG, images: list[NDArray[np.uint8]]) -> None:
    expected = posteriors(model, images, scales=[37])
    model.train()
    assert np.array_equal(posteriors(model, images, scales=[37]), expected)  # no dropout
    assert model.training
    model.eval()


def test_a_result_carries_its_protocol(model: VGG, images: list[NDArray[np.uint8]]) -> None:
    part = Part(images, np.arange(5))
    result = evaluate(model, part, scales=[37, 64], flips=False)
    assert result.to_json()["protocol"] == {
        "net": "B",
        "S": None,
        "Q": (37, 64),
        "method": "dense",
        "averaging": "scores",
        "flips": False,
    }
    assert result.n == 5
    assert str(result.protocol) == (
        "net B, S=unknown, Q=37, 64, dense, scores averaged over the map, without flips"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": [31]}, "test scale 31 is smaller than the net's crop 32"),
        ({"scales": []}, "no test scale"),
        ({"scales": [37, 32, 37]}, "given twice"),
        ({"scales": [10_000_000]}, "more than 32 times"),
        ({"scales": [37], "method": "tencrop"}, "unknown method 'tencrop'.*ten-crop"),
        ({"scales": [37], "averaging": "logits"}, "unknown averaging 'logits'"),
    ],
)
def test_wrong_protocols(
    model: VGG, images: list[NDArray[np.uint8]], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        posteriors(model, images, **options)


def test_wrong_images(model: VGG) -> None:
    for image in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)):
        with pytest.raises(InputError, match="image 0 is"):
            posteriors(model, [image], scales=[37])  # type: ignore[list-item]


def test_a_diverged_net_is_not_given_an_error() -> None:
    model = build("A", num_classes=3, crop=32, width=0.125)
    with torch.no_grad():
        model.get_parameter("fc8.bias").fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        posteriors(model, [np.zeros((40, 40, 3), np.uint8)], scales=[37])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches that go through a net, by their number of views."""
    found: list[int] = []
    score_map = Fast.score_map

    def counting(self: Fast, pixels: torch.Tensor) -> torch.Tensor:
        found.append(len(pixels))
        return score_map(self, pixels)

    monkeypatch.setattr(Fast, "score_map", counting)
    return found


class Counted(Sequence[Pixels]):
    """Images that count how often each is read, as files that are decoded on access."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self.images, self.reads = images, [0] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        self.reads[i] += 1
        return self.images[i]


def test_everything_is_computed_once(
    model: VGG, images: list[NDArray[np.uint8]], seen: list[int]
) -> None:
    """Five protocols of two nets in one pass: the views that differ, and each image read once."""
    methods: list[Method] = ["dense", "multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"]
    protocols = [Protocol("B", None, (37, 65), method) for method in methods]
    wanted = {term for protocol in protocols for term in protocol.terms}
    other = randomise(build("A", num_classes=9, crop=32, width=0.0625), seed=1).double()
    counted = Counted(images)
    together = measure([model, other], counted, [wanted, wanted])
    assert counted.reads == [1] * len(images)
    expected = 0
    for image in images:
        for scale in (37, 65):
            factor = scale / min(image.shape[:2])
            height, width = (max(scale, round(side * factor)) for side in image.shape[:2])
            grid = set(crops("multi-crop", height, width))
            # The centre, and the corners, are crops of the grid.
            assert {*crops("centre-crop", height, width), *crops("ten-crop", height, width)} <= grid
            expected += 2 * (1 + len(grid))  # with the dense view, each mirrored too
    assert sum(seen) == 2 * expected
    for net, found in zip((model, other), together, strict=True):
        for protocol in protocols:
            alone = posteriors(net, images, scales=protocol.Q, method=protocol.method)
            parts = [found[term].posteriors for term in protocol.terms]
            assert np.abs(np.mean(parts, axis=0) - alone).max() < 1e-12


def test_crops_that_coincide_cost_one_forward(model: VGG) -> None:
    square = [np.full((40, 40, 3), 9, np.uint8)]
    for side, distinct in ((32, 1), (33, 4), (34, 9), (36, 25), (37, 25), (65, 25)):
        result = evaluate(
            model, Part(square, np.array([0])), scales=[side], method="multi-crop", flips=False
        )
        assert result.forwards_per_image == distinct, side
        per_crop = account(model.config).multiply_adds
        assert result.multiply_adds_per_image == distinct * per_crop
        assert result.protocol.views == 25


def test_a_dense_view_that_is_a_crop_is_not_paid_twice(model: VGG, seen: list[int]) -> None:
    """Square images at Q = crop: grid and dense view are one forward, and its mirror image."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 40), (40, 60))]
    part = Part(images, np.array([0, 1]))
    result = evaluate(model, part, scales=[32, 36], method="multi-crop+dense")
    assert result.forwards_per_image == sum(seen) / 2
    # 32: one, and for 32×48 a dense view beside five crops in a row; 36: 25 and a dense view.
    assert sum(seen) == 2 * (1 + 1 + 5 + 2 * (25 + 1))
    crop = account(model.config).multiply_adds
    dense = [account(model.config, size).multiply_adds for size in ((32, 48), (36, 36), (36, 54))]
    assert result.multiply_adds_per_image == 2 * ((1 + 5 + 2 * 25) * crop + sum(dense)) / 2


def test_cost_of_a_dense_evaluation(model: VGG, images: list[NDArray[np.uint8]]) -> None:
    result = evaluate(model, Part(images[:1], np.array([0])), scales=[40, 64])
    assert (result.forwards_per_image, result.protocol.views) == (4, 4)
    small = Config("B", num_classes=9, crop=32, width=0.125)
    both = [account(small, size).multiply_adds for size in ((40, 90), (64, 144))]
    assert result.multiply_adds_per_image == 2 * sum(both)


def test_many_shapes_do_not_wait_for_ever(
    model: VGG, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = posteriors(model, images, scales=[40, 50])
    monkeypatch.setattr("vggnet.evaluate._WAITING_PIXELS", 5000)
    assert np.abs(posteriors(model, images, scales=[40, 50]) - expected).max() < 1e-12

"""Protocols against a literal restatement; counts and intervals against others' code."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from reference import classifier, pool5, randomise
from vggnet import VGG, InputError, RunError, build, posteriors
from vggnet.datasets import Part
from vggnet.evaluate import Averaging, Method, Protocol, errors, evaluate, wilson


@pytest.fixture(scope="module")
def model() -> VGG:
    return randomise(build("B", num_classes=9, crop=32, width=0.125)).double()


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    sizes = [(40, 90), (33, 32), (40, 90), (120, 61), (8, 8)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def literal(
    model: VGG,
    image: NDArray[np.uint8],
    scales: list[int],
    method: Method,
    averaging: Averaging,
    flips: bool,
) -> NDArray[np.float64]:
    """§3.2 for one image, one view after the other."""
    views = []
    for scale in scales:
        height, width = image.shape[:2]
        factor = scale / min(height, width)
        size = (max(scale, round(width * factor)), max(scale, round(height * factor)))
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        if method == "centre-crop":
            top, left = round((size[1] - 32) / 2), round((size[0] - 32) / 2)
            whole = whole[top : top + 32, left : left + 32]
        for view in (whole, whole[:, ::-1]) if flips else (whole,):
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
            views.append(np.mean([e / e.sum() for e in exponentials], axis=0))
    return np.asarray(np.mean(views, axis=0))


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("averaging", ["scores", "posteriors"])
@pytest.mark.parametrize("method", ["dense", "centre-crop"])
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
    for change in ({"scales": [96]}, {"method": "centre-crop"}, {"flips": False}):
        assert np.abs(posteriors(model, images, **{**base, **change}) - first).max() > 1e-4
    assert np.abs(posteriors(model, images, **base, averaging="posteriors") - first).max() > 1e-6


def test_batches_do_not_change_an_image(
    model: VGG, images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = posteriors(model, images, scales=[40])
    monkeypatch.setattr("vggnet.evaluate._BATCH_IMAGES", 1)
    assert np.abs(posteriors(model, images, scales=[40]) - together).max() < 1e-12


def test_the_model_is_left_in_its_mode(model: VGG, images: list[NDArray[np.uint8]]) -> None:
    expected = posteriors(model, images, scales=[37])
    model.train()
    assert np.array_equal(posteriors(model, images, scales=[37]), expected)  # no dropout
    assert model.training
    model.eval()


def test_errors_are_counted_as_argmax_and_topk_do() -> None:
    rng = np.random.default_rng(0)
    found = np.round(rng.random((500, 12)), 1)  # many ties
    labels = rng.integers(0, 12, 500)
    result = errors(found, labels, Protocol("A", 37, (37,)))
    assert result.top1 == pytest.approx(100 * (found.argmax(axis=1) != labels).mean())
    best = np.argsort(-found, axis=1, kind="stable")[:, :5]
    assert result.top5 == pytest.approx(100 * (best != labels[:, None]).all(axis=1).mean())
    same = errors(np.full((10, 12), 1 / 12), np.arange(10), Protocol("A", 37, (37,)))
    assert (same.top1, same.top5) == (90, 50)


@pytest.mark.parametrize(
    ("wrong", "n"), [(0, 1), (1, 1), (0, 500), (13, 500), (499, 500), (500, 500), (3, 7)]
)
def test_the_interval_is_scipys_wilson(wrong: int, n: int) -> None:
    expected = binomtest(wrong, n).proportion_ci(0.95, method="wilson")
    assert wilson(wrong, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)
    low, high = wilson(wrong, n)
    assert 0 <= low <= 100 * wrong / n <= high <= 100


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
        ({"scales": [37], "method": "tencrop"}, "unknown method 'tencrop'"),
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

"""Kept posteriors: computed once, never another net's or other images'."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reference import randomise
from vggnet import RunError, build, save
from vggnet.cache import PosteriorCache
from vggnet.evaluate import measure
from vggnet.parts import Part
from vggnet.protocols import Protocol, Term


@pytest.fixture
def part() -> Part:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(6)]
    return Part(images, np.arange(6))


def written(folder: Path, seed: int = 0) -> Path:
    path = folder / "w.safetensors"
    save(randomise(build("A", num_classes=6, crop=32, width=0.0625), seed), path)
    return path


TERMS = Protocol("A", None, (32, 37), "multi-crop+dense").terms


def count(monkeypatch: pytest.MonkeyPatch) -> list[set[Term]]:
    calls: list[set[Term]] = []

    def counting(models, images, wanted, **options):  # type: ignore[no-untyped-def]
        calls.append(set().union(*wanted))
        return measure(models, images, wanted, **options)

    monkeypatch.setattr("vggnet.cache.measure", counting)
    return calls


def test_what_is_kept_is_not_computed_again(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch)
    weights = written(tmp_path)
    (first,) = PosteriorCache(tmp_path / "kept").measure([weights], part, [TERMS[:2]])
    (second,) = PosteriorCache(tmp_path / "kept").measure([weights], part, [TERMS])
    (third,) = PosteriorCache(tmp_path / "kept").measure([weights], part, [TERMS])
    assert calls == [set(TERMS[:2]), set(TERMS[2:])]
    for term in TERMS:
        assert np.array_equal(second[term].posteriors, third[term].posteriors)
        assert (second[term].forwards, second[term].multiply_adds) == (
            third[term].forwards,
            third[term].multiply_adds,
        )
    assert np.array_equal(first[TERMS[0]].posteriors, second[TERMS[0]].posteriors)


def test_values_are_those_of_the_net(part: Part, tmp_path: Path) -> None:
    weights = written(tmp_path)
    (found,) = PosteriorCache(tmp_path / "kept").measure([weights], part, [TERMS])
    model = randomise(build("A", num_classes=6, crop=32, width=0.0625), 0)
    (expected,) = measure([model], part.images, [TERMS])
    for term in TERMS:
        assert np.abs(found[term].posteriors - expected[term].posteriors).max() < 1e-6
        assert found[term].forwards == expected[term].forwards


def test_changed_weights_or_images_are_computed_anew(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch)
    cache = PosteriorCache(tmp_path / "kept")
    (before,) = cache.measure([written(tmp_path)], part, [TERMS])
    (after,) = cache.measure([written(tmp_path, seed=1)], part, [TERMS])
    assert len(calls) == 2
    for term in TERMS:
        assert np.abs(before[term].posteriors - after[term].posteriors).max() > 1e-3
    changed = [part.images[0].copy(), *part.images[1:]]
    changed[0][0, 0, 0] ^= 128
    cache.measure([written(tmp_path)], replace(part, images=changed), [TERMS])
    cache.measure([written(tmp_path)], replace(part, labels=part.labels[::-1].copy()), [TERMS])
    assert len(calls) == 4
    # And the first weights, come back, find theirs.
    (again,) = cache.measure([written(tmp_path)], part, [TERMS])
    assert len(calls) == 4
    assert np.array_equal(again[TERMS[0]].posteriors, before[TERMS[0]].posteriors)


def test_a_damaged_file_is_computed_anew(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch)
    weights, cache = written(tmp_path), PosteriorCache(tmp_path / "kept")
    (before,) = cache.measure([weights], part, [TERMS])
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == len(TERMS)
    files[0].write_bytes(files[0].read_bytes()[:-7])
    files[1].write_bytes(files[2].read_bytes())  # another term's posteriors under this name
    (after,) = cache.measure([weights], part, [TERMS])
    assert [len(call) for call in calls] == [4, 2]
    for term in TERMS:
        assert np.array_equal(before[term].posteriors, after[term].posteriors)


def test_a_diverged_net_leaves_nothing(part: Part, tmp_path: Path) -> None:
    model = build("A", num_classes=6, crop=32, width=0.0625)
    model.get_parameter("fc8.bias").data.fill_(float("nan"))
    save(model, tmp_path / "nan.safetensors")
    with pytest.raises(RunError, match="not finite"):
        PosteriorCache(tmp_path / "kept").measure([tmp_path / "nan.safetensors"], part, [TERMS])
    assert not (tmp_path / "kept").exists()

"""Nets in files on a data set: fusion, refusals, and what is saved of every image."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from reference import randomise
from vggnet import InputError, build, load, posteriors, save
from vggnet.datasets import digits
from vggnet.evaluate import evaluate
from vggnet.parts import Dataset
from vggnet.predictions import check, confusions, evaluate_files
from vggnet.predictions import save as save_predictions
from vggnet.protocols import Fusion


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = digits()
    test = replace(whole.test, images=whole.test.images[:30], labels=whole.test.labels[:30])
    return replace(whole, test=test)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, files = tmp_path_factory.mktemp("nets"), []
    for seed, (net, S) in enumerate((("A", 37), ("B", (37, 73)))):  # noqa: N806
        model = randomise(build(net, num_classes=10, crop=32, width=0.0625, seed=seed), seed)
        save(model, folder / net, class_names=list("0123456789"), S=S)
        files.append(folder / net)
    return files


def test_fusion_is_the_mean_of_the_nets(data: Dataset, nets: list[Path]) -> None:
    result, found, seconds = evaluate_files(nets, data, scales=[37, 40], method="multi-crop+dense")
    each = [
        posteriors(load(path), data.test.images, scales=[37, 40], method="multi-crop+dense")
        for path in nets
    ]
    assert np.abs(found - (each[0] + each[1]) / 2).max() < 1e-12
    assert np.abs(each[0] - each[1]).max() > 1e-3
    assert isinstance(result.protocol, Fusion)
    assert [(p.net, p.S) for p in result.protocol.members] == [("A", 37), ("B", (37, 73))]
    assert result.forwards_per_image == 2 * 2 * 2 * (1 + 25)
    assert result.top1 == pytest.approx(100 * (found.argmax(axis=1) != data.test.labels).mean())
    assert seconds is not None
    assert seconds > 0


def test_a_net_fused_with_itself_is_itself(data: Dataset, nets: list[Path]) -> None:
    one, found, _ = evaluate_files(nets[:1], data, scales=[40])
    two, fused, _ = evaluate_files([nets[0]] * 2, data, scales=[40])
    assert np.array_equal(found, fused)
    assert (one.top1, one.top5) == (two.top1, two.top5)


def test_each_net_has_its_own_scale_by_default(data: Dataset, nets: list[Path]) -> None:
    result, found, _ = evaluate_files(nets, data, flips=False)
    assert [p.Q for p in getattr(result.protocol, "members", [])] == [(37,), (55,)]
    each = [
        posteriors(load(path), data.test.images, scales=[scale], flips=False)
        for path, scale in zip(nets, (37, 55), strict=True)
    ]
    assert np.abs(found - np.mean(each, axis=0)).max() < 1e-12


def test_one_net_is_what_evaluate_says(data: Dataset, nets: list[Path]) -> None:
    result, _, _ = evaluate_files(nets[:1], data, scales=[37], method="ten-crop")
    assert result == evaluate(load(nets[0]), data.test, scales=[37], method="ten-crop")


def test_a_cache_gives_the_same_without_computing(
    data: Dataset, nets: list[Path], tmp_path: Path
) -> None:
    first, found, seconds = evaluate_files(nets, data, scales=[37], cache=tmp_path)
    again, kept, none = evaluate_files(nets, data, scales=[37], cache=tmp_path)
    assert first == again
    assert np.array_equal(found, kept)
    assert seconds is not None
    assert none is None


def test_wrong_files(data: Dataset, nets: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(build("A", num_classes=7, crop=32, width=0.0625), other)
    with pytest.raises(InputError, match=r"other: 7 classes; digits has 10"):
        evaluate_files([nets[0], other], data, scales=[37])
    save(build("A", num_classes=10, crop=32, width=0.0625), other)
    with pytest.raises(InputError, match=r"other: does not say its S: give --scales"):
        evaluate_files([other], data)
    save(load(other), other, class_names=list("abcdefghij"))
    with pytest.raises(InputError, match=r"its classes, .*, are not those of digits, 0, 1, 2, …"):
        evaluate_files([other], data, scales=[37])
    with pytest.raises(InputError, match="no such file"):
        evaluate_files([tmp_path / "none"], data)
    with pytest.raises(InputError, match="test scale 31"):
        evaluate_files(nets, data, scales=[31])


def test_npz(data: Dataset, nets: list[Path], tmp_path: Path) -> None:
    result, found, _ = evaluate_files(nets[:1], data, scales=[37])
    path = tmp_path / "p.npz"
    save_predictions(path, found, data, result.protocol)
    with np.load(path, allow_pickle=False) as kept:
        assert np.abs(kept["posteriors"] - found).max() < 1e-6
        assert (kept["predicted"] == found.argmax(axis=1)).all()
        assert (kept["label"] == data.test.labels).all()
        assert kept["name"].tolist() == [str(i) for i in range(30)]
        assert kept["class_names"].tolist() == list("0123456789")
        assert str(kept["protocol"]) == str(result.protocol)


def test_parquet(data: Dataset, nets: list[Path], tmp_path: Path) -> None:
    result, found, _ = evaluate_files(nets[:1], data, scales=[37])
    path = tmp_path / "p.parquet"
    save_predictions(path, found, data, result.protocol)
    table = parquet.read_table(path)
    assert table.column("label").to_pylist() == [str(label) for label in data.test.labels]
    assert table.column("predicted").to_pylist() == [str(k) for k in found.argmax(axis=1)]
    assert (
        table.column("correct").to_pylist() == (found.argmax(axis=1) == data.test.labels).tolist()
    )
    assert np.abs(np.array(table.column("posteriors").to_pylist()) - found).max() < 1e-6
    assert table.schema.metadata[b"protocol"].decode() == str(result.protocol)


def test_wrong_names_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"x\.csv: give a name that ends in \.npz or \.parquet"):
        check(tmp_path / "x.csv")
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check(tmp_path / "d.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'vggnet\[parquet\]'"):
        check(tmp_path / "x.parquet")


def test_confusions_in_words(data: Dataset) -> None:
    right = np.eye(10)[data.test.labels]
    assert confusions(right, data) == ""
    wrong = right.copy()
    first, second = np.flatnonzero(data.test.labels == 3)[:2]
    wrong[first] = wrong[second] = np.eye(10)[8]
    assert confusions(wrong, data) == "most confused:\n  3 taken for 8: 2"

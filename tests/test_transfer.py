"""`vggnet transfer`: splits, the choice of C, VOC's layout, and what it prints and keeps."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.svm import LinearSVC

import vggnet
from photos import photo, write_photos
from vggnet import InputError, svm, transfer
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.descriptors import Recipe
from vggnet.precision import average_precision
from vggnet.splits import DRAWS, Splits, drawn, one_of
from vggnet.tasks import task_of
from vggnet.voc import read_voc


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return saved(tmp_path / "d.safetensors")


def saved(path: Path, net: str = "D", crop: int = 32) -> Path:
    vggnet.save(vggnet.build(net, num_classes=10, crop=crop, width=0.0625), path)
    return path


def classes(root: Path, count: int = 12) -> Path:
    """A folder of three classes that differ in colour."""
    rng = np.random.default_rng(0)
    for k, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200))):
        (root / f"class{k}").mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(-30, 30, (34, 36 + i % 3, 3))
            pixels = (noise + colour).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class{k}" / f"{i:02}.png")
    return root


def voc(root: Path) -> Path:
    """Thirty images for training and thirty for testing; the last of each is a difficult cat."""
    rng = np.random.default_rng(0)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for part in ("trainval", "test"):
        names = [f"{part}{i:02}" for i in range(30)]
        for name in names:
            photo(rng, 40, 44).save(root / "JPEGImages" / f"{name}.jpg")
        for label, positive in {"cat": range(8), "dog": range(4, 15)}.items():
            labels = [1 if i in positive else -1 for i in range(30)]
            if label == "cat":
                labels[-1] = 0
            lines = (f"{name} {value:2}\n" for name, value in zip(names, labels, strict=True))
            (root / f"ImageSets/Main/{label}_{part}.txt").write_text("".join(lines))
    return root


# Splits.


def test_splits_are_disjoint_full_and_drawn_by_the_seed() -> None:
    labels = np.repeat(np.arange(4), [35, 90, 31, 200])
    names = ["a", "b", "c", "d"]
    seen = []
    for repetition in range(3):
        train, test = drawn(labels, None, names, DRAWS["caltech-101"], repetition)
        assert not set(train) & set(test)
        assert np.bincount(labels[train]).tolist() == [30] * 4
        assert np.bincount(labels[test]).tolist() == [5, 50, 1, 50]
        again = drawn(labels, None, names, DRAWS["caltech-101"], repetition)
        assert np.array_equal(train, again[0])
        assert np.array_equal(test, again[1])
        seen.append(tuple(train))
    other, _ = drawn(labels, None, names, Splits(30, 50, 3, seed=1), 0)
    assert len({*seen, tuple(other)}) == 4
    train, test = drawn(labels, None, names, Splits(20), 0)
    assert len(train) + len(test) == len(labels)  # the rest
    with pytest.raises(InputError, match="class 'a' has 35 images: 60 are to be learnt from"):
        drawn(labels, None, names, DRAWS["caltech-256"], 0)


def test_a_data_sets_own_split_is_as_it_is_or_drawn_from() -> None:
    whole = task_of("digits", None, None)
    data = digits()
    (split,) = whole.splits
    assert (len(split.train), len(split.test)) == (1297, 500)
    assert np.array_equal(whole.labels[split.test].argmax(1), data.test.labels)
    assert whole.used().splits[0].train.tolist() == split.train.tolist()
    some = task_of("digits", None, Splits(10, None, 2)).used()
    assert [len(part) for part in some.parts.values()][-1] == 500
    for one in some.splits:
        assert some.labels[one.train].clip(0).sum(axis=0).tolist() == [10] * 10
        assert np.array_equal(some.labels[one.test].argmax(1), data.test.labels)
    images = [image for part in some.parts.values() for image in part.images]
    assert np.array_equal(images[some.splits[0].test[3]], data.test.images[3])
    assert not whole.flip


def test_validation_images_that_are_the_test_images_are_not_learnt_from(tmp_path: Path) -> None:
    write_photos(tmp_path, {"three/train": 3, "three/val": 2, "three/test": 2})
    assert len(task_of("three", None, None).splits[0].train) == 2 * (3 + 2)
    write_photos(tmp_path, {"net/train": 3, "net/val": 2})
    for part in ("train", "val"):
        for k in range(2):
            (tmp_path / f"net/{part}/class{k}").rename(tmp_path / f"net/{part}/n0000000{k}")
    task = task_of("net", None, None)
    assert set(task.parts) == {"train", "test"}
    assert [len(x) for x in (task.splits[0].train, task.splits[0].test)] == [6, 4]


# The classifier.


def blobs(n: int, length: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    own = np.arange(n) % 3
    rows = rng.normal(0, 1, (n, length)) + np.eye(3, length)[own]
    return rows.astype(np.float32), own


@pytest.mark.parametrize("length", [5, 400])  # the primal and the dual solver
def test_the_classifier_is_scikit_learns_one_against_the_rest(length: int) -> None:
    rows, own = blobs(150, length)
    found = svm.fit(rows, one_of(own, 3), 0.5)
    theirs = LinearSVC(C=0.5, dual=length > 150, random_state=0, max_iter=20_000).fit(rows, own)
    scores = theirs.decision_function(rows)
    assert found.converged
    assert np.abs(found.scores(rows) - scores).max() < 2e-2 * np.abs(scores).max()
    assert np.array_equal(found.weights, svm.fit(rows, one_of(own, 3), 0.5).weights)


def test_difficult_images_are_not_learnt_from() -> None:
    rows, own = blobs(90, 5)
    labels = one_of(own, 3)
    labels[::7, 1] = 0
    known = labels[:, 1] != 0
    whole, without = svm.fit(rows, labels, 1.0), svm.fit(rows[known], labels[known], 1.0)
    assert np.array_equal(whole.weights[1], without.weights[1])
    assert not np.array_equal(whole.weights[0], without.weights[0])


def test_a_fifth_of_each_class_is_held_out() -> None:
    own = np.repeat([0, 1, 2], [50, 20, 3])
    kept, held = svm.hold_out(one_of(own, 3), [0, 0])
    assert np.bincount(own[held]).tolist() == [10, 4, 1]
    assert sorted([*kept, *held]) == list(range(73))
    assert not np.array_equal(held, svm.hold_out(one_of(own, 3), [0, 1])[1])
    with pytest.raises(InputError, match="single training image"):
        svm.hold_out(one_of(np.arange(3), 3), [0])


def test_not_converging_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, own = blobs(60, 200)
    monkeypatch.setattr(svm, "_ITERATIONS", 1)
    assert not svm.fit(rows, one_of(own, 3), 100.0).converged


def test_where_the_dual_solver_does_not_converge_the_primal_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, own = blobs(60, 70)
    patient = LinearSVC(C=1.0, dual=True, random_state=0, max_iter=10**6).fit(rows, own == 1)
    monkeypatch.setattr(svm, "_ITERATIONS", 60)
    short = LinearSVC(C=1.0, dual=True, random_state=0, max_iter=60)
    with pytest.warns(UserWarning, match="converge"):
        short.fit(rows, own == 1)
    found = svm.fit(rows, one_of(own, 3), 1.0)
    assert found.converged
    scores = patient.decision_function(rows)
    assert np.abs(found.scores(rows)[:, 1] - scores).max() < 1e-2 * np.abs(scores).max()


def test_c_is_chosen_by_training_images_alone(weights: Path, tmp_path: Path) -> None:
    """Another order of the test images' labels, and even their absence, changes no choice."""
    task = task_of(str(classes(tmp_path / "images")), None, Splits(6))
    recipe = Recipe((32,))
    first = transfer.transfer([weights], task, recipe, tmp_path / "one")
    (split,) = task.splits
    task.labels[split.test] = np.roll(task.labels[split.test], 1, axis=1)
    second = transfer.transfer([weights], task, recipe, tmp_path / "two")
    for one, other in zip(first["rows"], second["rows"], strict=True):
        for key in ("C", "held_out", "train"):
            assert one["splits"][0][key] == other["splits"][0][key]
        assert one["splits"][0]["value"] != other["splits"][0]["value"]
    assert first["rows"][-1]["value"] == 100  # the colours tell the classes


# The command.


def read(out: Path) -> Any:
    return json.loads((out / "transfer.json").read_text())


def test_two_nets_alone_and_stacked(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = saved(tmp_path / "e.safetensors", "E")
    images = str(classes(tmp_path / "images"))
    more = ["--train-per-class", "5", "--splits", "2", "--scales", "32,36", "--C", "1,10,100"]
    for out, nets in {"both": [weights, other], "d": [weights], "e": [other]}.items():
        assert main(["transfer", *map(str, nets), images, "--out", out, *more]) == 0
    text = capsys.readouterr().out
    assert "images, 3 classes: 15 training and 21 test images, drawn 2 times by seed 0" in text
    rows = read(tmp_path / "both")["rows"]
    assert [row["name"] for row in rows] == ["D", "E", "D & E", "raw pixels"]
    assert [row["length"] for row in rows] == [512, 512, 1024, 3072]
    for name, row in {"d": rows[0], "e": rows[1]}.items():
        alone = read(tmp_path / name)["rows"]
        assert alone[0]["value"] == pytest.approx(row["value"])
        assert alone[1] == rows[3]
    for row in rows:
        values = [split["value"] for split in row["splits"]]
        assert row["value"] == pytest.approx(np.mean(values))
        assert row["sd"] == pytest.approx(np.std(values, ddof=1))
        assert f"{row['value']:.1f}±{row['sd']:.1f}" in text
    line = next(line for line in text.splitlines() if line.startswith("D & E "))
    assert line.split()[-4:] == ["89.7", "89.3", "92.7±0.5", "86.2±0.3"]


def test_a_stopped_run_goes_on_to_the_same_end(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["transfer", str(weights), "digits", "--train-per-class", "4", "--test-per-class"]
    command += ["5", "--splits", "2", "--scales", "32"]
    assert main([*command, "--out", "whole"]) == 0
    learnt, calls = transfer._Fitted._learnt, []

    def stopping(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learnt(*args)

    monkeypatch.setattr(transfer._Fitted, "_learnt", stopping)
    assert main([*command, "--out", "stopped"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "stopped/transfer.json").exists()
    assert main([*command, "--out", "stopped"]) == 0
    assert len(calls) == 3 + 2  # two were kept
    both = [(tmp_path / out / "transfer.json").read_bytes() for out in ("whole", "stopped")]
    assert both[0] == both[1]


def test_raw_pixels(tmp_path: Path) -> None:
    grey = task_of("digits", None, Splits(2, 2)).used()
    rows = transfer.raw_pixels(grey)
    assert rows.shape == (40, 32 * 32)
    image = next(iter(grey.parts.values())).images[0]
    tiny = np.asarray(Image.fromarray(image[:, :, 0]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.allclose(rows[0], tiny.ravel() / np.linalg.norm(tiny.astype(float)), atol=1e-6)
    Image.new("RGB", (80, 40)).save(classes(tmp_path / "images") / "class0/black.png")
    colour = transfer.raw_pixels(task_of(str(tmp_path / "images"), None, Splits(2)))
    assert colour.shape == (37, 3 * 32 * 32)
    lengths = np.linalg.norm(colour, axis=1)
    assert sorted(lengths)[0] == 0
    assert np.allclose(sorted(lengths)[1:], 1)


def test_images_that_cannot_be_read_are_left_out(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = classes(tmp_path / "images", 4)
    (root / "class1/00.png").write_bytes(b"no image")
    command = ["transfer", str(weights), str(root), "--train-per-class", "3", "--out", "out"]
    assert main([*command, "--scales", "32"]) == 0
    assert "left out: 1 of 12 images cannot be read" in capsys.readouterr().out
    found = read(tmp_path / "out")
    (split,) = found["rows"][0]["splits"]
    assert (found["data"]["unread"], split["train"] + split["test"]) == (1, 11)


# VOC.


def test_voc(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = read_voc(voc(tmp_path / "VOC2007"))
    assert (task.class_names, task.rule) == (("cat", "dog"), "11-point")
    (split,) = task.splits
    assert task.labels[split.test].sum(axis=0).tolist() == [8 - 21, 11 - 19]
    assert (task.labels == 0).sum(axis=0).tolist() == [2, 0]
    assert main(["transfer", str(weights), "VOC2007", "--out", "out"]) == 0
    text = capsys.readouterr().out
    assert "mAP, 11-point" in text
    assert "mAP, area" in text
    found = read(tmp_path / "out")
    assert found["descriptors"]["scales"] == [37, 55, 73, 91, 110]
    assert found["descriptors"]["over_scales"] == "average"
    # Once more, from the descriptors in the folder.
    train, test = (np.load(tmp_path / "out" / f"{part}.npy") for part in ("trainval", "test"))
    fit = found["rows"][0]["splits"][0]
    scores = svm.fit(train, task.labels[split.train], fit["C"]).scores(test)
    for rule, value in {"11-point": fit["value"], "area": fit["area"]}.items():
        each = [
            average_precision(scores[:, k], task.labels[split.test, k], rule)  # type: ignore[arg-type]
            for k in range(2)
        ]
        assert value == pytest.approx(100 * np.mean(each))
    low, high = fit["interval"]
    assert low <= fit["value"] <= high


def test_voc_without_test_lists(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012")
    for path in (root / "ImageSets/Main").glob("*.txt"):
        path.rename(path.with_name(path.name.replace("trainval", "train").replace("_test", "_val")))
    task = read_voc(root)
    assert (set(task.parts), task.rule) == ({"train", "val"}, "area")


def test_mistakes_in_voc(tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2007")
    path = root / "ImageSets/Main/dog_test.txt"
    text = path.read_text()
    for wrong, message in {
        text.replace("test00 -1\n", ""): "the image test00 is in one of this and cat_test.txt",
        text + "test00 -1\n": "line 31: test00 is there twice",
        text.replace("test00 -1", "test00 2"): "line 1: 'test00 2' is no image with a label",
        text + "test30\n": "line 31: 'test30' is no image with a label",
    }.items():
        path.write_text(wrong)
        with pytest.raises(InputError, match=message):
            read_voc(root)
    path.write_text("".join(f"test{i:02} -1\n" for i in range(30)))
    with pytest.raises(InputError, match="no image with label 1"):
        read_voc(root)
    path.write_text(text)
    (root / "JPEGImages/test07.jpg").unlink()
    with pytest.raises(InputError, match=r"test07.jpg: is not there \(1 of the 30 images of test"):
        read_voc(root)
    path.unlink()
    with pytest.raises(InputError, match=r"dog has not both of _trainval.txt and _test.txt"):
        read_voc(root)
    with pytest.raises(InputError, match="VOCdevkit/VOC2007"):
        task_of(str(tmp_path), "voc", None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "has no train/: say how many"),
        (["--protocol", "caltech-101"], "class 'class0' has 12 images: 30 are to be learnt"),
        (["--protocol", "caltech"], "protocol 'caltech' is not known: take own, voc, caltech-101"),
        (["--train-per-class", "0"], "train per class 0 is not 1 or more"),
        (["--train-per-class", "5", "--seed", "-1"], "seed -1"),
        (["--splits", "3"], "3 splits of all training images would be the same"),
        (["--train-per-class", "5", "--C", "1,x"], "C '1,x': give numbers above 0"),
        (["--train-per-class", "5", "--C", "0"], "C 0.0: give numbers above 0"),
        (["--train-per-class", "5", "--layer", "conv9"], "no layer 'conv9'"),
        (["--train-per-class", "5", "--scales", "31"], "test scale 31 is smaller"),
        (["--train-per-class", "5", "--over-scales", "sum"], "over scales 'sum'"),
        (["--train-per-class", "1"], "single training image"),
    ],
)
def test_mistakes(
    weights: Path, tmp_path: Path, more: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["transfer", str(weights), str(classes(tmp_path / "images")), "--out", "out", *more]
    assert main(command) == 2
    found = capsys.readouterr().err
    assert message in found
    assert len(found.strip().splitlines()) == 1
    assert not (tmp_path / "out/transfer.json").exists()


def test_mistakes_with_several_nets(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = saved(tmp_path / "other.safetensors", crop=64)
    assert main(["transfer", str(weights), str(other), "digits", "--out", "out"]) == 2
    assert "nets of the crops [32, 64]" in capsys.readouterr().err
    assert main(["transfer", str(weights), "digits", "--protocol", "voc", "--out", "out"]) == 2
    assert "has no ImageSets/Main/" in capsys.readouterr().err


def test_without_scikit_learn(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    assert main(["transfer", str(weights), "digits", "--out", "out"]) == 2
    assert "pip install 'vggnet[transfer]'" in capsys.readouterr().err
    assert not Path("out").exists()

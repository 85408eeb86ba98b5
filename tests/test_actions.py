"""`vggnet transfer --protocol voc-action`: persons and their boxes, Table 12's two settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vggnet
from vggnet import InputError, paper, svm, transfer
from vggnet.actions import cut_to_boxes, read_actions
from vggnet.cli import main
from vggnet.descriptorfile import describe_files
from vggnet.descriptors import Recipe, describe
from vggnet.images import decode
from vggnet.storage import EncodedImages
from vggnet.tasks import task_of

COLOURS = {"reading": (220, 40, 40), "running": (40, 40, 220)}
LEFT, RIGHT = (3, 6, 38, 50), (45, 10, 79, 58)
"""The persons' boxes as VOC has them: from 1 on, the last pixel within."""
IMAGES = 8
SCALES = ["--scales", "32,40"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return saved(tmp_path / "d.safetensors", "D")


def saved(path: Path, net: str) -> Path:
    vggnet.save(vggnet.build(net, num_classes=10, crop=32, width=0.0625), path)
    return path


def bndbox(box: tuple[int, ...]) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<bndbox>{''.join(f'<{name}>{x}</{name}>' for name, x in corners)}</bndbox>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of a dog, a reading and a running person, the one red and the other blue, of whom
    either may be on the left: the whole image does not tell who does what."""
    root = tmp_path / "VOC2012"
    for folder in ("ImageSets/Action", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lists = root / "ImageSets/Action"
    for part in ("train", "val"):
        lines: dict[str, str] = dict.fromkeys(["", *COLOURS, "other"], "")
        for i in range(IMAGES):
            name = f"2012_{part}{i}"
            pixels = rng.integers(90, 130, (60, 80, 3), np.uint8)
            actions = list(COLOURS) if i % 2 else list(COLOURS)[::-1]
            xml = f"<object><name>dog</name>{bndbox((1, 1, 80, 60))}</object>"
            for k, (box, action) in enumerate(zip((LEFT, RIGHT), actions, strict=True), 2):
                left, top, right, bottom = box
                pixels[top - 1 : bottom, left - 1 : right] = COLOURS[action]
                hand = f"<part><name>hand</name>{bndbox((1, 1, 4, 4))}</part>"
                xml += f"<object><name>person</name>{hand}{bndbox(box)}</object>"
                lines[""] += f"{name}  {k}\n"
                for one in COLOURS:
                    lines[one] += f"{name}  {k} {1 if one == action else -1:2}\n"
                lines["other"] += f"{name}  {k} -1\n"
            Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=95)
            (root / f"Annotations/{name}.xml").write_text(f"<annotation>{xml}</annotation>")
        for one, text in lines.items():
            (lists / f"{one}{'_' if one else ''}{part}.txt").write_text(text)
    return root


def read(out: str) -> Any:
    return json.loads(Path(out, "transfer.json").read_text())


def test_persons_and_their_boxes(root: Path) -> None:
    task = read_actions(root)
    assert (task.class_names, task.rule, task.kind) == (tuple(COLOURS), "area", "voc-action")
    assert [len(part) for part in task.parts.values()] == [2 * IMAGES] * 2
    assert task.images is not None
    assert task.images.tolist() == np.repeat(np.arange(2 * IMAGES), 2).tolist()
    assert task.labels[:4].tolist() == [[-1, 1], [1, -1], [1, -1], [-1, 1]]
    train = task.parts["train"]
    assert train.name(1) == "JPEGImages/2012_train0.jpg#3"
    assert train.boxes is not None
    assert train.boxes[1].tolist() == [[44, 9, 79, 58]]
    cut = cut_to_boxes(task).parts["train-box"]
    assert isinstance(cut.images, EncodedImages)  # not all in memory
    whole = decode(root / "JPEGImages/2012_train0.jpg")
    assert np.array_equal(cut.images[1], whole[9:58, 44:79])
    assert np.array_equal(cut.subset(np.array([3, 1])).images[1], whole[9:58, 44:79])
    assert cut.name(1) == "JPEGImages/2012_train0.jpg#3 44,9,79,58"
    assert cut.images.open(1).shape == (49, 35)
    assert len({size for _, size, _ in cut.images.stamps()}) > 1


def test_the_default_is_the_images_task(root: Path) -> None:
    assert task_of(str(root), None, None).kind == "voc-action"
    (root / "ImageSets/Main").mkdir()
    for path in (root / "ImageSets/Action").glob("r*.txt"):
        lines = [line.split() for line in path.read_text().splitlines()[::2]]
        text = "".join(f"{image} {label}\n" for image, _, label in lines)
        (root / "ImageSets/Main" / path.name).write_text(text)
    assert task_of(str(root), None, None).kind == "voc"
    assert task_of(str(root), "voc-action", None).kind == "voc-action"


def test_only_the_box_tells(root: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = saved(Path("e.safetensors"), "E")
    command = ["transfer", str(weights), str(other), str(root), "--protocol", "voc-action"]
    assert main([*command, *SCALES, "--workers", "0", "--out", "out"]) == 0
    text = capsys.readouterr().out
    assert "VOC2012, 2 classes: 16 training and 16 test persons" in text
    found = read("out")
    assert found["descriptors"]["over_scales"] == "average"
    rows = found["rows"]
    names = [f"{one}, {s}" for one in ("D", "E", "D & E", "raw pixels") for s in paper.TABLE_12]
    assert [row["name"] for row in rows] == names
    assert [row["length"] for row in rows] == [256, 512, 256, 512, 512, 1024, 3072, 6144]
    for image, both in zip(rows[::2], rows[1::2], strict=True):
        assert (image["setting"], both["setting"]) == ("image", "image and box")
        assert image["value"] < 75 < 99 < both["value"]
        # With an image both its persons are drawn, and it says the same of both.
        assert image["splits"][0]["interval"] == pytest.approx([50, 50])
    ends = {
        line.split("  ")[0]: line.split()[-1] for line in text.splitlines() if ", image" in line
    }
    assert [ends[name] for name in names] == ["79.2", "84.0"] * 3 + ["–"] * 2


def test_image_and_box_against_a_literal_computation(root: Path, weights: Path) -> None:
    task, recipe = read_actions(root), Recipe((32, 40))
    found = transfer.transfer([weights], task, recipe, Path("out"))
    persons = [(f"2012_train{i}", box) for i in range(IMAGES) for box in (LEFT, RIGHT)]
    images = []
    for name, (left, top, right, bottom) in persons:
        with Image.open(root / f"JPEGImages/{name}.jpg") as image:
            images += [image.convert("RGB"), image.crop((left - 1, top - 1, right, bottom))]
    described = describe([vggnet.load(weights)], [np.asarray(x) for x in images], recipe)
    own = np.stack([row for row in described if not isinstance(row, InputError)]).reshape(
        len(persons), 2, -1
    )
    for suffix, k in (("", 0), ("-box", 1)):
        assert np.allclose(np.load(f"out/train{suffix}.npy"), own[:, k], atol=1e-5)
    both = {
        name: np.concatenate([np.load(f"out/{part}{name}.npy") for part in task.parts])
        for name in ("", "-box")
    }
    stacked = [
        rows
        for name, _, _, rows in transfer._settings(
            [("D", ["D"], both[""])], [("D", ["D"], both["-box"])]
        )
        if name == "D, image and box"
    ]
    literal = own.reshape(len(persons), -1) / np.sqrt(2)
    assert np.allclose(stacked[0][: len(persons)], literal, atol=1e-5)
    assert np.allclose(np.linalg.norm(literal, axis=1), 1)
    # What was learnt is what these rows give.
    fit = found["rows"][1]["splits"][0]
    (split,) = task.splits
    classifier = svm.fit(stacked[0][split.train], task.labels[split.train], fit["C"])
    scores = classifier.scores(stacked[0][split.test])
    assert 100 * mean_precision(scores, task.labels[split.test]) == pytest.approx(fit["value"])


def mean_precision(scores: NDArray[np.float64], labels: NDArray[np.int8]) -> float:
    """For scores without ties: the mean precision at each positive, the best that follows."""
    each = []
    for own, label in zip(scores.T, labels.T, strict=True):
        right = label[np.argsort(-own)] > 0
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        each.append(best[right].mean())
    return float(np.mean(each))


def test_a_stopped_run_goes_on_to_the_same_end(
    root: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["transfer", str(weights), str(root), "--protocol", "voc-action", *SCALES]
    command += ["--workers", "0", "--C", "1,10", "--out"]
    assert main([*command, "whole"]) == 0
    described = describe_files
    calls: list[str] = []

    def stopping(*args: Any, **options: Any) -> Any:
        calls.append(args[3].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return described(*args, **options)

    monkeypatch.setattr(transfer, "describe_files", stopping)
    assert main([*command, "stopped"]) == 130
    assert main([*command, "stopped"]) == 0
    assert calls[:3] == ["train.npy", "val.npy", "train-box.npy"]
    both = [Path(out, "transfer.json").read_bytes() for out in ("whole", "stopped")]
    assert both[0] == both[1]


def test_another_box_is_another_descriptor(
    root: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer", str(weights), str(root), "--protocol", "voc-action", "--out", "out"]
    command += [*SCALES, "--workers", "0", "--C", "1"]
    assert main(command) == 0
    path = root / "Annotations/2012_train0.xml"
    path.write_text(path.read_text().replace("<xmax>79<", "<xmax>70<"))
    capsys.readouterr()
    assert main(command) == 2
    assert "train-box.npy: was begun with other images" in capsys.readouterr().err


def test_a_box_that_reaches_out_is_cut_and_one_outside_is_left_out(
    root: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "Annotations/2012_train0.xml"
    text = path.read_text()
    path.write_text(text.replace("<xmax>79<", "<xmax>90.4<").replace("<ymin>10<", "<ymin>10.5<"))
    cut = cut_to_boxes(read_actions(root)).parts["train-box"].images
    assert np.array_equal(cut[1], decode(root / "JPEGImages/2012_train0.jpg")[9:58, 44:])
    path.write_text(text.replace("<xmin>45<", "<xmin>85<").replace("<xmax>79<", "<xmax>99<"))
    command = ["transfer", str(weights), str(root), "--protocol", "voc-action", "--out", "out"]
    assert main([*command, *SCALES, "--workers", "0", "--C", "1"]) == 0
    assert "left out: 1 of 32 persons cannot be read" in capsys.readouterr().out
    for row in read("out")["rows"]:
        assert (row["splits"][0]["train"], row["splits"][0]["test"]) == (15, 16)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Annotations/2012_val1.xml", None, "", "2012_val1.xml: is not there: unpack the annot"),
        ("JPEGImages/2012_val1.jpg", None, "", "(1 of the 8 images of val are not)"),
        ("Annotations/2012_val1.xml", "</annotation>", "", "2012_val1.xml: is no annotation"),
        ("Annotations/2012_val1.xml", "<xmax>79<", "<xmax>x<", "is no annotation as VOC's"),
        ("Annotations/2012_val1.xml", "<xmax>79<", "<xmax>45<", "(45, 10) to (45, 58), which has"),
        ("Annotations/2012_val1.xml", "<xmax>79<", "<xmax>nan<", "to (nan, 58), which has no area"),
        ("ImageSets/Action/{}_val.txt", "val1  3", "val1  4", "has 3 objects, and the lists name"),
        ("ImageSets/Action/{}_val.txt", "val1  3", "val1  0", "the lists name object 0"),
        ("ImageSets/Action/{}_val.txt", "val1  3", "val1  x", "the lists name object x"),
        ("ImageSets/Action/reading_val.txt", "val1  3", "val1", "is no image and object with a"),
        ("ImageSets/Action/running_val.txt", "val1  3", "val1  1", "the object 2012_val1"),
        ("ImageSets/Action/{}_val.txt", "2012_val1", "2012_train1", "is in train and in val"),
    ],
)
def test_mistakes(
    root: Path, weights: Path, file: str, old: str | None, new: str, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in {file.format(action) for action in COLOURS}:
        path = root / name
        if old is None:
            path.unlink()
        else:
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
    command = ["transfer", str(weights), str(root), "--protocol", "voc-action", "--out", "out"]
    assert main(command) == 2
    found = capsys.readouterr().err
    assert message in found
    assert len(found.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_without_lists(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transfer", str(weights), str(tmp_path), "--protocol", "voc-action", "--out", "out"]
    assert main(command) == 2
    assert "has no ImageSets/Action/: give the folder of one year" in capsys.readouterr().err

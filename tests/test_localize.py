"""Appendix A: boxes and their errors against literal forwards, and the two commands."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vggnet
from photos import photo, write_annotated, write_photos
from vggnet import InputError, checkpoint
from vggnet.annotations import with_boxes
from vggnet.boxes import merged
from vggnet.cli import main
from vggnet.configs import Boxes, Config
from vggnet.datasets import open_dataset
from vggnet.images import rescale
from vggnet.localize import Guess, Localiser, Windows, known_class_boxes, localise
from vggnet.located import Located, of_dense, of_known_class
from vggnet.model import VGG, Provenance
from vggnet.parts import Dataset, Part
from vggnet.recipes import localiser
from vggnet.train import train

K, CROP = 3, 32


def net(boxes: Boxes | None, seed: int = 0, **provenance: Any) -> VGG:
    """With random weights; those of boxes large enough to tell windows apart."""
    config = Config("A", K, crop=CROP, width=0.0625, boxes=boxes)
    model = VGG(config)
    vggnet.initialize.initialize_(model, "he", torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.fc8.weight *= 0.02  # type: ignore[operator, union-attr]
        if boxes:
            model.fc8.bias += torch.tensor([0.1, -0.1, 0.5, 0.7]).repeat(config.outputs // 4)  # type: ignore[operator, union-attr]
    model.provenance = Provenance(**provenance)
    return model.eval()


def images(n: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(photo(rng, *rng.integers(40, 90, 2).tolist())) for _ in range(n)]


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double()


@pytest.mark.parametrize("boxes", ["scr", "pcr"])
def test_known_classes_boxes_are_those_of_centre_crops(boxes: Boxes) -> None:
    model, labels = net(boxes), np.array([0, 2, 1, 2, 0])
    exact = net(boxes).double()
    found = known_class_boxes(model, images(), labels, 40)
    for image, label, box in zip(images(), labels, found, strict=True):
        scaled = rescale(image, 40)
        top, left = (round((side - CROP) / 2) for side in scaled.shape[:2])
        view = tensor(scaled[top : top + CROP, left : left + CROP])
        numbers = exact.activations(view, ["fc8"])["fc8"][0, :, 0, 0]
        x, y, w, h = (numbers[4 * label :][:4] if boxes == "pcr" else numbers).tolist()
        across, down = (image.shape[i] / scaled.shape[i] for i in (1, 0))
        centre_x, centre_y = left + (x + 0.5) * CROP, top + (y + 0.5) * CROP
        expected = np.array(
            [
                (centre_x - w * CROP / 2) * across,
                (centre_y - h * CROP / 2) * down,
                (centre_x + w * CROP / 2) * across,
                (centre_y + h * CROP / 2) * down,
            ]
        ).clip(0, [image.shape[1], image.shape[0]] * 2)
        assert not isinstance(box, InputError)
        np.testing.assert_allclose(box, expected, atol=1e-3)


def crop_map(model: VGG, view: Tensor) -> Tensor:
    """What a net says of each of the map's windows alone."""
    rows, columns = (side // 32 for side in view.shape[2:])
    return torch.stack(
        [
            torch.stack(
                [
                    model.score_map(view[:, :, 32 * i : 32 * i + CROP, 32 * j : 32 * j + CROP])
                    for j in range(columns)
                ],
                dim=-1,
            )
            for i in range(rows)
        ],
        dim=-2,
    )[:, :, 0, 0]


def literally(
    members: list[Localiser],
    image: np.ndarray,
    guesses: int,
    merge: float,
    flips: bool,
    windows_as: Windows,
) -> list[Guess]:
    """Protocol 2, window by window, in float64."""
    of = crop_map if windows_as == "crops" else VGG.score_map
    posterior, terms, windows = torch.zeros(K).double(), 0, []
    for member in members:
        boxes, classifier = (deepcopy(one).double() for one in (member.boxes, member.classifier))
        for Q in member.scales:  # noqa: N806
            scaled = rescale(image, Q)
            terms += 1
            maps = [of(classifier, tensor(scaled))[0]]
            if flips:
                maps.append(of(classifier, tensor(scaled[:, ::-1]))[0])
            posterior += torch.stack([m.mean((1, 2)).softmax(0) for m in maps]).mean(0)
            outputs = of(boxes, tensor(scaled))[0]
            for i in range(outputs.shape[1]):
                for j in range(outputs.shape[2]):
                    windows.append(
                        (scaled.shape, 32 * i, 32 * j, outputs[:, i, j], maps[0][:, i, j])
                    )
    posterior /= terms
    found = []
    for label in posterior.argsort(descending=True)[:guesses].tolist():
        own, ratings = [], []
        for shape, top, left, outputs, scores in windows:
            x, y, w, h = (outputs if len(outputs) == 4 else outputs[4 * label :][:4]).tolist()
            across, down = image.shape[1] / shape[1], image.shape[0] / shape[0]
            middle = left + CROP * (x + 0.5), top + CROP * (y + 0.5)
            sides = [middle[0] - CROP * w / 2, middle[1] - CROP * h / 2]
            sides += [middle[0] + CROP * w / 2, middle[1] + CROP * h / 2]
            own.append(
                [
                    min(max(side * (down if k % 2 else across), 0), image.shape[0 if k % 2 else 1])
                    for k, side in enumerate(sides)
                ]
            )
            ratings.append(scores.softmax(0)[label].item())
        # The merging itself has its test in test_boxes.py.
        few, rated, left_over = merged(
            torch.tensor([own]).double(), torch.tensor([ratings]).double(), merge
        )
        best = int(rated.masked_fill(~left_over, -1).argmax())
        x0, y0, x1, y1 = few[0, best].tolist()
        found.append(Guess(label, posterior[label].item(), (x0, y0, x1, y1), float(rated[0, best])))
    return found


@pytest.mark.parametrize("boxes", ["scr", "pcr"])
@pytest.mark.parametrize(("flips", "windows"), [(True, "dense"), (False, "dense"), (True, "crops")])
def test_boxes_of_windows_are_the_literal_ones(boxes: Boxes, flips: bool, windows: Windows) -> None:
    """Two nets, at two scales and one; images of several sizes, of which some go together."""
    members = [
        Localiser(net(boxes, 0), net(None, 1), (40, 70)),
        Localiser(net("pcr", 2), net(None, 3), (64,)),
    ]
    several = [*images(), images()[0][::-1].copy()]
    found = list(localise(members, several, guesses=2, windows=windows, merge=0.6, flips=flips))
    for image, guesses in zip(several, found, strict=True):
        assert not isinstance(guesses, InputError)
        expected = literally(members, image, 2, 0.6, flips, windows)
        assert [guess.label for guess in guesses] == [guess.label for guess in expected]
        for guess, other in zip(guesses, expected, strict=True):
            assert guess.posterior == pytest.approx(other.posterior, abs=1e-5)
            assert guess.rating == pytest.approx(other.rating, abs=1e-4)
            np.testing.assert_allclose(guess.box, other.box, atol=0.01)


def test_a_known_class_is_the_one_guess() -> None:
    members = [Localiser(net("pcr"), net(None, 1), (40, 70))]
    all_of_them = list(localise(members, images(), guesses=K))
    labels = np.array([2, 1, 0, 0, 1])
    for of_image, label, guesses in zip(
        all_of_them, labels, localise(members, images(), labels=labels), strict=True
    ):
        assert not isinstance(of_image, InputError)
        assert guesses == [guess for guess in of_image if guess.label == label]


def test_errors_are_counted() -> None:
    """A net whose box is the middle half of its window, whatever it sees."""
    model = net("scr")
    with torch.no_grad():
        model.fc8.weight.zero_()  # type: ignore[operator, union-attr]
        model.fc8.bias.copy_(torch.tensor([0, 0, 0.5, 0.5]))  # type: ignore[operator, union-attr]
    pictures = [np.zeros((CROP, CROP, 3), np.uint8)] * 4
    right = [8.0, 8, 24, 24]
    truths = [
        np.array([right]),
        np.array([[0.0, 0, 8, 8]]),
        np.array([[0.0, 0, 8, 8], right]),  # one of two instances
        np.array([[8.0, 8, 24, 16]]),  # an IoU of exactly 1/2
    ]
    labels = np.array([0, 0, 1, 1])
    part = Part(pictures, labels, boxes=truths)
    found = of_known_class(model, part, CROP)
    assert found.wrong[:, 0].tolist() == [0, 1, 0, 1]
    assert (found.n, found.top1, found.top5) == (4, 50, None)
    assert found.top1_interval == vggnet.scoring.wilson(2, 4)
    # A classifier that finds class 1 likeliest: of one guess class 0 is wrong, of all it is not.
    classifier = net(None)
    with torch.no_grad():
        classifier.fc8.weight.zero_()  # type: ignore[operator, union-attr]
        classifier.fc8.bias.copy_(torch.tensor([1.0, 2, 0]))  # type: ignore[operator, union-attr]
    found = of_dense([Localiser(model, classifier, (CROP,))], part)
    assert found.wrong.tolist() == [[1, 0], [1, 1], [0, 0], [1, 1]]
    assert (found.top1, found.top5) == (75, 50)
    known = of_dense([Localiser(model, classifier, (CROP,))], part, known=True)
    assert known.wrong[:, 0].tolist() == [0, 1, 0, 1]


def test_unread_images_are_left_out(tmp_path: Path) -> None:
    data = annotated(tmp_path)
    (tmp_path / "data" / "test" / "class1" / "001.jpg").write_bytes(b"broken")
    seen: list[int] = []
    member = Localiser(net("pcr"), net(None, 1), (40,))
    member = replace(member, boxes=two_classes("pcr"), classifier=two_classes(None))
    for workers in (0, 1):
        found = of_dense([member], data.test, workers=workers, on_bad=lambda i, _: seen.append(i))
        assert (found.n, found.unread) == (len(data.test) - 1, 1)
        assert np.isnan(found.wrong[seen[-1]]).all()
    known = of_known_class(member.boxes, data.test, 40, on_bad=lambda i, _: seen.append(i))
    assert known.unread == 1
    assert len(set(seen)) == 1
    with pytest.raises(InputError, match=r"001\.jpg"):
        of_dense([member], data.test)
    with pytest.raises(InputError, match="none that can be read"):
        Located.of(np.full((3, 1), np.nan))


def two_classes(boxes: Boxes | None) -> VGG:
    return VGG(Config("A", 2, crop=CROP, width=0.0625, boxes=boxes)).eval()


def test_what_does_not_fit_is_refused() -> None:
    pcr, classifier = net("pcr"), net(None)
    for member, why in (
        (Localiser(classifier, classifier, (40,)), "gives classes, no boxes"),
        (Localiser(pcr, pcr, (40,)), "gives boxes .pcr., no classes"),
        (Localiser(pcr, two_classes(None), (40,)), "num_classes 3, the classifier 2"),
        (Localiser(pcr, classifier, ()), "no test scales"),
        (Localiser(pcr, classifier, (16,)), "smaller than the net's crop"),
    ):
        with pytest.raises(InputError, match=why):
            next(localise([member], images()))
    member = Localiser(pcr, classifier, (40,))
    for options, why in (
        ({"merge": 0.0}, "merge 0"),
        ({"guesses": 0}, "guesses 0"),
        ({"windows": "all"}, "windows"),
    ):
        with pytest.raises(InputError, match=why):
            next(localise([member], images(), **options))
    with pytest.raises(InputError, match="no nets"):
        next(localise([], images()))
    with pytest.raises(InputError, match="give their boxes"):
        of_dense([member], Part(images(), np.zeros(5, np.int64)))
    with pytest.raises(InputError, match="no classes"):
        vggnet.posteriors(pcr, images(), scales=[40])


def annotated(root: Path) -> Dataset:
    folder, table = write_annotated(root)
    return with_boxes(open_dataset(str(folder)), table)


def test_it_learns_where_things_are(tmp_path: Path) -> None:
    """White squares on black: from a random start, most boxes are right in the end."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Part:
        pictures, boxes = [], []
        for _ in range(n):
            picture = np.zeros((48, 48, 3), np.uint8)
            side = int(rng.integers(16, 30))
            top, left = rng.integers(0, 48 - side, 2).tolist()
            picture[top : top + side, left : left + side] = 255
            pictures.append(picture)
            boxes.append(np.array([[left, top, left + side, top + side]], np.float64))
        return Part(pictures, np.arange(n) % 2, boxes=boxes)

    data = Dataset("squares", ("a", "b"), part(256), part(64), part(64), flip=True)
    model = Config("A", 2, crop=CROP, width=0.125, dropout=0.0)
    config = replace(
        localiser(model, "scr", 40, "all"), batch_size=16, epochs=14, learning_rate=0.002
    )
    start = vggnet.train.build_for(config, data, None).eval()
    assert of_known_class(start, data.test, 40).top1 > 90
    trained = checkpoint.load(train(config, data, tmp_path / "run", progress=False))
    assert (trained.config.boxes, trained.provenance.class_names) == ("scr", ("a", "b"))
    assert of_known_class(trained, data.test, 40).top1 < 45
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(records[-1])
    assert last["error"] == of_known_class(trained, data.validation, 40).top1


def xml(root: Path, name: str, boxes: list[list[int]]) -> None:
    """As ImageNet's."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>n01</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    path = root / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><folder>n01</folder>{objects}</annotation>")


def test_boxes_from_xml(tmp_path: Path) -> None:
    data = open_dataset(str(write_photos(tmp_path / "data", {"train": 4, "val": 2, "test": 2})))
    root = tmp_path / "xml"
    for part, count in (("train", 3), ("val", 2), ("test", 2)):
        for label in range(2):
            for i in range(count):
                boxes = [[1, 2, 3, 4 + label], [5, 6, 7, 8]][: 1 + (i == 0)]
                xml(root, f"CLS-LOC/{part}/class{label}/{i:03}", boxes)
    found = with_boxes(data, root)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [6, 4, 4]
    assert found.note.endswith("images without a box are left out: 2 of train")
    kept_names = [name for name in data.train.names or () if "003" not in name]
    assert list(found.train.names or ()) == kept_names
    assert found.train.boxes is not None
    assert found.train.boxes[0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert found.train.boxes[4].tolist() == [[1, 2, 3, 5]]
    assert (
        found.train.identity
        != with_boxes(data, root / "CLS-LOC").train.subset(np.arange(5)).identity
    )
    # The images and their labels stay together.
    kept = found.train.subset(np.array([4, 0]))
    assert kept.boxes is not None
    assert (kept.boxes[0].tolist(), kept.labels.tolist()) == ([[1, 2, 3, 5]], [1, 0])
    assert np.array_equal(kept.images[1], data.train.images[0])


def test_boxes_are_of_the_image_in_their_folder_alone(tmp_path: Path) -> None:
    """Files of other classes and parts that are called alike have none of theirs."""
    data = open_dataset(str(write_photos(tmp_path / "data", {"train": 2, "val": 1, "test": 1})))
    lines = [f"{part}/class0/000.jpg,1,2,3,4" for part in ("train", "val", "test")]
    table = tmp_path / "boxes.csv"
    table.write_text("\n".join(["image,xmin,ymin,xmax,ymax", *lines]))
    found = with_boxes(data, table)
    named = [list(part.names or ()) for part in (found.train, found.validation, found.test)]
    assert named == [[f"{part}/class0/000.jpg"] for part in ("train", "val", "test")]


def test_validation_images_that_are_the_test_images_too_are_one(tmp_path: Path) -> None:
    """As ImageNet's, of which Kaggle's table names no folders."""
    root = write_photos(tmp_path / "data", {"train": 1, "val": 1, "test": 1})
    for i, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.rename(path.with_name(f"n01_{i}.jpg"))
    data = open_dataset(str(root))
    data = replace(data, test=data.validation)
    table = tmp_path / "boxes.csv"
    names = {Path(name).stem for part in (data.train, data.test) for name in part.names or ()}
    lines = [f"{name},n01 1 2 3 4" for name in sorted(names)]
    table.write_text("\n".join(["ImageId,PredictionString", *lines]))
    found = with_boxes(data, table)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [2, 2, 2]


def test_boxes_of_an_objects_parts_are_not_its_own(tmp_path: Path) -> None:
    """PASCAL VOC has a person's head, hands and feet in `part`."""
    data = open_dataset(str(write_photos(tmp_path / "data", {"train": 1, "val": 1, "test": 1})))
    root = tmp_path / "xml"
    for part in ("train", "val", "test"):
        xml(root, f"{part}/class0/000", [[1, 2, 30, 40]])
        path = root / part / "class0" / "000.xml"
        head = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax>"
        head += "<ymax>8</ymax></bndbox></part></object>"
        path.write_text(path.read_text().replace("</object>", head))
    boxes = with_boxes(data, root).train.boxes
    assert boxes is not None
    assert boxes[0].tolist() == [[1, 2, 30, 40]]


def test_boxes_from_kaggles_table(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "data", {"train": 1, "val": 1, "test": 1})
    for i, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.rename(path.with_name(f"n01_{i}.JPEG"))
    table = tmp_path / "LOC.csv"
    rows = ["n01_0,n01 1 2 3 4 n01 5 6 7 8 ", "n01_2,n01 1 1 9 9", "n01_4,n01 2 2 8 8"]
    table.write_text("\n".join(["ImageId,PredictionString", *rows]))
    found = with_boxes(open_dataset(str(root)), table)
    parts = found.test, found.train, found.validation
    boxes = [part.boxes[0].tolist() for part in parts if part.boxes]
    assert boxes == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 1, 9, 9]], [[2, 2, 8, 8]]]


def test_wrong_annotations_are_named(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "data", {"train": 2, "val": 1, "test": 1})
    data = open_dataset(str(root))

    def refused(source: Path, why: str) -> None:
        with pytest.raises(InputError, match=why):
            with_boxes(data, source)

    table, folder = tmp_path / "boxes.csv", tmp_path / "xml"
    refused(table, r"boxes\.csv: there is no such file")
    folder.mkdir()
    refused(folder, r"xml: has no \.xml files")
    head = "image,xmin,ymin,xmax,ymax\n"
    for text, why in (
        ("", "has the columns none: give image, xmin"),
        ("image,left\na,1\n", "has the columns image, left: give"),
        (head + "class0/000.jpg,1,2,x,4\n", r"line 2: .*'x'.* are not the numbers of a box"),
        (head + "class0/000.jpg,1,2\n", "line 2: .* are not the numbers of a box"),
        (head + "class0/000.jpg,5,2,5,4\n", r"line 2: a box from \(5, 2\) to \(5, 4\) has no area"),
        (head + "other.jpg,1,2,3,4\n", "the first is .*000.jpg, .* names other"),
        (head + "a/000.jpg,1,2,3,4\nb/000.jpg,1,2,3,4\n", "no image has a box"),
    ):
        table.write_text(text)
        refused(table, why)
    kaggle = "ImageId,PredictionString\n"
    for text, why in (
        (head + ",1,2,3,4\n", "line 2: names no image: complete it"),
        ("xmin,ymin,xmax,ymax,image\n1,2,3,4\n", "line 2: names no image"),
        (kaggle + "class0/000\n", "line 2: names no box: complete it"),
        (kaggle + "class0/000,\n", "line 2: names no box"),
        (head + "000.jpg,1,2,3,4\n", r"train/class0/000\.jpg: 6 images are called 000: name the"),
    ):
        table.write_text(text)
        refused(table, why)
    table.write_bytes(b"\xff\xfe\x00")
    refused(table, "cannot be read as a CSV file")
    annotation = folder / "class0" / "000.xml"
    annotation.parent.mkdir()
    annotation.write_text("<annotation>")
    refused(folder, r"000\.xml: is no annotation as ImageNet's")
    annotation.write_text("<annotation/>")
    refused(folder, r"000\.xml: has no box")
    with pytest.raises(InputError, match="are for images in files"):
        with_boxes(open_dataset("digits"), table.with_suffix(".xml"))


@pytest.fixture
def classifiers(tmp_path: Path) -> list[str]:
    """Two files that say that they were trained at S = 40 and 64."""
    paths = []
    for seed, S in enumerate((40, 64)):  # noqa: N806
        path = tmp_path / f"classifier-{S}.safetensors"
        vggnet.save(vggnet.build("A", num_classes=2, crop=CROP, width=0.0625, seed=seed), path,
                    S=S, class_names=("class0", "class1"))  # fmt: skip
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("flip", [True, False])
def test_pictures_are_mirrored_as_in_training(
    flip: bool, classifiers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = vggnet.load(classifiers[0])
    net.provenance = replace(net.provenance, recipe={"flip": flip})
    vggnet.save(net, classifiers[0])
    boxes = VGG(Config("A", 2, crop=CROP, width=0.0625, boxes="pcr"))
    boxes.provenance = Provenance(S=40)
    vggnet.save(boxes, tmp_path / "boxes.safetensors")
    Image.new("RGB", (60, 50)).save(tmp_path / "picture.png")
    asked: list[dict[str, Any]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return localise(*arguments, **options)

    monkeypatch.setattr("vggnet.localize.localise", watched)
    monkeypatch.chdir(tmp_path)
    command = ["localize", "picture.png", "--boxes", "boxes.safetensors"]
    assert main([*command, "--classifier", *classifiers[:1]]) == 0
    assert [options["flips"] for options in asked] == [flip]


def test_the_commands(
    tmp_path: Path, classifiers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained and measured once, not again; the tables; a picture with its box."""
    annotated(tmp_path)
    out = tmp_path / "out"
    command = ["train-boxes", *classifiers, str(tmp_path / "data"), "--out", str(out)]
    command += ["--boxes", str(tmp_path / "boxes.csv"), "--epochs", "1", "--batch-size", "4"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Table 8: one centre crop" in printed
    assert "A/40 & A/64" in printed
    found = json.loads((out / "localisation.json").read_text())
    rows = [(row["table"], row["S"], row["Q"], row["boxes"], row["tune"]) for row in found["rows"]]
    assert rows == [
        (8, [40], [[40]], "scr", "fc"),
        (8, [40], [[40]], "pcr", "fc"),
        (8, [40], [[40]], "pcr", "all"),
        (None, [64], [[64]], "pcr", "all"),
        *[(None, [S], [[S]], "pcr", "all") for S in (40, 40, 64, 64)],
        (9, [40], [[40]], "pcr", "all"),
        (9, [64], [[64]], "pcr", "all"),
        (9, [64], [[59, 64]], "pcr", "all"),
        (9, [40, 64], [[40], [59, 64]], "pcr", "all"),
    ]
    assert [row["paper"]["error"] for row in found["rows"][:3]] == [36.4, 34.3, 33.1]
    assert [row["paper"]["val"] for row in found["rows"][8:]] == [29.5, 28.2, 27.5, 26.9]
    assert all(row["n"] == 8 for row in found["rows"])
    compared = [(one["worse"], one["better"]) for one in found["comparisons"]]
    a, b = "A/40 pcr all", "A/64 pcr all"
    assert compared == [
        (f"A/40 {w}, centre crop at 40, class known", f"A/40 {x}, centre crop at 40, class known")
        for w, x in (("scr fc", "pcr fc"), ("pcr fc", "pcr all"))
    ] + [
        (f"{x}, {one} at {S}, class known", f"{x}, {other} at {S}, class known")
        for one, other in (("centre crop", "dense"), ("dense", "windows as crops"))
        for x, S in ((a, 40), (b, 64))
    ]
    fc, classifier = (
        checkpoint.load(path).state_dict()
        for path in (out / "runs" / "A-40-pcr-fc" / "weights.safetensors", Path(classifiers[0]))
    )
    assert torch.equal(fc["conv5_2.weight"], classifier["conv5_2.weight"])
    assert not torch.equal(fc["fc6.weight"], classifier["fc6.weight"])
    assert fc["fc8.weight"].shape[0] == 8

    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert len(kept) == 12
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == kept
    assert json.loads((out / "localisation.json").read_text()) == found
    capsys.readouterr()

    picture = tmp_path / "data" / "test" / "class0" / "000.jpg"
    runs = [str(out / "runs" / f"A-{S}-pcr-all" / "weights.safetensors") for S in (40, 64)]
    drawn = tmp_path / "drawn.png"
    localize = ["localize", str(picture), "--boxes", *runs, "--classifier", *classifiers]
    assert main([*localize, "--guesses", "2", "--out", str(drawn), "--json"]) == 0
    guesses = json.loads(capsys.readouterr().out)["guesses"]
    assert {guess["class"] for guess in guesses} == {"class0", "class1"}
    members = [
        Localiser(checkpoint.load(run), checkpoint.load(path), (S,))
        for run, path, S in zip(runs, classifiers, (40, 64), strict=True)
    ]
    with Image.open(picture) as image:
        pixels = np.asarray(image)
    (expected,) = localise(members, [pixels], guesses=2)
    assert not isinstance(expected, InputError)
    assert [tuple(guess["box"]) for guess in guesses] == [guess.box for guess in expected]
    with Image.open(drawn) as image:
        assert min(image.size) % min(pixels.shape[:2]) == 0
        assert (230, 25, 75) in {colour for _, colour in image.getcolors(1 << 20) or []}


def test_mistakes_are_one_line(
    tmp_path: Path, classifiers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    vggnet.save(net("pcr", S=40), tmp_path / "boxes.safetensors")
    vggnet.save(net(None, S=(40, 80)), tmp_path / "jittered.safetensors")
    picture = tmp_path / "picture.png"
    photo(np.random.default_rng(0), 50, 60).save(picture)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    boxes, jittered = (str(tmp_path / f"{name}.safetensors") for name in ("boxes", "jittered"))
    out = ["--out", str(tmp_path / "out.png")]
    one = ["localize", str(picture), "--boxes", boxes, "--classifier", jittered]
    wrong = ["localize", str(picture), "--boxes", boxes, "--classifier"]
    for command, why in (
        (["localize", str(tmp_path / "no.png"), *one[2:]], "no such file"),
        (["localize", str(tmp_path / "broken.jpg"), *one[2:]], "not an image"),
        ([*wrong, boxes, *out], "gives boxes (pcr), no classes"),
        ([*wrong, *classifiers], "1 nets of boxes, 2 classifiers: give one each"),
        ([*wrong, classifiers[0], *out], "num_classes 3"),
        ([*one, "--out", "x.gif"], ".png or .jpg"),
        ([*one, "--scales", "a"], "scales 'a'"),
        ([*one, "--scales", "16", *out], "smaller"),
        ([*one, "--merge", "2", *out], "merge 2"),
        (["train-boxes", jittered, "digits", *out], "was trained at S from 40 to 80"),
        (["train-boxes", boxes, "digits", *out], "gives boxes"),
        (["train-boxes", *classifiers[:1] * 2, "digits", *out], "the same net and S"),
        (["train-boxes", classifiers[0], "digits", *out], "not known where the objects are"),
        (
            ["train-boxes", classifiers[0], "digits-on-photos", *out],
            "its classes, class0, class1, are not those of digits-on-photos, 0, 1, 2, …",
        ),
        (["evaluate", boxes, "digits"], "no classes"),
        (["convert", boxes, str(tmp_path / "x.pth")], "gives boxes"),
        (["predict", boxes, str(picture)], "no classes"),
        (["export", boxes, "--format", "onnx", "--out", "x.onnx"], "no classes"),
    ):
        assert main(command) == 2, command
        err = capsys.readouterr().err
        assert why in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()

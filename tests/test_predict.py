"""`vggnet predict`: answers are evaluate's; where heat maps lie; forms, mistakes, resuming."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from encoding import encoded
from photos import photo, write_photos
from vggnet import InputError
from vggnet.cli import main
from vggnet.model import VGG, Provenance
from vggnet.predict import Answer, Pictures, Predictor

CLASSES = ("cat", "dog, hound", "owl/bird")


def net(**provenance: object) -> VGG:
    model = vggnet.build("A", num_classes=3, crop=32, width=0.0625, init="he")
    model.provenance = Provenance(**{"S": 40, "class_names": CLASSES, **provenance})  # type: ignore[arg-type]
    return model


@pytest.fixture
def weights(tmp_path: Path) -> str:
    vggnet.save(net(), tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", {"a": 2, "b": 1})


@pytest.mark.parametrize("method", ["dense", "centre-crop", "multi-crop+dense"])
def test_answers_are_those_of_evaluation(method: str) -> None:
    rng = np.random.default_rng(0)
    images = [np.asarray(photo(rng, 45, 50 + i)) for i in range(70)]
    predictor = Predictor(net(), method=method, scales=[40, 50])  # type: ignore[arg-type]
    flips = method != "centre-crop"
    wanted = vggnet.posteriors(net(), images, scales=[40, 50], method=method, flips=flips)  # type: ignore[arg-type]
    assert predictor.protocol.flips == flips
    for answer, row in zip(predictor(images, top=2), wanted, strict=True):
        assert isinstance(answer, Answer)
        order = sorted(range(3), key=lambda k: -row[k])[:2]
        assert list(answer.labels) == order
        assert answer.names == tuple(CLASSES[k] for k in order)
        np.testing.assert_allclose(answer.posteriors, row[order], rtol=1e-6)


def test_the_protocol_is_the_nets_own() -> None:
    jittered = Predictor(net(S=(40, 60), recipe={"flip": False}))
    assert (jittered.protocol.Q, jittered.protocol.flips) == ((50,), False)
    with pytest.raises(InputError, match="do not say their S"):
        Predictor(net(S=None))
    with pytest.raises(InputError, match="gives boxes"):
        Predictor(VGG(vggnet.Config("A", 3, crop=32, width=0.0625, boxes="scr")))
    with pytest.raises(InputError, match="top 0"):
        next(Predictor(net())([np.zeros((40, 40, 3), np.uint8)], top=0))


def test_heat_maps_interpolate_the_score_map() -> None:
    model = net()
    image = np.asarray(photo(np.random.default_rng(1), 96, 160))
    found = Predictor(model).heat_maps(image, [2, 0], (96, 160))
    assert found.shape == (2, 96, 160)
    view = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    cells = model.score_map(view).detach().softmax(1)[0]  # 3×5: windows' middles at 16, 48, …
    assert cells.shape == (3, 3, 5)
    for row, i in ((15.5, 0), (47.5, 1), (79.5, 2)):
        for column, j in ((15.5, 0), (79.5, 2), (143.5, 4)):
            # A middle lies between four pixels.
            y, x = int(row), int(column)
            near = found[:, y : y + 2, x : x + 2].mean((1, 2))
            np.testing.assert_allclose(near, cells[[2, 0], i, j], atol=0.02)
    np.testing.assert_allclose(found[:, 0, 0], cells[[2, 0], 0, 0], atol=1e-6)  # beyond a middle
    middle = (cells[2, 0, 0] + cells[2, 0, 1]) / 2
    assert found[0, 0, 31:33].mean() == pytest.approx(float(middle), abs=1e-5)
    smaller = Predictor(model).heat_maps(image, [2], (48, 80))
    np.testing.assert_allclose(smaller[0], found[0].reshape(48, 2, 80, 2).mean((1, 3)), atol=0.01)
    assert Predictor(model).heat_map_scale() == 64
    with pytest.raises(InputError, match="31 is smaller"):
        Predictor(model).heat_map_scale(31)


@pytest.mark.parametrize("method", ["dense", "multi-crop+dense", "centre-crop"])
def test_views_give_the_same_posteriors(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    contents = [encoded(photo(rng, 70, 60 + 9 * i), "JPEG") for i in range(3)]
    predictor = Predictor(net(), method=method, scales=[40, 50])  # type: ignore[arg-type]
    pictures = Pictures(contents, list("abc"))
    found = predictor.of_views([predictor.views(pictures.open(i)) for i in range(3)])
    np.testing.assert_array_equal(found, predictor.posteriors(pictures)[0])


def test_pixels_through_the_net() -> None:
    dense = Predictor(net(), scales=[40, 50])
    assert dense.pixels_through(80, 160) == 2 * (40 * 80 + 50 * 100)
    crop = Predictor(net(), method="centre-crop")
    assert crop.pixels_through(80, 160) == 32 * 32
    assert Predictor(net(), method="multi-crop").pixels_through(80, 160) == 2 * 25 * 32 * 32


def test_the_table(weights: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(folder / "a" / "class0" / "000.jpg")
    assert main(["predict", weights, picture, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("protocol: net A, S=40, Q=40, dense")
    assert lines[1] == picture
    assert len(lines) == 4
    (answer,) = Predictor(net())([vggnet.images.decode(picture)], top=1)
    assert isinstance(answer, Answer)
    assert lines[2].split() == [*answer.names[0].split(), f"{100 * answer.posteriors[0]:.1f}", "%"]


def test_pictures_by_folder_pattern_url_and_standard_input(
    weights: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder / "a" / "class0" / "000.jpg"
    stdin = io.TextIOWrapper(io.BytesIO(first.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    where = [str(folder / "b"), str(folder / "*" / "class1" / "*.jpg"), first.as_uri(), "-"]
    assert main(["predict", weights, *where, "--format", "jsonl", "--workers", "0"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [row["image"].removeprefix(f"{folder}/") for row in rows]
    assert names == [
        "b/class0/000.jpg", "b/class1/000.jpg",
        "a/class1/000.jpg", "a/class1/001.jpg", "b/class1/000.jpg",
        first.as_uri(), "-",
    ]  # fmt: skip
    assert rows[-1]["predictions"] == rows[-2]["predictions"]
    assert rows[1]["predictions"] == rows[4]["predictions"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_stopped_run_goes_on(
    weights: str, folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out" / f"answers.{form}"
    command = ["predict", weights, str(folder), "--top", "2", "--out", str(out)]
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "1 of 7 pictures could not be read" in err
    (line,) = (out.parent / "bad-images.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == f"{folder}/b/bad.png"
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 6 + (form == "csv")
    # Killed in the midst of a line.
    out.write_text("".join(lines[:3]) + lines[3][:20])
    assert main(command) == 0
    assert out.read_text() == whole
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(whole)))
        assert {row["class_1"] for row in rows} <= set(CLASSES)
        assert list(rows[0])[:5] == ["image", "class_1", "posterior_1", "class_2", "posterior_2"]
    capsys.readouterr()
    assert main([*command, "--scales", "50"]) == 2
    assert "was begun with other weights or in another way" in capsys.readouterr().err
    assert main([*command, "--top", "1"]) == 2
    assert out.read_text() == whole


def test_heat_maps_are_drawn(weights: str, folder: Path, tmp_path: Path) -> None:
    picture = folder / "a" / "class0" / "000.jpg"
    maps = tmp_path / "maps"
    assert main(["predict", weights, str(picture), "--heatmap", str(maps), "--top", "3"]) == 0
    found = sorted(maps.iterdir())
    assert len(found) == 3
    with Image.open(picture) as image, Image.open(found[0]) as drawn:
        assert drawn.size == image.size
        assert np.abs(np.asarray(drawn, float) - np.asarray(image, float)).max() > 10
    # No folder comes out of a class's name.
    assert sum(path.stem.endswith("owl-bird") for path in found) == 1


def test_heat_maps_are_drawn_later_too(weights: str, folder: Path, tmp_path: Path) -> None:
    """Of pictures that are answered already, and after a stop between a map and the next."""
    out, maps = tmp_path / "p.jsonl", tmp_path / "maps"
    command = ["predict", weights, str(folder / "b"), "--out", str(out), "--top", "2"]
    assert main([*command, "--workers", "0"]) == 0
    before = out.read_bytes()
    command += ["--heatmap", str(maps), "--workers", "0"]
    for lost in (None, "000.jpg-2-*.png"):
        if lost is not None:
            for path in maps.glob(f"*class1-{lost}"):
                path.unlink()
            assert len(list(maps.iterdir())) == 3
        assert main(command) == 0
        assert len(list(maps.iterdir())) == 4
        assert out.read_bytes() == before


def test_a_name_that_is_not_utf8(
    weights: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    try:
        shutil.copy(folder / "a" / "class0" / "000.jpg", name)
    except OSError:
        pytest.skip("this file system takes no such names")
    for given in (name, str(tmp_path / "caf*.jpg")):
        assert main(["predict", weights, given]) == 2
        assert r"caf\xe9.jpg: its name is not UTF-8: rename it" in capsys.readouterr().err


def test_mistakes_are_one_line(
    weights: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(folder / "a" / "class0" / "000.jpg")
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty"
    broken.write_bytes(b"no picture")
    empty.mkdir()
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for more, why in (
        ([str(tmp_path / "no.jpg")], "no such file or folder"),
        ([str(tmp_path / "*.gif")], "*.gif: no file is called so"),
        ([str(empty)], "has no images"),
        ([str(broken)], "not an image"),
        ([str(broken), str(broken)], "none of 2 pictures can be read"),
        ([picture, "--scales", "16"], "smaller than the net's crop"),
        ([picture, "--scales", "x"], "scales 'x'"),
        ([picture, "--method", "best"], "unknown method"),
        ([picture, "--top", "0"], "top 0"),
        ([picture, "--format", "xml"], "format 'xml'"),
        ([picture, "--out", "x.txt"], "x.txt: take table"),
        ([picture, "--out", "x.csv", "--format", "jsonl"], "ends in .jsonl or .csv"),
        ([picture, "--out", str(tmp_path / "other.jsonl")], "is not vggnet's"),
        ([picture, "--heatmap", weights], "net.safetensors"),
        ([picture, "--heatmap-scale", "8"], "smaller"),
    ):
        assert main(["predict", weights, *more]) == 2, more
        printed = capsys.readouterr()
        last = printed.err.splitlines()[-1]
        assert why in last
        assert last.startswith("vggnet: error")
        assert printed.out == ""
    assert not Path("x.csv").exists()

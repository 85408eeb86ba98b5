"""Appendix B's descriptors, against a plain forward, and the files that hold them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from photos import photo
from vggnet import InputError, descriptorfile, descriptors
from vggnet.cli import main
from vggnet.datasets import digits
from vggnet.descriptorfile import describe_files
from vggnet.descriptors import Recipe, describe, images_of, length
from vggnet.images import rescale
from vggnet.model import VGG, Provenance

OPTIONS = {"num_classes": 10, "crop": 32, "width": 0.0625}


def net(name: str = "A", seed: int = 0) -> VGG:
    return vggnet.build(name, seed=seed, **OPTIONS)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of different shapes, one of them in a folder, and what is no image."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    (root / "more").mkdir(parents=True)
    for name, size in {"b.png": (40, 40), "a.jpg": (40, 57), "more/c.png": (33, 48)}.items():
        photo(rng, *size).save(root / name)
    Image.new("RGB", (50, 40), (9, 8, 7)).save(root / "d.bmp")
    (root / "notes.txt").write_text("no image")
    return root


def literally(model: VGG, image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """By the model's own forward in float64, image by image."""
    exact = model.double()
    of_scales = []
    for scale in recipe.scales:
        x = torch.from_numpy(rescale(image, scale).copy()).permute(2, 0, 1)[None]
        views = [x, x.flip(3)] if recipe.flips else [x]
        maps = [exact.activations(view, [recipe.layer])[recipe.layer] for view in views]
        of_scales.append(torch.stack([one.mean(dim=(2, 3))[0] for one in maps]).mean(0))
    blocks = of_scales
    if recipe.over_scales == "average":
        blocks = [torch.stack(of_scales).mean(0)]
    if recipe.normalise:  # each, and so the whole
        blocks = [block / block.norm() / len(blocks) ** 0.5 for block in blocks]
    return torch.cat(blocks).detach().numpy()


@pytest.mark.parametrize("over_scales", ["average", "stack"])
@pytest.mark.parametrize(("flips", "normalise"), [(True, True), (False, False)])
@pytest.mark.parametrize("layer", ["relu7", "pool5", "conv3_1", "fc8"])
def test_descriptors_are_appendix_bs(
    folder: Path, over_scales: str, flips: bool, normalise: bool, layer: str
) -> None:
    images = images_of(str(folder), None).images
    recipe = Recipe((32, 45), layer, over_scales, flips, normalise)  # type: ignore[arg-type]
    model = net()
    found = list(describe([model], images, recipe))
    assert len(found) == 4
    for image, descriptor in zip(images, found, strict=True):
        assert isinstance(descriptor, np.ndarray)
        assert descriptor.shape == (length([model], recipe),)
        expected = literally(net(), image, recipe)
        assert np.abs(descriptor - expected).max() < 1e-4 * np.abs(expected).max()
        assert not normalise or np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-5)


def test_two_nets_are_stacked(folder: Path) -> None:
    images = images_of(str(folder), None).images
    recipe = Recipe((32,))
    both = list(describe([net("A"), net("B", 1)], images, recipe))
    one, other = (list(describe([model], images, recipe)) for model in (net("A"), net("B", 1)))
    for found, a, b in zip(both, one, other, strict=True):
        assert isinstance(a, np.ndarray)
        assert isinstance(b, np.ndarray)
        assert np.allclose(found, np.concatenate([a, b]) / 2**0.5, atol=1e-6)  # type: ignore[arg-type]


def test_names_and_labels(folder: Path) -> None:
    part = images_of(str(folder), None)
    assert [part.name(i) for i in range(len(part))] == ["a.jpg", "b.png", "d.bmp", "more/c.png"]
    assert images_of("digits", "test").labels.tolist() == digits().test.labels.tolist()
    with pytest.raises(InputError, match="--part"):
        images_of("digits", None)
    with pytest.raises(InputError, match="nowhere"):
        images_of("nowhere", None)
    (folder.parent / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        images_of(str(folder.parent / "empty"), None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    vggnet.save(net(), path)
    return path


def test_the_files(folder: Path, weights: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    command = ["features", str(weights), str(folder), "--scales", "32,40"]
    names = ["a.jpg", "b.png", "broken.jpg", "d.bmp", "more/c.png"]
    for kind in ("npy", "npz", "parquet"):
        assert main([*command, "--out", str(tmp_path / kind / f"f.{kind}")]) == 0
    rows = np.load(tmp_path / "npy" / "f.npy", mmap_mode="r")
    assert rows.shape == (5, 256)
    assert rows.dtype == np.float32
    assert np.isnan(rows).all(axis=1).tolist() == [False, False, True, False, False]
    described = describe([net()], images_of(str(folder), None).images, Recipe((32, 40)))
    for row, expected in zip(rows, described, strict=True):
        assert isinstance(expected, InputError) or np.array_equal(row, expected)
    listed = (tmp_path / "npy" / "f.names.txt").read_text().splitlines()
    assert listed == [f"{name}\t-1" for name in names]
    manifest = json.loads((tmp_path / "npy" / "f.json").read_text())
    assert manifest["nets"] == ["A"]
    assert manifest["scales"] == [32, 40]
    assert manifest["unreadable"] == ["broken.jpg"]
    assert sorted(path.name for path in (tmp_path / "npy").iterdir()) == [
        "f.json", "f.names.txt", "f.npy",
    ]  # fmt: skip
    with np.load(tmp_path / "npz" / "f.npz") as found:
        assert np.array_equal(found["descriptors"], rows, equal_nan=True)
        assert found["names"].tolist() == names
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "parquet" / "f.parquet")
    assert table["name"].to_pylist() == names
    columns = np.array(table["descriptor"].to_pylist(), np.float32)
    assert np.array_equal(columns, rows, equal_nan=True)


def test_it_goes_on_where_it_was_stopped(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, recipe = images_of("digits", "test"), Recipe((32,))
    whole, stopped = tmp_path / "whole.npy", tmp_path / "stopped.npy"
    describe_files([weights], part, recipe, whole)
    flushes = []

    def some_chunks(*_: object) -> None:
        flushes.append(1)
        if len(flushes) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np.memmap, "flush", some_chunks)
        with pytest.raises(KeyboardInterrupt):
            describe_files([weights], part, recipe, stopped)
    assert not stopped.exists()
    done = np.load(tmp_path / "stopped.part.done.npy")
    assert 0 < done.sum() < len(done)
    with pytest.raises(InputError, match="flips True, not False"):
        describe_files([weights], part, Recipe((32,), flips=False), stopped)
    seen: list[int] = []
    described = descriptors._described

    def counted(nets: Any, chunk: Any, recipe: Recipe) -> Any:
        seen.append(len(chunk))
        return described(nets, chunk, recipe)

    monkeypatch.setattr(descriptors, "_described", counted)
    describe_files([weights], part, recipe, stopped)
    assert sum(seen) < len(part)
    assert np.array_equal(np.load(stopped), np.load(whole))
    before = stopped.stat().st_mtime_ns
    describe_files([weights], part, recipe, stopped)  # finished
    assert stopped.stat().st_mtime_ns == before


def test_a_deleted_manifest_begins_anew(weights: Path, tmp_path: Path) -> None:
    """Rows of nobody knows which recipe are not gone on with, whatever their length."""
    part = images_of("digits", "test")
    out = tmp_path / "f.npy"
    for other in (Recipe((32,), flips=False), Recipe((32, 37), over_scales="stack")):
        file = descriptorfile.DescriptorFile(out, {}, len(part), length([net()], other))
        file.start(part)
        rows, done = file.opened()
        rows[:], done[:2] = 7, 1
        with pytest.raises(InputError, match=r"delete .*f\.json, .*f\.part\.npy"):
            describe_files([weights], part, Recipe((32,)), out)
        file.json.unlink()
        describe_files([weights], part, Recipe((32,)), out)
        whole = tmp_path / "whole" / "f.npy"
        describe_files([weights], part, Recipe((32,)), whole)
        assert np.array_equal(np.load(out), np.load(whole))
        out.unlink()
        file.json.unlink()
    out.touch()
    with pytest.raises(InputError, match=r"without f\.json: choose another --out, or delete it"):
        describe_files([weights], part, Recipe((32,)), out)
    for text in ("[]", "{"):
        file.json.write_text(text)
        with pytest.raises(InputError, match=r"f\.json: does not say how"):
            describe_files([weights], part, Recipe((32,)), out)


def test_a_mended_picture_is_not_forgotten(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    out = tmp_path / "out" / "f.npy"
    command = ["features", str(weights), str(folder), "--scales", "32", "--out", str(out)]
    for _ in range(2):  # a second call says it too
        assert main(command) == 0
        found = capsys.readouterr()
        assert "1 could not be read and have rows of NaN" in found.out
        assert "left out: " in found.err
        assert "broken.jpg" in found.err
    Image.new("RGB", (40, 40)).save(folder / "broken.jpg")
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "with other images, or before some of these were changed" in message
    for path in out.parent.iterdir():
        assert str(path) in message
        path.unlink()
    assert main(command) == 0
    assert not np.isnan(np.load(out)).any()


def test_nets_of_different_scales(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for scale in (32, 48):
        model = net()
        model.provenance = Provenance(S=scale)
        paths.append(str(tmp_path / f"{scale}.safetensors"))
        vggnet.save(model, paths[-1])
    command = ["features", *paths, str(folder), "--out", str(tmp_path / "f.npy")]
    assert main(command) == 2
    assert f"32 of {paths[0]}, 48 of {paths[1]}: give --scales" in capsys.readouterr().err
    assert main([*command, "--scales", "40"]) == 0


def test_mistakes(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "f.npy")
    good = ["features", str(weights), str(folder), "--out", out]
    for more, message in {
        ("--scales", "32", "--layer", "relu9"): "no layer 'relu9'",
        ("--scales", "31"): "test scale 31 is smaller",
        ("--scales", "a"): "whole numbers",
        ("--scales", "32", "--over-scales", "sum"): "over scales 'sum'",
        ("--scales", "32", "--part", "all"): "part 'all' is not known",
        (): "does not say its S",
    }.items():
        assert main([*good, *more]) == 2, more
        assert message in capsys.readouterr().err
    assert main([*good[:-1], str(tmp_path / "f.csv"), "--scales", "32"]) == 2
    assert ".npy, .npz, .parquet" in capsys.readouterr().err
    assert not Path(out).exists()

"""Weight files: what comes back, and what is refused."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reference import randomise
from vggnet import VGG, InputError, RunError, __version__, build, read_header, save
from vggnet.checkpoint import load
from vggnet.files import sha256, write_atomically

SMALL: dict[str, Any] = {"num_classes": 3, "crop": 32, "width": 1 / 16}


@pytest.fixture
def model() -> VGG:
    return randomise(build("A-LRN", **SMALL, lrn="caffe", mean=(1.5, 2.25, 100.125)))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_net_comes_back_as_it_was(tmp_path: Path, batch_norm: bool) -> None:
    model = randomise(build("C", **SMALL, batch_norm=batch_norm, dropout=0.25))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = tmp_path / "deep" / "net.safetensors"
    save(model, path, class_names=["a", "b", "ç"], dataset="digits", S=37, seed=4, recipe={"x": 1})
    back = load(path)
    assert back.config == model.config
    assert not back.training
    assert list(back.state_dict()) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
    assert back.provenance.class_names == ("a", "b", "ç")
    assert (back.provenance.dataset, back.provenance.S, back.provenance.seed) == ("digits", 37, 4)
    assert back.provenance.recipe == {"x": 1}
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    torch.testing.assert_close(back(images), model(images))
    back.train()(images).sum().backward()
    assert back.conv1_1.weight.grad is not None  # type: ignore[union-attr]
    save(back, path)  # what it knew of itself goes with it
    assert load(path).provenance == back.provenance


def test_the_header_describes_the_file_to_anybody(model: VGG, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(model, path, class_names=("x", "y", "z"))
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["vggnet"])
    assert header["config"]["net"] == "A-LRN"
    assert header["config"]["lrn"] == "caffe"
    assert header["preprocessing"] == {
        "order": "RGB",
        "range": [0, 255],
        "mean": [1.5, 2.25, 100.125],
        "inside_the_net": True,
    }
    assert header["class_names"] == ["x", "y", "z"]
    assert header["version"] == read_header(path).version == __version__
    assert set(load_file(path)) == set(model.state_dict())  # plain safetensors to everyone else
    again = tmp_path / "again.safetensors"
    save(model, again, class_names=("x", "y", "z"))
    assert sha256(path) == sha256(again)


def damage_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors, header = load_file(path), json.loads(json.dumps(_header_of(path)))
        change(header)
        save_file(tensors, path, {"vggnet": json.dumps(header)})

    return apply


def _header_of(path: Path) -> Any:
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    return json.loads(metadata["vggnet"])


def cut(n: int) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "folder": (make_folder, "is a folder"),
    "empty": (cut(0), "not a safetensors file"),
    "cut in its header": (cut(500), "truncated or damaged"),
    "cut in its weights": (cut(20_000), "truncated or damaged"),
    "text": (lambda path: path.write_text("hello, this is no net"), "not a safetensors file"),
    "pickle": (lambda path: torch.save({"a": 1}, path), "not a safetensors file"),
    "somebody else's": (
        lambda path: save_file({"weight": torch.zeros(2)}, path),
        "without vggnet's header: .* vggnet convert",
    ),
    "header no JSON": (
        lambda path: save_file({"w": torch.zeros(2)}, path, {"vggnet": "{"}),
        "not JSON",
    ),
    "header no object": (
        lambda path: save_file({"w": torch.zeros(2)}, path, {"vggnet": "[1]"}),
        "not a JSON object",
    ),
    "from the future": (damage_header(lambda h: h.update(format=99)), "upgrade vggnet"),
    "unknown net": (damage_header(lambda h: h["config"].update(net="Z")), "unknown net 'Z'"),
    "unknown option": (damage_header(lambda h: h["config"].update(depth=3)), "not understood"),
    "no mean": (damage_header(lambda h: h["preprocessing"].clear()), "not understood"),
    "another mean": (
        damage_header(lambda h: h["preprocessing"].update(mean=[1, 2, 3])),
        "mean is not the one",
    ),
    "BGR": (damage_header(lambda h: h["preprocessing"].update(order="BGR")), "pre-processing"),
    "0 to 1": (damage_header(lambda h: h["preprocessing"].update(range=[0, 1])), "pre-processing"),
    "too few names": (damage_header(lambda h: h.update(class_names=["a"])), "1 class names for 3"),
    "S no number": (damage_header(lambda h: h.update(S="big")), "S 'big'"),
    "a crop beyond reason": (
        damage_header(lambda h: h["config"].update(crop=32 * 10**18)),
        "no such net can be made",
    ),
    "claims to be D": (
        damage_header(lambda h: h["config"].update(net="D")),
        "does not hold the net D that its header describes: conv1_2.bias is missing",
    ),
    "claims another width": (
        damage_header(lambda h: h["config"].update(width=0.125)),
        r"conv1_1.bias is \(4,\), expected \(8,\)",
    ),
}


@pytest.mark.parametrize("name", ["net.pth", "net.H5", "net.onnx"])
def test_a_name_of_another_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: save writes safetensors: end the name in"):
        save(build("A", crop=32, width=1 / 32), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_class_names_are_a_list(tmp_path: Path) -> None:
    net = build("A", crop=32, width=1 / 32, num_classes=3)
    with pytest.raises(InputError, match="class names 'abc': give a list"):
        save(net, tmp_path / "net.safetensors", class_names="abc")


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_refused_by_name(case: str, model: VGG, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(model, path)
    damage, words = DAMAGES[case]
    damage(path)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_file_of_another_net_is_refused_when_one_is_asked_for(model: VGG, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(model, path)
    assert load(path, net="A-LRN").config.net == "A-LRN"
    with pytest.raises(InputError, match="holds net A-LRN, not D"):
        load(path, net="D")


def test_only_a_net_that_its_config_describes_is_saved(model: VGG, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(torch.compile(model, backend="eager"), path)  # type: ignore[arg-type]
    assert load(path).config == model.config
    path.unlink()
    with pytest.raises(InputError, match="takes a VGG, not a DataParallel"):
        save(torch.nn.DataParallel(model), path)  # type: ignore[arg-type]
    model.fc8 = torch.nn.Linear(256, 5)
    with pytest.raises(InputError, match=r"fc8\.bias is \(5,\), expected \(3,\)"):
        save(model, path)
    with pytest.raises(InputError, match="cannot be written"):
        save(build("A", **SMALL), tmp_path)
    assert not path.exists()


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    fsync = os.fsync

    def spy(handle: int) -> None:
        synced.append(path.exists())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert synced == [False, True]  # the file, then the folder


def test_wrong_words_in_save(model: VGG, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 class names for 3 classes"):
        save(model, tmp_path / "net.safetensors", class_names=["a", "b"])
    with pytest.raises(InputError, match="colour"):
        save(model, tmp_path / "net.safetensors", colour="red")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(model, tmp_path / "file" / "net.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"file: .*No space left.*what was there before is intact"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode

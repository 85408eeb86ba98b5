"""PyTorch's files that are hostile, odd or in the way, against pickles written by hand, opcode by
opcode, and against what `torch.load` reads."""

import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vggnet
from memory import PEAK
from vggnet import InputError, weights
from vggnet.formats import picklecheck, torchfile, torchvision

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
BEFORE = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def state() -> dict[str, Tensor]:
    model = vggnet.build("A", num_classes=3, crop=32, width=1 / 64)
    return torchvision.state_dict(model)


def legacy(body: bytes, keys: tuple[str, ...] = ()) -> bytes:
    """A file from before PyTorch 1.6, whose third to last pickle has this body."""
    return BEFORE + b"\x80\x02" + body + b"." + pickle.dumps(list(keys), 2)


def zipped(body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(16))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def doubled(first: bytes, times: int = 60) -> bytes:
    """t = (t, t), so often: memo `times` has 2^times of the first."""
    steps = (b"h%c\x86q%c" % (i, i + 1) for i in range(times))
    return first + b"q\x00" + b"".join(steps)


def stored(kind: bytes, numel: int) -> bytes:
    """A storage of the file, by its elements."""
    number = b"\x8a\x08" + numel.to_bytes(8, "little")
    return b"(" + text("storage") + kind + text("0") + text("cpu") + number + b"tQ"


def tensor(numel: int) -> bytes:
    sizes = b"K\x00K\x04\x85K\x01\x85\x89c" + ORDERED + b")R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored(FLOATS, numel) + sizes + b"tR"


ORDERED = b"collections\nOrderedDict\n"
FLOATS = b"ctorch\nFloatStorage\n"
PRIME = (1 << 61) - 1
"""The hash of an int is its remainder by this: its multiples all have the hash 0."""
colliding = b"".join(b"\x8a\x0a" + (i * PRIME).to_bytes(10, "little") + b"N" for i in range(30_000))
pairs = b"".join(b"](J" + i.to_bytes(4, "little") + b"Ne" for i in range(10_000))

STEPS, BEYOND = "takes more than 200,000 steps", "has a dict with other keys than strings"
HOSTILE: dict[str, tuple[bytes, str]] = {
    # One hash of 2^60 parts, uninterruptible.
    "key": (legacy(b"}" + doubled(b"K\x01\x85") + b"K\x01s"), STEPS),
    "key in a zip": (zipped(b"}" + doubled(b"K\x01\x85") + b"K\x01s"), STEPS),
    "key, not so large": (legacy(b"}K\x01\x85K\x01s"), BEYOND),
    "key of a storage": (
        legacy(b"(" + text("storage") + FLOATS + doubled(b"K\x01\x85") + text("cpu") + b"K\x01tQ"),
        STEPS,
    ),
    # `repr` of 2^60 parts, for an error's text.
    "function": (legacy(doubled(b"]") + b")R"), STEPS),
    "pairs": (legacy(b"c" + ORDERED + b"](" + b"]" + b"e\x85R"), "other than keys and values"),
    "collisions": (legacy(b"}(" + colliding + b"u"), BEYOND),
    "copies of copies": (
        legacy((b"c" + ORDERED) * 10_000 + b"](" + pairs + b"e" + b"\x85R" * 10_000),
        STEPS,
    ),
    "bytearray": (
        legacy(b"c__builtin__\nbytearray\n\x8a\x06" + (3 * 10**9).to_bytes(6, "little") + b"\x85R"),
        r"holds Python objects \(__builtin__.bytearray\).*state_dict",
    ),
    "zeros": (
        zipped(b"ctorch\nzeros\nJ\x00\x00\x00\x40\x85R"),
        r"holds Python objects \(torch.zeros\)",
    ),
    "an uninitialised tensor": (
        zipped(b"ctorch\nTensor\nJ\x00\x00\x00\x40\x85R"),
        r"holds Python objects \(torch.Tensor\)",
    ),
    "codec": (legacy(b"c_codecs\nencode\n)R"), r"Python objects \(_codecs.encode\)"),
    "odd name": (legacy(b"cfoo\nb\x0ba\rr\n"), r"Python objects \('foo.b\\x0ba\\rr'\)"),
    "storage": (legacy(tensor(1 << 40), ("0",)), "more values than the file has"),
    "storage in a zip": (zipped(tensor(1 << 40)), "more values than the file has"),
    "negative storage": (legacy(tensor(1 << 63), ("0",)), "more values than the file has"),
    "memory": (legacy(tensor(4)), "has tensors without their values"),
    # Its `items` would be the number 3.
    "attribute": (
        legacy(b"c" + ORDERED + b")R}" + text("items") + b"K\x03sb"),
        "sets attributes that a state_dict has not",
    ),
    "in itself": (legacy(b"}q\x00" + text("model") + b"h\x00s"), "used elsewhere"),
    "in itself, later": (legacy(b"]q\x00h\x00\x85q\x01h\x00" + b"h\x01a"), "used elsewhere"),
    "long": (legacy(b"(" + b"N" * 300_000 + b"l"), STEPS),
    "deep": (legacy(b"]" + b"\x85" * 100_000), "holds a tuple, not weights by name"),
    "nested": (
        legacy((b"}" + text("model")) * 20_000 + b"}" + b"s" * 20_000),
        "holds no weights by name",
    ),
    "number": (legacy(b"\x8a\xff" + b"\x7f" * 255), "number of more than 80 bits"),
    "text beyond": (legacy(b"X\xff\xff\xff\xff"), "cut off or damaged"),
    "bytes beyond": (legacy(b"\x8e" + b"\xff" * 7 + b"\x3f"), "cut off or damaged"),
    "nothing": (legacy(b"\x86"), "takes what is not there"),
    "no mark": (legacy(b"u"), "cut off or damaged"),
    "no memo": (legacy(b"h\x07"), "cut off or damaged"),
    "protocol 4": (pickle.dumps({"w": 1}, 4), "a pickle of protocol 4, which torch.save does not"),
    "plain pickle": (pickle.dumps({"w": 1}, 2), "a pickle, but not of torch.save"),
    "begun": (BEFORE, "cut off or damaged"),
}

READER = (
    PEAK
    + """
import json, signal, sys
from pathlib import Path
import vggnet
callable(vggnet.load)
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    signal.alarm(60)  # ends the process, also inside a function in C
    try:
        vggnet.load(path)
        said = "read"
    except vggnet.InputError as error:
        said = str(error)
    more = peak() - before
    print(json.dumps([path.name, said, more]), flush=True)
"""
)
MEGABYTES = 200
"""Above what was in use: a Python object for each step, at most."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What a process of its own said of each hostile file, and the kilobytes that it took."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", READER, str(folder)], capture_output=True, text=True, check=False
    )
    lines = map(json.loads, run.stdout.splitlines())
    return {name: (said, more) for name, said, more in lines}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, results: dict[str, tuple[str, int]]) -> None:
    assert case in results, f"the process ended before or at it, after {list(results)}"
    said, more = results[case]
    with pytest.raises(InputError, match=HOSTILE[case][1]):
        raise InputError(said)
    assert f"{case}: " in said
    assert said.isprintable()
    assert more < MEGABYTES * 1024


def parameters() -> dict[str, nn.Parameter]:
    return {key: nn.Parameter(value) for key, value in state().items()}


def training(optimizer: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """What a training script saves beside the weights."""
    net = parameters()
    groups = [{"params": [value], "betas": BETAS} for value in net.values()]
    made = optimizer(groups, lr=0.1)  # type: ignore[call-arg]
    for value in net.values():
        value.grad = torch.ones_like(value)
    made.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(made, [3, 5, 5])
    return {
        "model": net,
        "optimizer": made.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 7,
        "losses": [1.5, 0.5, float("nan")] * 1000,
        "args": {"lr": 0.1, "name": "é", "none": None, "flags": [True, (1, 2)], 3: "three"},
        "rng": torch.get_rng_state(),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cuda", 0),
    }


BETAS = (0.8, 0.9)
"""One object in every group."""


class Old(dict[str, Tensor]):
    """Pickled as Python 2 pickles an OrderedDict."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ([[key, value] for key, value in self.items()],)


def as_python_2() -> bytes:
    """A list of pairs, and the strings of bytes."""
    buffer = io.BytesIO()
    torch.save(Old(state()), buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    buffer.seek(content.index(b"ccollections\nOrderedDict") - 2)
    steps = [(opcode.name, argument, at) for opcode, argument, at in pickletools.genops(buffer)]
    for name, argument, at in reversed(steps):
        if name == "BINUNICODE":
            assert isinstance(argument, str)
            assert at is not None
            short = b"U%c" % len(argument) + argument.encode()
            content = content[:at] + short + content[at + 5 + len(argument) :]
    return content


def honest(folder: Path) -> Iterator[tuple[str, Path]]:
    def saved(name: str, content: Any, **options: Any) -> tuple[str, Path]:
        torch.save(content, folder / name, **options)
        return name, folder / name

    old = {"_use_new_zipfile_serialization": False}
    ordered = OrderedDict(state())
    made = nn.Sequential(nn.BatchNorm2d(1)).state_dict()
    vars(ordered).update(vars(made))
    assert vars(ordered)["_metadata"]
    yield saved("ordered", ordered)
    yield saved("ordered, legacy", ordered, **old)
    yield saved("parameters", parameters())
    yield saved("Adam", training(torch.optim.Adam))
    yield saved("AdamW, legacy", training(torch.optim.AdamW), **old)
    views = {key: torch.cat([value.flatten(), torch.ones(3)]) for key, value in state().items()}
    yield saved("views", {k: views[k][:-3].view(v.shape) for k, v in state().items()}, **old)
    tied = state()
    tied["classifier.0.bias"] = tied["classifier.3.bias"]
    yield saved("tied", tied)
    yield saved("half", {key: value.half() for key, value in state().items()})
    yield saved("bfloat16", {key: value.bfloat16() for key, value in state().items()})
    (folder / "Python 2").write_bytes(as_python_2())
    yield "Python 2", folder / "Python 2"


def test_honest_files_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    for name, path in honest(tmp_path):
        found = torch.load(path, weights_only=True)
        found = found.get("model", found)
        read = torchfile.read_state(path)
        assert read.keys() == found.keys() == state().keys(), name
        assert all(torch.equal(read[key], found[key]) for key in found), name
        assert vggnet.load(path).config.net == "A", name


def test_steps(tmp_path: Path) -> None:
    """The bound is far above what a net of VGG's needs; a history of its own may be too long."""
    net = {f"features.{i}.weight": nn.Parameter(torch.ones(1)) for i in range(134)}
    made = torch.optim.Adam(net.values())
    for value in net.values():
        value.grad = torch.ones(1)
    made.step()
    everything = {"model": net, "optimizer": made.state_dict(), "losses": [0.5] * 100_000}
    path = tmp_path / "large.pth"
    torch.save(everything, path)
    assert torchfile.read_state(path).keys() == net.keys()
    everything["losses"] = [0.5] * picklecheck.STEPS
    torch.save(everything, path)
    with pytest.raises(InputError, match=rf"more than {picklecheck.STEPS:,} steps .* state_dict"):
        torchfile.read_state(path)


def test_truncated_files_say_so(tmp_path: Path) -> None:
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        path = tmp_path / "net.pth"
        torch.save(state(), path, **options)
        content = path.read_bytes()
        for part in (0.2, 0.5, 0.9, 0.999):
            path.write_bytes(content[: int(part * len(content))])
            with pytest.raises(InputError, match=r"\(cut off or damaged\): copy or download it"):
                vggnet.load(path)


WRAPPED = {
    "twice": ["module.", "model."],
    "thrice": ["model.", "module.", "_orig_mod."],
    "compiled": ["_orig_mod.module."],
    "net": ["net."],
    "backbone": ["backbone."],
    "encoder": ["encoder.", "net."],
}


@pytest.mark.parametrize("case", WRAPPED)
def test_prefixes_are_taken_off(case: str, tmp_path: Path) -> None:
    prefix = "".join(WRAPPED[case])
    tensors = {prefix + key: value for key, value in state().items()}
    torch.save(tensors, tmp_path / "net.pth")
    save_file(tensors, tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        assert vggnet.load(tmp_path / name).config.net == "A"


def features() -> dict[str, Tensor]:
    return {key: value for key, value in state().items() if key.startswith("features.")}


def test_convolutions_alone(tmp_path: Path) -> None:
    """As `net.features.state_dict()` has them: by numbers."""
    path = tmp_path / "net.pth"
    for prefix in ("", "module."):
        named = {prefix + key.removeprefix("features."): v for key, v in features().items()}
        torch.save(named, path)
        model = vggnet.load(path)
        assert not model.config.head
        expected = features()["features.3.weight"]
        assert torch.equal(model.state_dict()["conv2_1.weight"], expected)


def test_averaged_weights(tmp_path: Path) -> None:
    net = nn.Module()
    net.features = nn.ModuleDict()
    for key, value in features().items():
        number, part = key.split(".")[1:]
        if number not in net.features:
            net.features[number] = nn.Module()
        net.features[number].register_parameter(part, nn.Parameter(value))
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert "n_averaged" in averaged.state_dict()
    torch.save(averaged.state_dict(), tmp_path / "net.pth")
    assert vggnet.load(tmp_path / "net.pth").config.net == "A"


def test_which_of_several(tmp_path: Path) -> None:
    path, net, other = tmp_path / "net.pth", state(), {"conv1.weight": torch.zeros(3)}
    ours = [
        {"state_dict_ema": net, "epoch": 3},
        {"ema": net},
        {"ema": {"model": net}, "epoch": torch.tensor(3)},
        {"weights": net, "optimizer": {"state": {}}},
        {"model": net, "ema": {"decay": 0.99, "shadow": {}}},
        {"generator": other, "net": other, "model": net},
        {**net, "epoch": 3, "arch": "vgg11"},
    ]
    for content in ours:
        torch.save(content, path)
        assert vggnet.load(path).config.net == "A"
    for content in ({"model": net, "ema": net}, {"model": other, "ema": other}):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"several nets, 'model' and 'ema': .* one that is"):
            vggnet.load(path)


def test_names_of_another_net(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    other = {key: torch.zeros(3) for key in ("conv1.weight", "b\nn" + 99 * "x", "fc.bias", "4")}
    torch.save(other, path)
    with pytest.raises(InputError, match=r"its names, 'conv1.weight', 'b\\nnxx+', 'fc.") as caught:
        vggnet.load(path)
    assert "\n" not in str(caught.value)
    assert "are not those of a VGG net of torchvision's, features.0.weight" in str(caught.value)
    torch.save(other | {"head.fc.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="are not those of a VGG net of timm's"):
        vggnet.load(path)
    torch.save(state() | {"a\nb": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"vgg11.*, but has 'a\\nb' too"):
        vggnet.load(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path / "pipe": "is no regular file",
        Path("/dev/zero"): "is no regular file",
        tmp_path: "is a folder, not a weight file",
        tmp_path / "missing": "no such file",
        tmp_path / ("n" * 300): r"cannot be read \(File name too long\)",
        tmp_path / "nu\0ll": r"cannot be read \(embedded null",
        tmp_path / "file" / "below": "no such file",
    }
    (tmp_path / "file").touch()
    for path, message in cases.items():
        for load in (vggnet.load, vggnet.checkpoint.load, vggnet.checkpoint.read_header):
            with pytest.raises(InputError, match=message):
                load(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything: here opening fails as it does for others."""

    def refuse(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "net.pth"
    torch.save(state(), path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"net.pth: cannot be read \(Permission denied\)"):
        vggnet.load(path)


def test_a_folder_is_in_the_way(tmp_path: Path) -> None:
    target = tmp_path / "new.safetensors"
    target.mkdir()
    with pytest.raises(InputError, match=r"new.safetensors: is a folder: give the name of a file"):
        weights.convert(tmp_path / "not even looked at", target)

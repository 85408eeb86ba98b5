"""Keras' files against Keras itself: the same soft-max of the same images, there and back."""

import json
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import keras_files
from reference import randomise
from vggnet import VGG, Config, InputError, RunError
from vggnet.formats import hdf5, keras
from vggnet.model import IMAGENET_MEAN
from vggnet.weights import convert, load

LAYOUTS = ("legacy.h5", "whole.h5", "weights.h5", "keras")
REMEDY = r"keras\.Model\(vgg\.input, vgg\.get_layer\('block5_pool'\)\.output\)\.save_weights"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    keras_files.run("make", folder)
    return folder


def net_of(net: str, **options: Any) -> VGG:
    """A narrow net of 5 classes and weights at random."""
    options = {"num_classes": 5, "crop": 32, "width": 1 / 32} | options
    return randomise(VGG(Config(net, **options))).eval()


def ours(model: VGG, images: NDArray[np.uint8], how: str = "softmax") -> Any:
    """What our net makes of images N×H×W×3, in Keras' layout."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        if how in ("softmax", "linear"):
            scores = model(batch)
            return (scores.softmax(1) if how == "softmax" else scores).numpy()
        pool5 = model.activations(batch, ["pool5"])["pool5"]
        return (pool5.mean((2, 3)) if how == "mean" else pool5.permute(0, 2, 3, 1)).numpy()


def check(model: VGG, path: Path, how: str = "softmax") -> None:
    with np.load(f"{path}.npz") as kept:
        found = ours(model, kept["images"], how)
        assert found.shape == kept["found"].shape
        assert np.abs(found - kept["found"]).max() <= 1e-5
        assert np.ptp(kept["found"], axis=-1).min() > 0.05  # or it would say nothing


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "net", "crop", "how"),
    [
        ("vgg16", "D", 64, "softmax"),
        ("vgg19", "E", 32, "linear"),
        ("vgg16-notop", "D", None, "pool5"),
        ("vgg19-pooled", "E", None, "mean"),
        ("unnamed", "D", 32, "softmax"),
        ("adam", "D", 32, "softmax"),
    ],
)
def test_files_that_keras_wrote(
    made: Path, name: str, net: str, crop: int | None, how: str, layout: str
) -> None:
    path = made / f"{name}.{layout}"
    if (name, layout) == ("unnamed", "legacy.h5"):
        with pytest.raises(InputError, match=r"has layers .* has not: '(dense|conv2d)"):
            load(path)
        return
    model = load(path)
    assert (model.config.net, model.config.width, model.config.head) == (net, 1 / 32, bool(crop))
    if crop:
        assert (model.config.crop, model.config.num_classes) == (crop, 7)
    assert model.mean.tolist() == pytest.approx(IMAGENET_MEAN)
    assert str(model.provenance.source).startswith("Keras, images BGR 0–255, minus ")
    check(model, made / name, how)


def test_full_size_there_and_back(tmp_path: Path) -> None:
    keras_files.run("full", tmp_path)
    jobs = {}
    for net, name in (("VGG16", "vgg16.h5"), ("VGG19", "vgg19.keras")):
        path = tmp_path / name
        model = load(path)
        path.unlink()
        assert model.provenance.class_names is not None
        check(model, path)
        back = f"back-{net}.h5"
        assert keras.write(model, tmp_path / back) == f"Keras' {net}, images preprocess_input"
        jobs[back] = job(net, 224, 1, {})
        del model
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    keras_files.run("score", tmp_path)
    for back, name in zip(jobs, ("vgg16.h5", "vgg19.keras"), strict=True):
        (tmp_path / back).unlink()
        with np.load(tmp_path / f"{name}.npz") as one, np.load(tmp_path / f"{back}.npz") as two:
            assert np.abs(one["found"] - two["found"]).max() <= 1e-5


def job(net: str, size: int, width: float, options: dict[str, Any], top: bool = True) -> Any:
    return {"net": net, "size": size, "width": width, "options": options, "top": top}


def test_what_we_write_keras_reads(tmp_path: Path) -> None:
    """Narrow nets through Keras' loader, and Keras' own class without its top, at another size."""
    nets = {
        "vgg16.h5": ("D", 64, 1 / 32, True),
        "vgg19.h5": ("E", 32, 1 / 16, True),
        "notop.h5": ("E", 96, 1 / 32, False),
        "own.h5": ("D", 64, 1.0, False),
    }
    jobs, models = {}, {}
    for name, (net, size, width, head) in nets.items():
        model = net_of(net, num_classes=7, crop=size, width=width, head=head)
        models[name] = (model, head)
        keras.write(model, tmp_path / name)
        options = {"include_top": head, "input_shape": (size, size, 3)}
        jobs[name] = job("VGG16" if net == "D" else "VGG19", size, width, options, head)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    keras_files.run("score", tmp_path)
    for name, (model, head) in models.items():
        with np.load(tmp_path / f"{name}.npz") as kept:
            found = ours(model, kept["images"], "softmax" if head else "pool5")
            scale = 1 if head else np.abs(found).max()
            assert np.abs(found - kept["found"]).max() <= 1e-5 * scale


@pytest.mark.parametrize(
    ("options", "mean", "says"),
    [
        (
            {"net": "D", "crop": 64},
            None,
            "Keras' VGG16 of 0.03125 times the channels, images preprocess_input",
        ),
        (
            {"net": "E", "head": False, "width": 1 / 64},
            (120, 117.5, 1),
            "Keras' VGG19 without its top of 0.015625 times the channels, images BGR 0–255 minus "
            "1, 117.5, 120 (B, G, R), which is not preprocess_input",
        ),
    ],
)
def test_our_file_comes_back(
    tmp_path: Path, options: dict[str, Any], mean: tuple[float, ...] | None, says: str
) -> None:
    model = net_of(**options)
    if mean is not None:
        model.mean.copy_(torch.tensor(mean))
    path = tmp_path / "net.h5"
    assert keras.write(model, path) == says
    back = load(path)
    for key, value in back.state_dict().items():
        if key != "mean":  # which Keras' files do not have
            assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"net": "B"}, "net.h5", "no net B, only D .VGG16. and E .VGG19.: save it as safetensors"),
        ({"net": "D", "batch_norm": True}, "net.h5", "no net D-BN"),
        ({"net": "D", "in_channels": 1}, "net.h5", "take 3 channels; this one takes 1"),
        ({"net": "D"}, "a.weights.h5", r"another layout: choose a\.h5$"),
    ],
)
def test_what_is_not_written(
    tmp_path: Path, options: dict[str, Any], name: str, words: str
) -> None:
    model = net_of(**options)
    with pytest.raises(InputError, match=words):
        keras.write(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_a_full_disk_is_no_crash(tmp_path: Path) -> None:
    import resource

    model = net_of("D")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(RunError, match="could not be written"):
            keras.write(model, tmp_path / "net.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_the_files_of_keras_1(made: Path, tmp_path: Path, dtype: str) -> None:
    """As vgg16_weights_tf_dim_ordering_tf_kernels.h5 has it: other names, in fixed-length texts,
    a long list of which is in parts."""
    path = tmp_path / "old.h5"
    with h5py.File(made / "vgg16.legacy.h5") as new, h5py.File(path, "w") as old:
        names = [name.encode() for name in ("input_1", *new)]
        old.attrs["layer_names0"], old.attrs["layer_names1"] = names[:9], names[9:]
        for name in ("input_1", *new):
            group = old.create_group(name)
            both = {"W": "kernel", "b": "bias"} if len(new.get(name, ())) else {}
            group.attrs["weight_names"] = [f"{name}_{part}_1:0".encode() for part in both]
            for part, theirs in both.items():
                values = new[name][name][theirs][()]
                group[f"{name}_{part}_1:0"] = values.astype(dtype)
    model, new_model = load(path), load(made / "vgg16.legacy.h5")
    for key, value in new_model.state_dict().items():
        half = value.half().float() if dtype == "<f2" and key != "mean" else value
        assert torch.equal(model.state_dict()[key], half), key


@pytest.mark.parametrize("layout", ["legacy.h5", "weights.h5"])
def test_the_newest_format_of_hdf5(made: Path, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "new.h5"
    with h5py.File(made / f"vgg16.{layout}") as old, h5py.File(path, "w", libver="latest") as new:
        copy(old, new)
    assert path.read_bytes()[8] == 3
    check(load(path), made / "vgg16")


def copy(old: Any, new: Any, rename: Callable[[str], str] = str) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for key, item in old.items():
        if isinstance(item, h5py.Group):
            copy(item, new.create_group(rename(key)), rename)
        else:
            new[key] = item[()]


@pytest.mark.parametrize("top", ["layers", "_layer_checkpoint_dependencies"])
def test_files_of_keras_3_without_names(made: Path, tmp_path: Path, top: str) -> None:
    for name in ("vgg16", "vgg19-pooled", "own-head"):
        path = tmp_path / f"{name}.weights.h5"
        with h5py.File(made / path.name) as old, h5py.File(path, "w") as new:
            copy(old, new, lambda key: top if key == "layers" else key)
            new.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    check(load(tmp_path / "vgg16.weights.h5"), made / "vgg16")
    check(load(tmp_path / "vgg19-pooled.weights.h5"), made / "vgg19-pooled", "mean")
    with pytest.raises(InputError, match=r"'conv2d' .3×3×3×2 and 2., .*, …: .*" + REMEDY):
        load(tmp_path / "own-head.weights.h5")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own-head.weights.h5", r"layers that keras.applications' VGG has not: 'mine' .*16×9"),
        ("own-head.legacy.h5", r"layers that keras.applications' VGG has not: 'mine' .*16×9"),
        ("own-head.whole.h5", r"13 Conv2D, 5 MaxPooling2D and 1 Dense layers .'mine'"),
        ("own-head.keras", r"13 Conv2D, 5 MaxPooling2D and 1 Dense layers .'mine'"),
        ("nested.weights.h5", "layer 'functional'"),
        ("nested.whole.h5", "layer 'vgg' is a 'Functional'"),
        ("nested.keras", "layer 'vgg' is a 'Functional'"),
        ("rescaled.weights.h5", "layer 'rescaling'"),
        ("rescaled.legacy.h5", "layer 'rescaling'"),
        ("rescaled.keras", "layer 'rescaling' is a 'Rescaling'"),
        ("normed.weights.h5", "'batch_normalization'"),
        ("normed.legacy.h5", "'batch_normalization'"),
        ("normed.whole.h5", "'batch_normalization' is a 'BatchNormalization'"),
    ],
)
def test_models_that_are_no_vgg(made: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words + ".*" + REMEDY) as caught:
        load(made / name)
    assert "\n" not in str(caught.value)


def test_the_remedy_for_another_head(made: Path) -> None:
    check(load(made / "alone.weights.h5"), made / "alone", "pool5")


def layer_of(model: Any, name: str) -> Any:
    return next(layer for layer in model["config"]["layers"] if layer["name"] == name)


def setting(layer: str, name: str, value: object) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        layer_of(model, layer)["config"][name] = value

    return change


def swapped(model: Any) -> None:
    steps = model["config"]["layers"]
    steps[3], steps[2] = steps[2], steps[3]


def skipping(model: Any) -> None:
    nodes = layer_of(model, "block3_conv3")["inbound_nodes"]
    layer_of(model, "block3_pool")["inbound_nodes"] = [*nodes]


def without_layers(model: Any) -> None:
    del model["config"]["layers"]


def of_nothing(model: Any) -> None:
    model["config"]["layers"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            setting("block2_conv1", "activation", "elu"),
            "'block2_conv1' has activation 'elu', where",
        ),
        (setting("block2_conv1", "activation", {"class_name": "x"}), "has activation"),
        (setting("fc1", "activation", "linear"), "'fc1' has activation 'linear', .* has relu"),
        (setting("predictions", "activation", "sigmoid"), "VGG has softmax or linear"),
        (setting("block1_conv1", "padding", "valid"), "has padding 'valid'"),
        (setting("block1_conv1", "strides", [2, 2]), r"has strides '\[2, 2\]'"),
        (setting("block1_conv1", "data_format", "channels_first"), "has data_format"),
        (setting("block1_conv1", "use_bias", False), "has use_bias 'False'"),
        (setting("block4_pool", "pool_size", [3, 3]), "has pool_size"),
        (swapped, "13 Conv2D, 5 MaxPooling2D and 3 Dense layers .* do not follow each other"),
        (skipping, "'block3_pool' does not take the output of 'block3_conv3' alone"),
        (without_layers, "what it says of its model is damaged .KeyError"),
        (of_nothing, "0 Conv2D"),
    ],
)
@pytest.mark.parametrize("layout", ["keras", "whole.h5"])
def test_other_settings_are_refused(
    made: Path, tmp_path: Path, layout: str, change: Callable[[Any], None], words: str
) -> None:
    path = tmp_path / f"net.{layout}"
    if layout == "keras":
        repack(made / "vgg16.keras", path, lambda text: edited(text, change))
    else:
        shutil.copy(made / f"vgg16.{layout}", path)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = edited(file.attrs["model_config"], change)
    with pytest.raises(InputError, match=words):
        load(path)


def edited(text: str | bytes, change: Callable[[Any], None]) -> str:
    model = json.loads(text)
    change(model)
    return json.dumps(model)


def repack(source: Path, target: Path, change: Callable[[str], str] = str, **options: Any) -> None:
    """Copies a .keras with another config.json."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content.decode()) if name == "config.json" else content)


def test_models_as_keras_2_described_them(made: Path, tmp_path: Path) -> None:
    """With inputs by name, and without the settings that were not there yet."""

    def older(model: Any) -> None:
        model["class_name"] = "Model"
        before = None
        for layer in model["config"]["layers"]:
            layer["config"].pop("groups", None)
            layer["inbound_nodes"] = [[[before, 0, 0, {}]]] if before else []
            before = layer["name"]

    repack(made / "vgg16.keras", tmp_path / "a.keras", lambda text: edited(text, older))
    check(load(tmp_path / "a.keras"), made / "vgg16")


def deflated(source: Path, target: Path) -> None:
    repack(source, target, compression=zipfile.ZIP_DEFLATED)


def cut(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[:-3000])


def flipped(source: Path, target: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)


def claiming(source: Path, target: Path) -> None:
    """The directory at the end gives model.weights.h5 four gigabytes."""
    content = bytearray(source.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<2I", 0xFFFFFFF0, 0xFFFFFFF0)
    target.write_bytes(content)


def text_for_config(source: Path, target: Path) -> None:
    repack(source, target, lambda _: "[" * 100_000)


def without_config(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        new.writestr("model.weights.h5", old.read("model.weights.h5"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (deflated, "packed, as Keras packs none"),
        (cut, "not a weight file|cannot be read"),
        (flipped, r"Bad CRC-32 for file 'model\.weights\.h5'.*copy or download it again"),
        (claiming, "claim more bytes than there are"),
        (text_for_config, "what it says of its model is damaged .RecursionError"),
        (without_config, r"no item named 'config\.json'"),
    ],
)
def test_damaged_zips(
    made: Path, tmp_path: Path, damage: Callable[[Path, Path], None], words: str
) -> None:
    damage(made / "vgg16.keras", tmp_path / "net.keras")
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / "net.keras")
    assert "\n" not in str(caught.value)


LAYER = "block4_conv2"


def replaced(file: Any, make: Callable[[Any, str], object], part: str = "kernel") -> None:
    """Puts something else where a kernel is."""
    group = file[LAYER][LAYER]
    del group[part]
    make(group, part)


def many(group: Any, name: str) -> None:
    for number in range(1001):
        group.create_group(f"{name}{number}")


def deep(group: Any, name: str) -> None:
    group.create_group("/".join([name] * 20))


KERNEL = np.zeros((3, 3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda group, name: None, f"layer '{LAYER}' has 16, where VGG has a kernel H×W×in×out"),
        (lambda group, name: group.create_dataset(name, data=KERNEL[..., :3]), "conv4_2.weight is"),
        (
            lambda group, name: group.create_dataset(name, data=KERNEL[0]),
            "has 3×16×16 and 16, where",
        ),
        (lambda group, name: group.create_dataset(name, data=KERNEL * np.nan), "not finite"),
        (lambda group, name: group.create_dataset(name, data=KERNEL.astype("i4")), "is of <i4, n"),
        (lambda group, name: group.create_dataset(name, data=KERNEL.astype(">f4")), "is of >f4"),
        (
            lambda group, name: group.create_dataset(name, data=KERNEL, compression="gzip"),
            "kernel is compressed or in chunks",
        ),
        (
            lambda group, name: group.create_dataset(name, data=KERNEL, chunks=(1, 1, 16, 16)),
            "kernel is compressed or in chunks",
        ),
        (
            lambda group, name: group.create_dataset(name, (1 << 20, 1 << 20, 1, 1), "f4"),
            "kernel claims 4,398,046,511,104 bytes, more than there are",
        ),
        (lambda group, name: group.create_dataset(name, (3, 3, 0, 16), "f4"), "kernel is empty"),
        (
            lambda group, name: group.create_dataset(
                name, (3, 3, 16, 16), "f4", external=[("/etc/hostname", 0, 9216)]
            ),
            "claims 9,216 bytes, more than there are",
        ),
        (
            lambda group, name: group.__setitem__(name, group.file["block4_conv3/block4_conv3"]),
            "is there under another name too",
        ),
        (lambda group, name: group.__setitem__(name, group.parent), "or is its own parent"),
        (
            lambda group, name: group.__setitem__(name, h5py.SoftLink("/block4_conv2")),
            "block4_conv2/block4_conv2/kernel is a link to '/block4_conv2'",
        ),
        (
            lambda group, name: group.__setitem__(name, h5py.ExternalLink("other.h5", "/a")),
            "cannot be read as Keras' HDF5",
        ),
        (many, "more groups and arrays than any VGG's file"),
        (deep, "more groups and arrays than any VGG's file"),
        (lambda group, name: group.create_group("a\nb"), r"has a name 'a\\nb'"),
        (
            lambda group, name: group.file.create_dataset("block9_conv1/x", data=KERNEL),
            "VGG has not: 'block9_conv1' .3×3×16×16.: ",
        ),
    ],
)
def test_hostile_files(
    made: Path, tmp_path: Path, make: Callable[[Any, str], object], words: str
) -> None:
    path = tmp_path / "net.h5"
    shutil.copy(made / "vgg16.legacy.h5", path)
    with h5py.File(path, "r+") as file:
        replaced(file, make)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_arrays_that_share_bytes(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    content = (made / "vgg16.legacy.h5").read_bytes()
    with h5py.File(made / "vgg16.legacy.h5") as file:
        one, two = (file[f"{name}/{name}/kernel"].id.get_offset() for name in ("fc1", "fc2"))
    assert content.count(struct.pack("<Q", two)) == 1
    path.write_bytes(content.replace(struct.pack("<Q", two), struct.pack("<Q", one)))
    with pytest.raises(InputError, match="two arrays of its layers share bytes"):
        load(path)


def test_an_attribute_that_claims_two_billion_texts(made: Path, tmp_path: Path) -> None:
    """Believed, it would take 16 GB: its length is in the file where the list of names is."""
    path = tmp_path / "net.h5"
    shutil.copy(made / "vgg16.whole.h5", path)
    with h5py.File(path, "r+") as file:
        file.attrs["name"] = [f"layer {number}" for number in range(77)]
    content = path.read_bytes()
    length = struct.pack("<Q", 77)
    start = content.index(length, content.index(b"name\0\0\0\0"))
    claim = struct.pack("<Q", 0x7FFFFFFF)
    path.write_bytes(content[:start] + claim + content[start + 8 :])
    check(load(path), made / "vgg16")  # it is not asked for


@pytest.mark.parametrize("kept", [9, 100, 900, 5_000, 100_000, 215_000])
@pytest.mark.parametrize("layout", ["legacy.h5", "weights.h5"])
def test_truncated_files(made: Path, tmp_path: Path, layout: str, kept: int) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes((made / f"vgg16.{layout}").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"truncated|copy or download it again") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_reader_is_given_only_so_much(made: Path) -> None:
    with (made / "vgg16.legacy.h5").open("rb") as file:
        bounded = hdf5._Bounded(file, 0, 1 << 40)
        with pytest.raises(ValueError, match="describes more than a VGG"):
            bounded.read(1 << 20)
        with pytest.raises(ValueError, match="describes more than a VGG"):
            bounded.read(-1)
        for _ in range(30_000):
            try:
                bounded.seek(0)
                bounded.read(1)
            except ValueError:
                return
        raise AssertionError("read without an end")


def test_images_that_are_not_square(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    shutil.copy(made / "vgg16.legacy.h5", path)
    with h5py.File(path, "r+") as file:
        del file["fc1/fc1/kernel"]
        file["fc1/fc1/kernel"] = np.zeros((6 * 16, 128), np.float32)
    with pytest.raises(InputError, match="'fc1' takes 96 values, no square of 16 channels"):
        load(path)


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="HDF5, but without weights of a Keras model"):
        load(tmp_path / "empty.h5")


def test_without_the_libraries(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(made / "vgg16.legacy.h5")
    monkeypatch.setitem(sys.modules, "pyfive", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs pyfive: pip install 'vggnet\[keras\]'"):
        load(made / "vgg16.legacy.h5")
    with pytest.raises(InputError, match=r"needs h5py: pip install 'vggnet\[keras\]'"):
        keras.write(model, tmp_path / "net.h5")


def test_converting(made: Path, tmp_path: Path) -> None:
    _, said = convert(made / "vgg16.keras", tmp_path / "net.safetensors")
    assert said == "net D, images RGB 0–255"
    _, said = convert(tmp_path / "net.safetensors", tmp_path / "again.h5")
    assert said.endswith("images preprocess_input")
    check(load(tmp_path / "again.h5"), made / "vgg16")


def test_theanos_kernels_are_refused(tmp_path: Path) -> None:
    """Keras of that backend convolved with the kernel turned."""
    keras.write(net_of("D"), tmp_path / "net.h5")
    load(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file.attrs["backend"] = "theano"
    with pytest.raises(InputError, match="Theano's Keras wrote it"):
        load(tmp_path / "net.h5")

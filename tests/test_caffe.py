"""Caffe's weights: held against Google's protobuf and a restatement of what Caffe computes."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from caffe_files import (
    BGR_MEAN,
    NEW,
    OLD,
    blob,
    caffe_scores,
    caffemodel,
    doubles,
    field,
    floats,
    kind_of,
    layer,
    net_layers,
    old_blob,
    old_sizes,
    plain,
    pooling,
    random_weights,
    shape,
    varint,
)
from memory import PEAK
from vggnet import VGG, InputError, weights
from vggnet.formats import caffe
from vggnet.formats.caffemodel import net_parameter

SMALL = random_weights("A", 32, 5)
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(("net", "crop"), [("D", 64), ("E", 32), ("C", 32)])
def test_scores_are_caffes(tmp_path: Path, net: str, crop: int, form: dict[str, int]) -> None:
    theirs = random_weights(net, crop, 7)
    model = weights.load(write(tmp_path / "net.caffemodel", caffemodel(theirs, form)), net=net)
    assert (model.config.crop, model.config.num_classes) == (crop, 7)
    assert model.provenance.source is not None
    assert model.provenance.source.startswith("Caffe, images BGR 0–255, minus ")
    for image in IMAGES[:, :crop, :crop]:
        assert_scores(model, image, caffe_scores(theirs, image))


def assert_scores(model: VGG, image: NDArray[np.uint8], expected: NDArray[np.float64]) -> None:
    scores = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].detach().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


MEAN_VALUES = field(5, 104.0) + field(5, 117.0) + field(5, 123.0)


@pytest.mark.parametrize("form", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(
    ("transform", "mean", "scale"),
    [
        (MEAN_VALUES, (104, 117, 123), 1),
        (MEAN_VALUES + field(1, 0.0625), (104, 117, 123), 0.0625),
        (field(1, 0.0625) + field(5, 100.0), (100, 100, 100), 0.0625),
        (field(1, 0.0625), (0, 0, 0), 0.0625),
        (field(1, 0.0625) + field(4, "mean.binaryproto"), BGR_MEAN, 0.0625),
        (field(4, "mean.binaryproto") + field(2, 1) + field(3, 224), BGR_MEAN, 1),
    ],
)
def test_a_snapshot_says_what_it_subtracts(
    tmp_path: Path, form: dict[str, int], transform: bytes, mean: tuple[float, ...], scale: float
) -> None:
    data = layer(
        form, "data", kind_of(form, "data"), more=field(36 if form is OLD else 100, transform)
    )
    model = weights.load(write(tmp_path / "net", data + caffemodel(SMALL, form)))
    image = IMAGES[0, :32, :32]
    assert_scores(model, image, caffe_scores(SMALL, image, mean, scale))


def test_a_net_of_one_channel_says_its_mean(tmp_path: Path) -> None:
    grey = SMALL | {"conv1_1": (SMALL["conv1_1"][0][:, :1], SMALL["conv1_1"][1])}
    data = layer(NEW, "data", "Data", more=field(100, field(5, 33.0))) + caffemodel(grey, NEW)
    assert weights.load(write(tmp_path / "net", data)).mean.tolist() == [33.0]


def googles() -> Any:
    """NetParameter with the fields that matter, as caffe.proto declares them: floats as floats."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", package="caffe_test")
    one, many = 1, 3
    i32, i64, text, single, double, message = 5, 3, 9, 2, 1, 11
    declared = {
        "Shape": [("dim", 1, many, i64, "")],
        "Blob": [
            ("num", 1, one, i32, ""),
            ("channels", 2, one, i32, ""),
            ("height", 3, one, i32, ""),
            ("width", 4, one, i32, ""),
            ("data", 5, many, single, ""),
            ("shape", 7, one, message, "Shape"),
            ("double_data", 8, many, double, ""),
        ],
        "Convolution": [("pad", 3, many, i32, ""), ("kernel_size", 4, many, i32, "")],
        "V1Layer": [
            ("name", 4, one, text, ""),
            ("type", 5, one, i32, ""),
            ("blobs", 6, many, message, "Blob"),
            ("convolution_param", 10, one, message, "Convolution"),
        ],
        "Layer": [
            ("name", 1, one, text, ""),
            ("type", 2, one, text, ""),
            ("blobs", 7, many, message, "Blob"),
            ("convolution_param", 106, one, message, "Convolution"),
        ],
        "Net": [
            ("name", 1, one, text, ""),
            ("layers", 2, many, message, "V1Layer"),
            ("layer", 100, many, message, "Layer"),
        ],
    }
    for name, fields in declared.items():
        described = file.message_type.add(name=name)
        for key, number, label, kind, of in fields:
            added = described.field.add(name=key, number=number, label=label, type=kind)
            if of:
                added.type_name = f".caffe_test.{of}"
            elif label == many:
                added.options.packed = key != "pad" and key != "kernel_size"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_test.Net"))


@pytest.mark.parametrize("form", [OLD, NEW], ids=["old", "new"])
def test_google_reads_in_our_test_files_what_we_put_there(form: dict[str, int]) -> None:
    net = googles().FromString(caffemodel(SMALL, form))
    layers = {one.name: one for one in (net.layers if form is OLD else net.layer) if one.blobs}
    assert list(layers) == list(SMALL)
    for name, (weight, bias) in SMALL.items():
        first, second = layers[name].blobs
        assert np.array_equal(np.array(first.data, np.float32), weight.ravel())
        assert np.array_equal(np.array(second.data, np.float32), bias)
        if form is NEW:
            assert tuple(first.shape.dim) == weight.shape
        else:
            sizes = (first.num, first.channels, first.height, first.width)
            assert sizes == (1,) * (4 - weight.ndim) + weight.shape


@pytest.mark.parametrize("form", ["layers", "layer"])
def test_what_google_writes_is_read(tmp_path: Path, form: str) -> None:
    net = googles()(name="net")
    getattr(net, form).add(name="data", type=5 if form == "layers" else "Data")
    for name, (weight, bias) in SMALL.items():
        one = getattr(net, form).add(name=name)
        if name.startswith("conv"):
            one.convolution_param.pad.append(1)
            one.convolution_param.kernel_size.append(3)
        for values in (weight, bias):
            added = one.blobs.add(data=values.ravel())
            added.shape.dim.extend(values.shape)
    found = caffe.read(write(tmp_path / "net", net.SerializeToString())).tensors
    assert_same(found)


def assert_same(found: dict[str, torch.Tensor]) -> None:
    assert len(found) == 2 * len(SMALL)
    for name, (weight, bias) in SMALL.items():
        assert np.array_equal(found[f"{name}.weight"].numpy(), weight), name
        assert np.array_equal(found[f"{name}.bias"].numpy(), bias), name


def unpacked(values: NDArray[Any]) -> bytes:
    sizes = field(7, b"".join(field(1, size) for size in values.shape))
    return sizes + floats(values)


def in_pieces(values: NDArray[Any]) -> bytes:
    flat = values.ravel()
    return blob(values, data=floats(flat[:3]) + floats(flat[3:]))


def doubles_in_pieces(values: NDArray[Any]) -> bytes:
    flat = values.ravel()
    return blob(values, data=doubles(flat[:1]) + doubles(flat[1:]) + doubles(flat[:0]))


def convolutional(values: NDArray[Any]) -> bytes:
    """fc6, fc7, fc8 as convolutions: all of 1×1 at a crop of 32."""
    sizes = values.shape if values.ndim != 2 else (*values.shape, 1, 1)
    return blob(values, shape(sizes))


@pytest.mark.parametrize(
    "way",
    [
        old_blob,
        unpacked,
        in_pieces,
        convolutional,
        lambda values: blob(values, data=doubles(values)),
        doubles_in_pieces,
        lambda values: blob(values, data=field(6, b"\0" * 8) + floats(values)),  # its gradient
    ],
)
def test_every_way_to_write_a_blob(tmp_path: Path, way: Callable[[Any], bytes]) -> None:
    assert_same(caffe.read(write(tmp_path / "net", caffemodel(SMALL, NEW, way))).tensors)


def test_a_convolutional_fc6_is_flattened_as_caffe_does(tmp_path: Path) -> None:
    theirs = random_weights("A", 64, 3)

    def way(values: NDArray[Any]) -> bytes:
        if values is theirs["fc6"][0]:
            return blob(values, shape((256, 32, 2, 2)))
        return convolutional(values)

    found = caffe.read(write(tmp_path / "net", caffemodel(theirs, NEW, way))).tensors
    assert np.array_equal(found["fc6.weight"].numpy(), theirs["fc6"][0])


def test_fine_tuned_nets_and_nets_without_a_head(tmp_path: Path) -> None:
    path = write(tmp_path / "a", caffemodel(SMALL, NEW, rename={"fc8": "fc8_flickr"}))
    assert_same(caffe.read(path).tensors)
    body = {name: value for name, value in SMALL.items() if name.startswith("conv")}
    assert not weights.load(write(tmp_path / "b", caffemodel(body, OLD))).config.head


def test_settings_that_are_not_stored_are_not_missed(tmp_path: Path) -> None:
    data = b"".join(
        layer(NEW, name, "", [blob(weight), blob(bias)]) for name, (weight, bias) in SMALL.items()
    )
    assert data.startswith(b"\xa2\x06")
    assert weights.load(write(tmp_path / "net", data)).config.net == "A"


def changed(name: str, *blobs: bytes, form: dict[str, int] = NEW, more: bytes = b"") -> bytes:
    """The small net with another layer instead of one."""
    return b"".join((net_layers(SMALL, form) | {name: layer(form, name, "", blobs, more)}).values())


def without(name: str) -> bytes:
    return caffemodel({key: value for key, value in SMALL.items() if key != name}, NEW)


W, B = SMALL["conv1_1"]
GOOD = caffemodel(SMALL, OLD)
V0 = field(2, field(1, field(1, "conv1_1") + field(50, blob(W))))


def setting(number: int, value: int) -> bytes:
    return changed("conv1_1", blob(W), blob(B), more=field(106, field(3, 1) + field(number, value)))


def nan(values: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(values, np.nan)


BROKEN: dict[str, tuple[bytes, str]] = {
    "truncated": (GOOD[:-10], "truncated or damaged"),
    "truncated at a layer": (GOOD[: len(GOOD) // 2], "truncated or damaged"),
    "cut after a layer": (caffemodel({"conv1_1": (W, B)}, OLD), "of no VGG net"),
    "only a name": (field(1, "net"), "has no layers with weights"),
    "text": (b"\nname: 'VGG'", "truncated or damaged"),
    "one bare key": (b"\x0a", "truncated or damaged"),
    "endless varint": (b"\x0a" + b"\xff" * 20, "truncated or damaged"),
    "groups": (field(1, "net") + b"\x0b\x0c", "truncated or damaged"),
    "V0": (V0, "upgrade_net_proto_binary"),
    "many layers": (b"\x12\x00" * 10_000_000, "more than 1,000 fields"),
    "many blobs": (changed("fc8", *[b""] * 1100), "more than 1,000 fields"),
    "many names": (field(1, "net") * 5000, "more than 1,000 fields"),
    "many in all": (layer(OLD, "relu", 18, more=field(7, 0) * 20) * 900, "or 10,000 in all"),
    "many sizes": (changed("fc8", blob(W, shape([0] * 1100)), blob(B)), "more than 1,000 fields"),
    "a number for a layer": (field(1, "net") + field(2, 7), "has no layers with weights"),
    "a number for a blob": (
        changed("conv1_1", blob(W), more=field(7, 3)),
        "conv1_1 has 1 blobs, expected",
    ),
    "floats one by one": (
        changed("conv1_1", blob(W), blob(B, data=b"".join(field(5, float(b)) for b in B))),
        "conv1_1.bias has no data",
    ),
    "field 0": (GOOD + field(2, b"\2\0"), "truncated or damaged"),
    "long key": (GOOD + b"\x92\x80\x80\x80\x80\x01\0", "truncated or damaged"),
    "another layer": (
        GOOD + layer(OLD, "bn1", 4, [blob(W), blob(B)]),
        "'bn1' has weights, and no VGG net",
    ),
    "two of one name": (GOOD + layer(OLD, "fc7", 14, [blob(W), blob(B)]), "has two layers fc7"),
    "LRN": (GOOD + layer(OLD, "norm1", 15), "'norm1' is a local response normalisation"),
    "LRN, new": (GOOD + layer(NEW, "norm1", "LRN"), "'norm1' is a local response normalisation"),
    "one blob": (changed("conv1_1", blob(W)), "conv1_1 has 1 blobs, expected a weight and a bias"),
    "no data": (changed("conv1_1", shape(W.shape), blob(B)), "conv1_1.weight has no data"),
    "mean of two": (
        layer(NEW, "data", "Data", more=field(100, field(5, 1.0) * 2)) + GOOD,
        "its layer of data subtracts",
    ),
    "no scale": (
        layer(NEW, "data", "Data", more=field(100, field(1, 0.0))) + GOOD,
        "multiplies by 0.0",
    ),
    "mean NaN": (
        layer(NEW, "data", "Data", more=field(100, field(5, float("nan")))) + GOOD,
        "subtracts .nan",
    ),
    "wrong size": (changed("conv1_1", blob(W, shape((3, 3))), blob(B)), "said to be 3×3 and has"),
    "negative size": (
        changed("conv1_1", blob(W, shape((-4, -27))), blob(B)),
        "said to be -4×-27 and has",
    ),
    "huge sizes": (
        changed("conv1_1", blob(W, shape([1 << 62] * 40)), blob(B)),
        "4611686018427387904×…",
    ),
    "empty": (changed("conv1_1", blob(W, shape((0,)), field(5, b"")), blob(B)), "and has 0 bytes"),
    "odd bytes": (changed("conv1_1", blob(W, data=field(5, b"abcde")), blob(B)), "has 5 bytes"),
    "no sizes": (changed("conv1_1", floats(W), blob(B)), "said to be 0×0×0×0"),
    "scalar": (changed("conv1_1", field(7, b"") + floats(W[0, 0, 0, :1]), blob(B)), "no VGG net"),
    "matrix": (changed("conv1_1", blob(W, shape((4, 27))), blob(B)), "of no VGG net"),
    "flat": (changed("fc6", blob(W, shape((W.size,))), blob(B)), "is no net that vggnet can make"),
    "no fc7": (without("fc7"), "fc7.bias is missing"),
    "no fc8": (without("fc8"), "has no fc8.weight"),
    "no blobs": (
        GOOD + layer(NEW, "fc7", "InnerProduct"),
        "'fc7' has 0 blobs, expected a weight and a bias",
    ),
    "no type": (changed("fc7"), "'fc7' is of type ''"),
    "NaN": (changed("conv1_1", blob(W), blob(nan(B))), "conv1_1.bias has values that are not fin"),
    "too large": (
        changed("conv1_1", blob(W), blob(B, data=doubles(B.astype(float) * 1e300))),
        "conv1_1.bias has values that are not finite",
    ),
    "pad": (setting(3, 100), "conv1_1 has pad 1 100, and a VGG net's has 1"),
    "no pad": (
        changed("conv1_1", blob(W), blob(B), more=field(106, b"")),
        "conv1_1 has pad 0, and a VGG net's has 1",
    ),
    "pad, old": (
        changed("conv1_1", blob(W), blob(B), form=OLD, more=field(10, field(3, 100))),
        "conv1_1 has pad 100",
    ),
    "stride": (setting(6, 2), "conv1_1 has stride 2"),
    "dilation": (setting(18, 2), "conv1_1 has dilation 2"),
    "group": (setting(5, 2), "conv1_1 has group 2"),
    "transposed": (
        changed("fc7", *map(blob, SMALL["fc7"]), more=field(117, field(6, 1))),
        "fc7 is stored transposed",
    ),
    "odd name": (GOOD + layer(OLD, "a\nb" * 99, 4, [blob(W)]), r"a\\nb"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "net.caffemodel", data)
    with pytest.raises(InputError, match=message) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


Net = dict[str, bytes]


def replaced(name: str, new: Callable[[dict[str, int]], bytes]) -> Callable[..., Net]:
    return lambda form, net: net | {name: new(form)}


def removed(*starts: str) -> Callable[..., Net]:
    return lambda _, net: {name: one for name, one in net.items() if not name.startswith(starts)}


def exchanged(first: str, second: str) -> Callable[..., Net]:
    return lambda _, net: net | {first: net[second], second: net[first]}


def after(name: str, new: Callable[[dict[str, int]], bytes]) -> Callable[..., Net]:
    return lambda form, net: net | {name: net[name] + new(form)}


def pool3(*settings: int, more: bytes = b"") -> Callable[..., Net]:
    """Other settings of pool3: method, kernel, stride; and more fields of PoolingParameter."""

    def new(form: dict[str, int]) -> bytes:
        added = field(form["pooling"], more) if more else b""  # protobuf merges the two
        return plain(form, "pool3", "conv3_2", "pool3", pooling(form, *settings) + added)

    return replaced("pool3", new)


def relu(form: dict[str, int], bottom: str, top: str, slope: float = 0.0) -> bytes:
    return plain(form, "relu", bottom, top, field(form["relu"], field(1, slope)))


def typed(name: str, old: int, new: str) -> Callable[..., Net]:
    """The layer with its weights and another type."""

    def write(form: dict[str, int]) -> bytes:
        blobs = [blob(values) for values in SMALL[name]]
        return layer(form, name, old if form is OLD else new, blobs)

    return replaced(name, write)


def weightless(old: int, new: str) -> Callable[[dict[str, int]], bytes]:
    return lambda form: layer(form, "more", old if form is OLD else new)


OTHER: dict[str, tuple[Callable[..., Net], str]] = {
    "average": (pool3(1), "'pool3' does not pool by the maximum"),
    "stochastic": (pool3(2), "'pool3' does not pool by the maximum"),
    "3×3 at 1": (pool3(0, 3, 1), "'pool3' pools with kernel 3, and a VGG net with 2"),
    "overlapping": (pool3(0, 3, 2), "'pool3' pools with kernel 3"),
    "2×2 at 1": (pool3(0, 2, 1), "'pool3' pools with stride 1"),
    "of no stride": (
        replaced(
            "pool3",
            lambda form: plain(
                form, "pool3", "conv3_2", "pool3", field(form["pooling"], field(2, 2))
            ),
        ),
        "'pool3' pools with stride 1",
    ),
    "2×3": (pool3(more=field(6, 3)), "'pool3' pools with kernel 2 3"),
    "at 2, 1": (pool3(more=field(8, 1)), "'pool3' pools with stride 2 1"),
    "padded": (pool3(more=field(4, 1)), "'pool3' pools with pad 1"),
    "padded rows": (pool3(more=field(9, 1)), "'pool3' pools with pad 1"),
    "global": (pool3(more=field(12, 1)), "'pool3' does not pool by the maximum of 2×2"),
    "of no size": (
        replaced("pool3", lambda form: plain(form, "pool3", "conv3_2", "pool3")),
        "'pool3' pools with kernel ?",
    ),
    "leaky": (
        replaced("relu4_1", lambda form: relu(form, "conv4_1", "conv4_1", 0.1)),
        "'relu' is a leaky ReLU",
    ),
    "sigmoid": (
        replaced("relu4_1", lambda form: plain(form, "sigmoid", "conv4_1", "conv4_1")),
        "'sigmoid' is of type 'Sigmoid'",
    ),
    "power": (after("relu6", weightless(26, "Power")), "'more' is of type 'Power'"),
    "sum": (after("pool2", weightless(25, "Eltwise")), "'more' is of type 'Eltwise'"),
    "unknown": (after("pool2", weightless(99, "99")), "'more' is of type '99'"),
    "dropout that scales": (
        replaced(
            "drop6",
            lambda form: plain(form, "drop6", "fc6", "fc6", field(form["dropout"], field(2, 0))),
        ),
        "'drop6' scales in evaluation",
    ),
    "no ReLUs": (removed("relu"), "'pool1' stands where a VGG net has relu"),
    "no ReLU of fc6": (removed("relu6"), "'fc7' stands where a VGG net has relu"),
    "no poolings": (removed("pool"), "'conv2_1' stands where a VGG net has pool"),
    "no pool5": (removed("pool5"), "'fc6' stands where a VGG net has pool"),
    "only dropout": (removed("pool", "relu"), "'conv2_1' stands where a VGG net has relu"),
    "ReLU of fc8": (
        after("fc8", lambda form: relu(form, "fc8", "fc8")),
        "'relu' stands where a VGG net has no more",
    ),
    "reversed": (
        lambda _, net: dict(reversed(net.items())),
        "'prob' stands where a VGG net has conv1_1",
    ),
    "convolutions exchanged": (
        exchanged("conv3_1", "conv4_1"),
        "'conv4_1' stands where a VGG net has conv3_1",
    ),
    "pooling before ReLU": (exchanged("relu2_1", "pool2"), "'pool2' stands where .* has relu"),
    "soft-max within": (
        after("fc7", lambda form: plain(form, "prob", "fc7", "fc7")),
        "'prob' stands where a VGG net has relu",
    ),
    "a ReLU passed by": (
        replaced("relu3_2", lambda form: relu(form, "conv3_2", "relu3_2")),
        "'pool3' does not take what the layer before it puts out",
    ),
    "a ReLU of another": (
        replaced("relu3_2", lambda form: relu(form, "conv3_1", "conv3_1")),
        "'relu' does not take what the layer before it puts out",
    ),
    "transposed": (typed("conv2_1", 39, "Deconvolution"), "'conv2_1' is of type 'Deconvolution'"),
    "matrix": (typed("conv2_1", 14, "InnerProduct"), "'conv2_1' is of type 'InnerProduct'"),
    "data": (typed("fc6", 5, "Data"), "'fc6' is of type 'Data'"),
}


@pytest.mark.parametrize("form", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(("change", "message"), OTHER.values(), ids=OTHER)
def test_a_net_of_another_function_is_refused(
    tmp_path: Path, change: Callable[..., Net], message: str, form: dict[str, int]
) -> None:
    net = change(form, net_layers(SMALL, form))
    path = write(tmp_path / "net", field(1, "net") + b"".join(net.values()))
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        caffe.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def snapshot(form: dict[str, int], net: Net) -> Net:
    """As training writes it: data and labels first, scores copied for a loss and an accuracy."""

    def ends(bottom: str, *tops: str) -> bytes:
        return field(form["bottom"], bottom) + b"".join(field(form["top"], top) for top in tops)

    def last(name: str, old: int, new: str, bottom: str) -> bytes:
        taken = field(form["bottom"], bottom) + field(form["bottom"], "label_1")
        return layer(form, name, old if form is OLD else new, more=taken + field(form["top"], name))

    first = layer(form, "data", kind_of(form, "data"), more=field(form["top"], "data"))
    labels = layer(form, "l", kind_of(form, "split"), more=ends("label", "label_0", "label_1"))
    scores = layer(form, "s", kind_of(form, "split"), more=ends("fc8", "fc8_0", "fc8_1"))
    head = {"data": first + labels}
    tail = last("accuracy", 1, "Accuracy", "fc8_0") + last("loss", 21, "SoftmaxWithLoss", "fc8_1")
    return (
        head | {name: one for name, one in net.items() if name != "prob"} | {"end": scores + tail}
    )


def copied(form: dict[str, int], net: Net) -> Net:
    """conv1_1's output twice: its ReLU takes the one, nobody the other."""
    tops = field(form["top"], "conv1_1_0") + field(form["top"], "conv1_1_1")
    both = field(form["bottom"], "conv1_1") + tops
    net["conv1_1"] += layer(form, "copies", kind_of(form, "split"), more=both)
    return net | {"relu1_1": relu(form, "conv1_1_1", "conv1_1")}


def apart(form: dict[str, int], net: Net) -> Net:
    """No ReLU of the fifth stage is in place, and names of what is put out are not all given."""
    net["relu5_2"] = relu(form, "conv5_2", "relu5_2")
    net["pool5"] = layer(form, "pool5", kind_of(form, "pool"), more=pooling(form))
    return net


SAME: dict[str, Callable[..., Net]] = {
    "as it is": lambda _, net: net,
    "without dropout": removed("drop", "prob"),
    "only weights": removed("relu", "pool", "drop", "prob"),
    "only weights, in any order": lambda _, net: dict(
        sorted(removed("relu", "pool", "drop", "prob")(_, net).items(), reverse=True)
    ),
    "only weights and data": lambda form, net: (
        {"data": layer(form, "data", kind_of(form, "data"))}
        | removed("relu", "pool", "drop", "prob")(form, net)
    ),
    "snapshot": snapshot,
    "copied": copied,
    "apart": apart,
    "zeros given": pool3(more=field(9, 0) + field(10, 0) + field(12, 0)),
    "slope 0": replaced("relu4_1", lambda form: relu(form, "conv4_1", "conv4_1", 0.0)),
}


@pytest.mark.parametrize("form", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_a_net_of_the_same_function_is_read(
    tmp_path: Path, change: Callable[..., Net], form: dict[str, int]
) -> None:
    net = change(form, net_layers(SMALL, form))
    path = write(tmp_path / "net", field(1, "net") + b"".join(net.values()))
    assert_same(caffe.read(path).tensors)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        caffe.read(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        caffe.read(tmp_path / "missing")
    with pytest.raises(InputError, match="no layers"):
        caffe.read(write(tmp_path / "empty", b""))
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 31)  # a hole: no bytes on the disk
    with pytest.raises(InputError, match="larger than 2 GiB"):
        caffe.read(huge)


LOAD = (
    PEAK
    + """
import sys
from vggnet import InputError, weights
try:
    weights.load(sys.argv[2])
except InputError:
    pass
before = peak()
try:
    weights.load(sys.argv[1])
except InputError as error:
    print(peak() - before, str(error).removeprefix(sys.argv[1]))
"""
)


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"", b"\x12\0"),  # empty layers
        (b"\x12", b"\x32\0"),  # empty blobs of a layer
        (b"\x12", b"\x52\0"),  # its settings, again and again
    ],
)
def test_many_parts_cost_no_more_than_their_file(tmp_path: Path, start: bytes, part: bytes) -> None:
    size = 100_000_000
    parts = part * (size // len(part))
    bomb = write(tmp_path / "bomb", start + (varint(len(parts)) if start else b"") + parts)
    small = write(tmp_path / "small", field(1, "net"))
    result = subprocess.run(
        [sys.executable, "-c", LOAD, bomb, small], capture_output=True, text=True, check=True
    )
    grown, said = result.stdout.split(maxsplit=1)
    assert int(grown) < 400_000_000 / 1024
    assert said.startswith(": has more than 1,000 fields")
    assert said.count("\n") == 1


def test_without_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net", GOOD)
    net_parameter.cache_clear()
    for name in [name for name in sys.modules if name.startswith("google.protobuf")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"needs protobuf: pip install 'vggnet\[caffe\]'"):
        weights.load(path)


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    chance = random.Random(3)
    for form in (OLD, NEW):
        # Short blobs, so that most of the changed bytes are structure.
        tiny = {name: (w.ravel()[:2], b[:1]) for name, (w, b) in SMALL.items()}
        good = caffemodel(tiny, form, blob)
        for _ in range(150):
            data = bytearray(good)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(1, len(data))] = chance.choice((0, 0x7F, 0x80, 0xFF))
            path = write(tmp_path / "net", bytes(data[: chance.choice((len(data), 300))]))
            with pytest.raises(InputError, match="net: "):
                weights.load(path)


def test_varints_of_our_own() -> None:
    assert [varint(n) for n in (1, 300, -1)] == [b"\1", b"\xac\2", b"\xff" * 9 + b"\1"]
    assert old_sizes((2, 300)) == b"\x08\1\x10\1\x18\2\x20\xac\2"

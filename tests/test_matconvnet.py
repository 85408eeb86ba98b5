"""MatConvNet's weights, and the reader of MAT-files: held against SciPy's, and vl_nnconv's sum."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from scipy.sparse import eye_array

from caffe_files import random_weights
from mat_files import MEAN, Mat, cell, layers, matconvnet, matconvnet_scores
from vggnet import InputError, weights
from vggnet.formats import matfile
from vggnet.formats.foreign import RGB_MEAN
from vggnet.imagenet import synset_names

SMALL = random_weights("A", 32, 5)
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
FULL_MEAN = np.broadcast_to(np.array(MEAN, np.float32), (224, 224, 3))


@pytest.mark.parametrize(("old", "compressed"), [(False, True), (True, False)])
@pytest.mark.parametrize(("net", "crop"), [("D", 64), ("E", 32), ("C", 32)])
def test_scores_are_matconvnets(
    tmp_path: Path, net: str, crop: int, old: bool, compressed: bool
) -> None:
    theirs = random_weights(net, crop, 7)
    mean = FULL_MEAN if old else None
    path = matconvnet(tmp_path / "net.mat", theirs, old=old, compressed=compressed, mean=mean)
    model = weights.load(path, net=net)
    assert (model.config.crop, model.config.num_classes) == (crop, 7)
    assert model.provenance.source is not None
    assert model.provenance.source.startswith("MatConvNet, images RGB 0–255, minus ")
    assert torch.equal(model.mean, torch.tensor(MEAN))
    for image in IMAGES[:, :crop, :crop]:
        expected = matconvnet_scores(layers(theirs, old), image)
        scores = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].detach().numpy()
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_a_net_of_one_class_whose_last_dimension_matlab_drops(tmp_path: Path) -> None:
    theirs = random_weights("A", 64, 1)
    structs = layers(theirs)
    structs[-2]["weights"] = cell([theirs["fc8"][0].reshape(1, 1, 256), theirs["fc8"][1][None]])
    assert structs[-2]["name"] == "fc8"
    path = matconvnet(tmp_path / "net.mat", theirs, layers=cell(structs))
    found = weights.load(path).state_dict()
    assert np.array_equal(found["fc8.weight"].numpy(), theirs["fc8"][0])


def test_fine_tuned_nets_nets_without_a_head_and_nets_in_a_variable(tmp_path: Path) -> None:
    path = matconvnet(tmp_path / "a.mat", SMALL, rename={"fc8": "fc8_birds"})
    assert weights.load(path).config.num_classes == 5
    body = {name: value for name, value in SMALL.items() if name.startswith("conv")}
    names = {"name": cell(["a", "b"]), "description": cell(["a", "b"])}
    assert not weights.load(matconvnet(tmp_path / "b.mat", body, classes=names)).config.head
    meta = {"normalization": {"averageImage": np.array([MEAN])}}
    net = {"layers": cell(layers(SMALL)), "meta": meta}
    savemat(tmp_path / "c.mat", {"net": net, "stats": 1.0})
    assert weights.load(tmp_path / "c.mat").config.net == "A"


SYNSETS = list(synset_names())
SORTED, SHUFFLED = SYNSETS[:], SYNSETS[::-1]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"name": cell(SORTED), "description": cell(["x"] * 1000)}, list(synset_names().values())),
        ({"name": cell(SHUFFLED)}, list(synset_names().values())[::-1]),
        ({"name": np.array(SHUFFLED)}, list(synset_names().values())[::-1]),
        (None, list(synset_names().values())),
        (np.zeros((0, 0)), list(synset_names().values())),
    ],
)
def test_synsets_get_readable_names(tmp_path: Path, classes: Any, expected: list[str]) -> None:
    path = matconvnet(tmp_path / "a.mat", random_weights("A", 32, 1000), classes=classes)
    found = weights.load(path).provenance
    assert list(found.class_names or ()) == expected
    assert found.dataset is None


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"name": cell("abcde"), "description": cell(["a, A", "b", "c", "d", "é"])}, "abcdé"),
        ({"name": cell("abcde")}, "abcde"),
        ({"description": cell("vwxyz")}, "vwxyz"),
        ({"description": cell(["a, A", "a, B", "c", "d", "e"])}, ["a, A", "a, B", *"cde"]),
        ({"name": cell(["n99999999", *SYNSETS[:4]])}, None),
        ({"name": cell(SYNSETS), "description": cell(SYNSETS)}, None),  # of the net before
        ({"name": 3.0, "description": cell([1.0] * 5)}, None),
        ({"name": cell(["a", "b", "c", "d", " "])}, None),
    ],
)
def test_names_are_the_files_own(tmp_path: Path, classes: Any, expected: Any) -> None:
    path = matconvnet(tmp_path / "a.mat", SMALL, classes=classes, old=True)
    found = weights.load(path).provenance.class_names
    assert found == (None if expected is None else tuple(expected))


VALUES: dict[str, Any] = {
    **{
        f"n_{kind}": np.arange(24).reshape(2, 3, 4).astype(kind)
        for kind in ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    },
    "logical": np.array([[True, False, True]]),
    "number": 3.5,
    "row": np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]),
    "empty": np.zeros((0, 3)),
    "text": "Käse, 日本",
    "no_text": "",
    "lines": np.array(["ab ", "cde"]),
    "cells": cell(["a", np.arange(3.0)[None], cell(["deep", 1.0]), np.zeros((0, 0))]),
    "struct": {"a": 1.0, "name_longer_than_eight": "x", "inner": {"b": np.eye(2)}},
    "structs": np.array([[(1.0, "p"), (2.0, "q")]], dtype=[("a", object), ("b", object)]),
    "sparse": eye_array(3, format="csc"),
    "complex": np.array([[1 + 2j]]),
    "last": np.float32(7).reshape(1, 1),
}


def plain(value: Any) -> Any:
    """What SciPy reads, as lists and dicts of arrays."""
    if value.dtype.names:
        structs = [
            {key: plain(one[key]) for key in value.dtype.names} for one in value.flatten("F")
        ]
        return structs[0] if len(structs) == 1 else structs
    if value.dtype == object:
        return [plain(one) for one in value.flatten("F")]
    if value.dtype.kind == "U":
        return value[0] if len(value) == 1 else list(value) if len(value) else ""
    return value


def assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) or isinstance(expected, str)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, np.ndarray) and expected.size:
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert found.size == 0
    else:
        assert found == expected


@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_those_that_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    savemat(path, VALUES, do_compression=compressed)
    theirs = loadmat(path, chars_as_strings=True)
    found = matfile.read(path, VALUES.keys())
    assert found.keys() == VALUES.keys()
    assert found.pop("sparse") is found.pop("complex") is None
    for name, value in found.items():
        assert_equal(value, plain(theirs[name]))
    some = matfile.read(path, ("last", "none"))
    assert some.keys() == VALUES.keys()
    assert {name for name, value in some.items() if value is not None} == {"last"}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
def test_both_orders_of_bytes_and_narrow_storage(
    tmp_path: Path, order: str, compressed: bool
) -> None:
    mat = Mat(order)
    whole = np.arange(6.0).reshape(2, 3)
    arrays = [
        mat.numbers(whole, "u1", name="narrow"),
        mat.numbers(whole.astype("f4"), name="f"),
        mat.numbers(whole, name="unsigned").replace(mat.integers((2, 3)), mat.unsigned((2, 3))),
        mat.text("Gruss", name="text"),
        mat.text("Grüße", name="utf16", kind=17),
        mat.struct(
            {
                "a": mat.cell(mat.text("x"), mat.numbers(whole[:, :1], "i2")),
                "b": mat.element(14, b""),
            },
            name="s",
        ),
    ]
    data = mat.header() + b"".join(map(mat.compressed, arrays) if compressed else arrays)
    path = tmp_path / "a.mat"
    path.write_bytes(data)
    theirs = loadmat(io.BytesIO(data))
    for name, value in matfile.read(
        path, ("narrow", "f", "unsigned", "text", "utf16", "s")
    ).items():
        assert_equal(value, plain(theirs[name]))


def test_letters_beyond_ascii_as_matlab_writes_them(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(Mat().header() + Mat().text("Grüße", name="text"))
    assert matfile.read(tmp_path / "a.mat", ("text",)) == {"text": "Grüße"}  # SciPy cannot


def test_objects_of_today_are_passed_over(tmp_path: Path) -> None:
    mat = Mat()
    flags = mat.element(6, struct.pack("<II", 17, 0))
    opaque = mat.element(14, flags + mat.element(1, b"t") + mat.element(1, b"MCOS"))
    within = mat.struct({"a": mat.element(14, flags + mat.element(1, b"") * 3), "b": mat.text("x")})
    path = tmp_path / "a.mat"
    path.write_bytes(mat.header() + opaque + mat.cell(within, name="c"))
    assert matfile.read(path, ("t", "c")) == {"t": None, "c": [{"a": None, "b": "x"}]}


def edit(change: Callable[[list[Any]], object]) -> Callable[[Path], object]:
    """A file whose structs were changed."""

    def apply(path: Path) -> None:
        structs = layers(SMALL)
        change(structs)
        matconvnet(path, SMALL, layers=cell(structs))

    return apply


def pool1(**settings: Any) -> Callable[[Path], object]:
    return edit(lambda all: all[2].update(settings))


def only(keep: Callable[[dict[str, Any]], bool]) -> Callable[[Path], object]:
    return edit(lambda all: all.__setitem__(slice(None), list(filter(keep, all))))


def with_mean(mean: Any) -> Callable[[Path], object]:
    return lambda path: matconvnet(path, SMALL, mean=mean)


def raw(*arrays: bytes, text: str = "MATLAB 5.0", order: str = "<") -> Callable[[Path], object]:
    return lambda path: path.write_bytes(Mat(order).header(text) + b"".join(arrays))


def cut(share: float, compressed: bool = False) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        data = matconvnet(path, SMALL, compressed=compressed).read_bytes()
        path.write_bytes(data[: round(share * len(data))])

    return apply


M = Mat()
FLAT = np.zeros((224, 224, 3))
FLAT[100, 3, 1] = 1


def deep(levels: int) -> bytes:
    value = M.text("x")
    for level in range(levels):
        value = M.cell(value, name="layers" * (level == levels - 1))
    return value


def bomb(inner: bytes, claim: int) -> bytes:
    """100 MB of zeros that follow `inner` in an array named layers, in about 100 kB."""
    packer = zlib.compressobj(9)
    packed = packer.compress(struct.pack("<II", 14, claim) + inner)
    for _ in range(100):
        packed += packer.compress(bytes(1 << 20))
    packed += packer.flush()
    return struct.pack("<II", 15, len(packed)) + packed


HEAD = M.numbers(np.zeros((1, 1)), name="layers")[8:48]
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut(0.9), "truncated"),
    "truncated, compressed": (cut(0.9, True), "truncated"),
    "only a header": (cut(0), "not a weight file in a format"),
    "nothing in it": (raw(), "has no cell array `layers`.* none"),
    "short header": (lambda path: path.write_bytes(b"MATLAB 5.0"), "not that of a MAT-file"),
    "no mark": (lambda path: path.write_bytes(b"MATLAB 5.0" + bytes(200)), "not that of a MAT"),
    "7.3": (raw(text="MATLAB 7.3 MAT-file"), "save -v7"),
    "DagNN": (
        lambda path: savemat(path, {"layers": cell([]), "params": 1.0, "vars": 2.0}),
        "holds a DagNN",
    ),
    "DagNN in a variable": (
        lambda path: savemat(path, {"net": {"layers": cell([]), "params": 1.0}}),
        "holds a DagNN",
    ),
    "something else": (lambda path: savemat(path, {"x": 1.0, "y": 2.0}), "variables are 'x', 'y'$"),
    "odd name": (raw(M.text("x", name="a\n" * 999)), r"variables are 'a\\na"),
    "layers no cell": (lambda path: savemat(path, {"layers": 1.0}), "no cell array `layers`"),
    "layers of numbers": (lambda path: savemat(path, {"layers": cell([1.0])}), "layer 1 is no str"),
    "no weights": (edit(lambda all: all.__delitem__(slice(0, -1))), "none of its 1 layers"),
    "VGG-F": (edit(lambda all: all[0].update(name="conv1")), "'conv1' has weights"),
    "no name": (edit(lambda all: all[0].update(name="")), "layer 1 is a convolution without a nam"),
    "batch norm": (
        edit(lambda all: all[1].update(type="bnorm", name="bn1")),
        r"layer 2 \('bn1'\) is of type 'bnorm'",
    ),
    "LRN": (edit(lambda all: all[1].update(type="normalize")), "of type 'normalize'"),
    "two of one name": (edit(lambda all: all.append(all[0])), "has two layers conv1_1"),
    "no filters": (edit(lambda all: all[0].pop("weights")), "vl_simplenn_move"),
    "one weight": (
        edit(lambda all: all[0].update(weights=cell([1.0]))),
        "conv1_1 has no filters and biases in plain arrays",
    ),
    "empty weights": (
        edit(lambda all: all[0].update(weights=cell([np.zeros((0, 0)), 1.0]))),
        "conv1_1 has no filters",
    ),
    "five dimensions": (
        edit(lambda all: all[0].update(weights=cell([np.zeros((3, 3, 3, 4, 2)), 1.0]))),
        "filters of 5 dimensions",
    ),
    "transposed": (
        edit(lambda all: all[3].update(weights=cell([np.zeros((3, 3, 8, 4)), np.zeros((1, 4))]))),
        "conv2_1.bias is",
    ),
    "pad": (edit(lambda all: all[0].update(pad=np.array([[0.0, 1, 1, 1]]))), "has pad 0 1 1 1"),
    "no pad": (edit(lambda all: all[0].pop("pad")), "conv1_1 has pad 0"),
    "half a pad": (edit(lambda all: all[0].update(pad=1.5)), "conv1_1 has pad -1"),
    "stride": (edit(lambda all: all[0].update(stride=2.0)), "conv1_1 has stride 2"),
    "dilation": (edit(lambda all: all[0].update(dilate=2.0)), "conv1_1 has dilation 2"),
    "NaN": (
        edit(lambda all: all[0].update(weights=cell([np.full((3, 3, 3, 4), np.nan), [[0.0] * 4]]))),
        "conv1_1.weight has values that are not finite",
    ),
    "too large": (
        edit(lambda all: all[0].update(weights=cell([np.full((3, 3, 3, 4), 1e99), [[0.0] * 4]]))),
        "conv1_1.weight has values that are not finite",
    ),
    "no mean": (with_mean(np.zeros((0, 0))), "has no mean RGB"),
    "mean of none": (with_mean(np.zeros((0, 0, 0))), "has no mean RGB"),
    "mean of two": (with_mean(np.zeros((1, 2))), "has no mean RGB"),
    "mean of one": (with_mean(5.0), "takes 3 channels, its pre-processing is of 1"),
    "mean image": (with_mean(FLAT), "subtracts a mean image .224×224×3. whose pixels differ"),
    "mean NaN": (with_mean(np.full((1, 1, 3), np.nan)), "averageImage has values that are not fin"),
    "deep": (raw(deep(40)), "more than 16 deep"),
    "bomb": (raw(bomb(b"", 100)), "cannot be read as a MAT-file"),
    "bomb of numbers": (
        raw(
            bomb(
                M.array(6, (1, 13 << 20), name="layers")[8:] + M.element(9, b"", 104 << 20), 1 << 27
            )
        ),
        "claims more bytes than there can be",
    ),
    "bomb of cells": (
        raw(bomb(M.array(1, (1, 13 << 17), name="layers")[8:], 1 << 26)),
        "a cell or a field is no array",
    ),
    "empty arrays": (
        raw(M.cell(*[M.element(14, b"")] * 100_100, name="layers")),
        "more than 100,000 arrays",
    ),
    "many variables": (raw(M.text("x") * 100_100), "more than 100,000 arrays"),
    "claimed size": (raw(M.array(6, (1 << 15, 1 << 15), name="layers")), "longer than what holds"),
    "claimed cells": (
        raw(M.array(1, (1 << 30, 1 << 30), name="layers")),
        "claims more than it has",
    ),
    "claimed empty structs": (
        raw(
            M.array(
                2, (1 << 30, 4), M.integers([8]), M.element(1, b"a\0\0\0\0\0\0\0"), name="layers"
            )
        ),
        "claims more than it has",
    ),
    "no fields": (
        raw(M.array(2, (1 << 30, 4), M.integers([0]), M.element(1, b""), name="layers")),
        "no cell array `layers`",
    ),
    "odd fields": (
        raw(M.array(2, (1, 1), M.integers([0]), M.element(1, b"a"), name="layers")),
        "names of a struct's fields",
    ),
    "negative size": (raw(M.array(6, (-1, -1), M.element(9, b""), name="layers")), "no sizes"),
    "wrong size": (
        raw(M.array(6, (1, 3), M.element(9, bytes(16)), name="layers")),
        "more or fewer bytes than its sizes",
    ),
    "numbers of letters": (
        raw(M.array(6, (1, 1), M.element(16, bytes(8)), name="layers")),
        "numbers has data of type 16",
    ),
    "letters of numbers": (
        raw(M.array(4, (1, 1), M.element(9, bytes(8)), name="layers")),
        "char array has data of type 9",
    ),
    "odd letters": (
        raw(M.array(4, (3, 1), M.element(16, bytes(8)), name="layers")),
        "other letters than its sizes",
    ),
    "no flags": (raw(M.element(14, M.integers([1]))), "has no flags"),
    "long small element": (raw(M.element(14, struct.pack("<II", 9 << 16 | 6, 0))), "small element"),
    "no array": (raw(M.element(9, bytes(8))), "a variable of type 9"),
    "checksum": (
        raw(M.compressed(M.numbers(np.zeros((1, 40_000)), name="layers"), 0)[:-1] + b"x"),
        "incorrect data check",
    ),
    "type of numbers": (
        edit(lambda all: all[0].update(type=np.array([[1.0, 2.0]]))),
        r"layer 1 \('conv1_1'\) is of type ''",
    ),
    "not zlib": (raw(M.element(15, b"abcdefgh")), "incorrect header check"),
    "corrupt zlib": (raw(M.compressed(M.text("x" * 99))[:-9] + bytes(9)), "incorrect data check"),
    "average": (pool1(method="avg"), "'pool1'. does not pool by the maximum"),
    "no text for a method": (pool1(method=1.0), "does not pool by the maximum"),
    "3×3 at 1": (pool1(pool=3.0, stride=1.0), "'pool1' pools with kernel 3, and a VGG net with 2"),
    "2×3": (pool1(pool=np.array([[2.0, 3.0]])), "'pool1' pools with kernel 2 3"),
    "of no size": (edit(lambda all: all[2].pop("pool")), "'pool1' pools with kernel -1"),
    "at 1": (edit(lambda all: all[2].pop("stride")), "'pool1' pools with stride 1"),
    "padded": (pool1(pad=1.0), "'pool1' pools with pad 1, and a VGG net with 0"),
    "padded at the top": (pool1(pad=np.array([[1.0, 0, 1, 0]])), "pools with pad 1 0 1 0"),
    "padded by 2": (pool1(pad=np.array([[0.0, 2, 0, 2]])), "pools with pad 0 2 0 2"),
    "leaky": (edit(lambda all: all[1].update(leak=0.1)), r"layer 2 \('relu1_1'\) is a leaky ReLU"),
    "leak of text": (edit(lambda all: all[1].update(leak="x")), "is a leaky ReLU"),
    "sigmoid": (edit(lambda all: all[1].update(type="sigmoid")), "of type 'sigmoid'"),
    "dilated by an option": (
        edit(lambda all: all[0].update(opts=cell(["Dilate", 2.0]))),
        r"layer 1 \('conv1_1'\) has the option 'Dilate'",
    ),
    "average by an option": (pool1(opts=cell(["Method", "avg"])), "has the option 'Method'"),
    "no ReLUs": (only(lambda one: one["type"] != "relu"), "'pool1' stands where .* has relu"),
    "no poolings": (only(lambda one: one["type"] != "pool"), "'conv2_1' stands where .* has pool"),
    "no pool5": (only(lambda one: one["name"] != "pool5"), "'fc6' stands where .* has pool"),
    "only weights": (only(lambda one: one["type"] == "conv"), "'conv2_1' stands where .* has relu"),
    "reversed": (edit(lambda all: all.reverse()), "'prob' stands where a VGG net has conv1_1"),
    "exchanged": (
        edit(lambda all: all.insert(0, all.pop(3))),
        "'conv2_1' stands where a VGG net has conv1_1",
    ),
    "ReLU of fc8": (
        edit(lambda all: all.insert(-1, {"type": "relu"})),
        "'relu 27' stands where a VGG net has no more",
    ),
    "soft-max within": (
        edit(lambda all: all.insert(9, {"type": "softmax", "name": "p"})),
        "'p' stands where a VGG net has",
    ),
    "an end too early": (
        edit(lambda all: all.__delitem__(slice(15, None))),
        "its layers end where a VGG net has pool",
    ),
    "other order": (raw(M.text("x"), order=">"), "truncated"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "net.mat"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "make",
    [
        pool1(pad=np.array([[0.0, 1, 0, 1]])),
        pool1(pad=np.zeros((1, 4)), pool=2.0, stride=np.array([[2.0, 2.0]])),
        edit(lambda all: (all[2].pop("method"), all[2].pop("pad"))),
        edit(lambda all: all[1].update(leak=0.0, precious=np.array([[False]]))),
        edit(lambda all: all[1].pop("name")),
        edit(lambda all: all.insert(-2, {"type": "dropout", "name": "drop7", "rate": 0.5})),
        edit(lambda all: all[0].update(opts=cell([cell(["CudnnWorkspaceLimit", 1e9])]))),
        edit(lambda all: all[0].update(opts=cell(["CudnnWorkspaceLimit", 1e9]))),
        edit(lambda all: all[-1].update(type="softmaxloss")),
        edit(lambda all: all.pop()),
    ],
)
def test_a_net_of_the_same_function_is_read(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "net.mat")
    found = weights.load(tmp_path / "net.mat").state_dict()
    for name, (_, bias) in SMALL.items():
        assert np.array_equal(found[f"{name}.bias"].numpy(), bias), name


@pytest.mark.parametrize("mean", [np.zeros((0, 0)), FLAT, np.full((1, 1, 3), np.nan)])
def test_without_a_mean_a_preprocessing_that_is_given_is_taken(tmp_path: Path, mean: Any) -> None:
    path = matconvnet(tmp_path / "net.mat", SMALL, mean=mean)
    with pytest.raises(InputError, match="give the pre-processing"):
        weights.load(path)
    assert torch.equal(weights.load(path, preprocessing=RGB_MEAN).mean, torch.tensor(MEAN))


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="cannot be read"):
            matfile.read(path, ())


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_refused_or_read(tmp_path: Path, compressed: bool) -> None:
    chance = random.Random(4)
    tiny = {name: (weight[:1, :1], bias[:1]) for name, (weight, bias) in SMALL.items()}
    structs = [one for one in layers(SMALL) if one["type"] != "conv"]
    structs += [
        {"type": "conv", "name": name, "weights": cell([weight.transpose(), bias[None]])}
        for name, (weight, bias) in tiny.items()
    ]
    good = matconvnet(tmp_path / "a.mat", {}, layers=cell(structs), compressed=compressed)
    start = good.read_bytes()
    for _ in range(200):
        data = bytearray(start)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(128, len(data))] = chance.choice((0, 1, 0x7F, 0xFF))
        good.write_bytes(data[: chance.choice((len(data), 300))])
        with warnings.catch_warnings(), pytest.raises(InputError, match=r"a\.mat: "):
            weights.load(good)

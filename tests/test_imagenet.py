"""ImageNet's layout: colours that tell each image's class against a devkit made here."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from test_folders import check, empty, picture, pictures, refused
from vggnet.datasets import open_dataset
from vggnet.imagenet import synset_names

# The red of a synset's images. In the order of the devkit's ids below they are 1, 2, 3, 4.
SYNSETS = {"n03126707": 10, "n01443537": 20, "n02012849": 30, "n01440764": 40}
SORTED_REDS = [40, 20, 30, 10]
NAMES = ("tench", "goldfish", "crane (n02012849)", "crane (n03126707)")


def devkit(folder: Path, classes: list[str], *, compressed: bool = False) -> None:
    """meta.mat with the fields of the real one, and the classes of the validation images."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    leaves = [
        (float(number), synset, "words, more", "a gloss", 0.0, np.zeros((0, 0)), 0.0, 1300.0)
        for number, synset in enumerate(SYNSETS, start=1)
    ]
    inner = [(5.0, "n00001740", "entity", "it is", 2.0, np.array([[1.0, 2.0]]), 19.0, 0.0)]
    rows = np.empty((5, 1), dtype=[(field, object) for field in fields.split()])
    for row, values in enumerate(leaves + inner):
        rows[row, 0] = values
    savemat(folder / "meta.mat", {"synsets": rows}, do_compression=compressed)
    ids = {synset: number for number, synset in enumerate(SYNSETS, start=1)}
    text = "".join(f"{ids[synset]}\n" for synset in classes)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


VALIDATION = ["n02012849", "n01440764", "n01440764", "n03126707", "n01443537", "n02012849"]


def imagenet(root: Path, *, flat: bool) -> Path:
    for synset, red in SYNSETS.items():
        for number in range(2):
            picture(root / "train" / synset / f"{synset}_{number}.JPEG", red, 0, 0)
    for number, synset in enumerate(VALIDATION, start=1):
        folder = root / "val" if flat else root / "val" / synset
        # Lossless, whatever the name says.
        picture(folder / f"ILSVRC2012_val_{number:08d}.png", SYNSETS[synset], number, 0)
    return root


@pytest.mark.parametrize("place", ["", "data", "ILSVRC2012_devkit_t12/data", "devkit/data"])
def test_flat_validation_images_get_the_devkits_classes(tmp_path: Path, place: str) -> None:
    root = imagenet(tmp_path / "ILSVRC", flat=True)
    devkit(root / place, VALIDATION, compressed=place == "data")
    data = open_dataset(str(root))
    assert data.name == "ILSVRC"
    assert data.class_names == NAMES
    check(data.validation, SORTED_REDS)
    assert sorted(data.validation.names or ()) == [
        f"val/ILSVRC2012_val_{number:08d}.png" for number in range(1, 7)
    ]
    assert data.test.fingerprint == data.validation.fingerprint
    train = [round(int(image[0, 0, 0]) / 10) * 10 for image in data.train.images]  # JPEG
    assert train == [SORTED_REDS[label] for label in data.train.labels]
    for words in ("as in the paper", "val/, 6", "both the validation and the test part"):
        assert words in data.note


def test_validation_images_in_folders_by_synset(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "subset", flat=False)
    (root / "test").mkdir()
    picture(root / "test" / "ILSVRC2012_test_00000001.png", 1, 2, 3)  # without a class: not used
    data = open_dataset(str(root))
    assert (data.name, data.class_names) == ("subset", NAMES)
    for part in (data.validation, data.test):
        assert len(part) == 6
        check(part, SORTED_REDS)
    assert "as in the paper" in data.note
    for synset, red in SYNSETS.items():
        pictures(root / "test" / synset, 3, red)
    data = open_dataset(str(root))
    assert (len(data.validation), len(data.test), data.note) == (6, 12, "")
    check(data.test, SORTED_REDS)


def test_synsets_that_imagenet_has_not_are_their_own_names(tmp_path: Path) -> None:
    root = imagenet(tmp_path, flat=False)
    for part in ("train", "val"):
        pictures(root / part / "n00000001", 2, 50)
    assert open_dataset(str(root)).class_names == ("n00000001", *NAMES)
    # Where some folders are no synsets, all keep their names: 'tench' could be there twice.
    for part in ("train", "val"):
        pictures(root / part / "tench", 2, 60)
    names = open_dataset(str(root)).class_names
    assert names == ("n00000001", *sorted(SYNSETS), "tench")


def test_the_thousand_synsets_are_imagenet(tmp_path: Path) -> None:
    names = synset_names()
    for part in ("train", "val"):
        for synset in names:
            (tmp_path / part / synset).mkdir(parents=True)
            (tmp_path / part / synset / "x.JPEG").touch()  # listing opens no image
    data = open_dataset(str(tmp_path))
    assert data.name == "imagenet"
    assert (len(data.train), len(data.validation)) == (1000, 1000)
    # As published with Caffe's, Keras' and torchvision's weights.
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 340: "zebra"}
    known |= {134: "crane (n02012849)", 517: "crane (n03126707)", 999: "toilet tissue"}
    for index, name in known.items():
        assert data.class_names[index] == name
    assert len(set(data.class_names)) == 1000
    assert list(names) == sorted(names)
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in names)
    assert sum("(" in name for name in names.values()) == 4  # two cranes, two maillots
    (tmp_path / "val").rename(tmp_path / "test")
    refused(tmp_path, "/train/n01440764: 1 image; ")


def truth(root: Path) -> Path:
    return root / "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: (root / "meta.mat").unlink(),
            ("/val: ", "meta.mat", "/ILSVRC2012_devkit_t12/data", "/devkit/data", ".tar.gz"),
        ),
        (
            lambda root: truth(root).unlink(),
            ("/val: ", "validation_ground_truth.txt", "is in none of"),
        ),
        (
            lambda root: (root / "val" / "ILSVRC2012_val_00000006.png").unlink(),
            ("/val: has 5 images", "classes for 6", "into folders by synset"),
        ),
        (
            lambda root: (root / "val" / "ILSVRC2012_val_00000006.png").rename(
                root / "val" / "a.png"
            ),
            ("/val/a.png: expected ILSVRC2012_val_00000006.JPEG", "the original file names"),
        ),
        (
            lambda root: truth(root).write_text("3\n4\n4\nn1\n2\n3\n"),
            ("ground_truth.txt, line 4: 'n1' is not the number of a synset",),
        ),
        (
            lambda root: truth(root).write_text("3\n4\n4\n9\n2\n3\n"),
            ("ground_truth.txt: has the id 9, which ", "meta.mat does not"),
        ),
        (
            lambda root: truth(root).write_text("3\n4\n4\n5\n2\n3\n"),
            ("/val: has the class 'n00001740'", "which train/ has not"),
        ),
        (
            lambda root: truth(root).write_text("3\n4\n4\n3\n2\n3\n"),
            ("/val: lacks the class 'n03126707'",),
        ),
        (
            lambda root: truth(root).write_bytes(b"\xff\xfe3"),
            ("ground_truth.txt: cannot be read", "unpack the devkit again"),
        ),
        (
            lambda root: (root / "meta.mat").write_bytes(b"MATLAB"),
            ("meta.mat: cannot be read as the devkit's meta.mat", "unpack the devkit again"),
        ),
        (
            lambda root: savemat(root / "meta.mat", {"other": 1}),
            ("meta.mat: cannot be read as the devkit's meta.mat",),
        ),
        (lambda root: empty(root / "val"), ("/val: has neither images nor folders",)),
    ],
)
def test_what_does_not_fit_the_devkit_is_named(
    tmp_path: Path, change: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    root = imagenet(tmp_path, flat=True)
    devkit(root, VALIDATION)
    change(root)
    refused(root, *words)


def test_meta_mat_needs_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet(tmp_path, flat=True)
    devkit(root, VALIDATION)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    refused(root, "meta.mat: reading it needs SciPy: pip install 'vggnet[imagenet]'")

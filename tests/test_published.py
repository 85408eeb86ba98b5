"""The table of public weights: against the paper's tables, the files' names and our own nets; and
the devkit's numbers of the classes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from vggnet import InputError, paper
from vggnet.accounting import account
from vggnet.cli import main
from vggnet.imagenet import devkit_classes, synset_names
from vggnet.published import PUBLISHED, find


def test_every_publisher_has_its_nets() -> None:
    both = [f"vgg{n}{end}" for n in (11, 13, 16, 19) for end in ("", "_bn")]
    names = {f"torchvision/{name}" for name in both} | {"torchvision/vgg16-features"}
    names |= {f"timm/{name}.tv_in1k" for name in both}
    names |= {f"keras/vgg{n}{end}" for n in (16, 19) for end in ("", "-notop")}
    names |= {f"{who}/vgg{n}" for who in ("authors", "matconvnet") for n in (16, 19)}
    assert names | {"matconvnet/vgg16-own"} == PUBLISHED.keys()
    layers = {"A": 11, "B": 13, "D": 16, "E": 19}
    for row in PUBLISHED.values():
        assert f"vgg{layers[row.net]}" in row.name
        assert ("_bn" in row.name) == row.batch_norm
        assert row.head != ("notop" in row.name or "features" in row.name)
        assert row.url.startswith(("https://", "http://"))
        assert row.source
        assert row.licence_source
        assert bool(row.errors) == row.head
        assert all(error.protocol and error.source for error in row.errors)


def test_sizes_are_those_of_the_nets() -> None:
    """A file of float32 is its parameters and a little more; torchvision's features-only file has
    its NaN classifier too."""
    for row in PUBLISHED.values():
        if row.mib is None:
            continue
        config = find("torchvision/vgg16").config if "features" in row.name else row.config
        weights = 4 * account(config).parameters / 2**20
        assert weights - 0.06 <= row.mib <= weights + 0.15, row.name


def test_checksums_are_of_their_kind() -> None:
    digits = {"sha1": 40, "md5": 32, "sha256": 8}
    for row in PUBLISHED.values():
        if row.checksum is None:
            assert row.repo is not None
            continue
        assert re.fullmatch(rf"[0-9a-f]{{{digits[row.checksum.kind]}}}", row.checksum.digits)
        if row.publisher == "torchvision":
            assert row.file.endswith(f"-{row.checksum.digits}.pth")
    given = [row.checksum.digits for row in PUBLISHED.values() if row.checksum]
    assert len(set(given)) == len(given)


def test_the_authors_errors_are_the_papers() -> None:
    for name, net in (("authors/vgg16", "D"), ("authors/vgg19", "E")):
        multi, single = find(name).errors
        found = {
            (table, row.top1, row.top5)
            for table, rows in (("3", paper.TABLE_3), ("4", paper.TABLE_4))
            for row in rows
            if row.net == net and row.S == (256, 512)
        }
        assert found == {("3", single.top1, single.top5), ("4", multi.top1, multi.top5)}


def test_timm_has_torchvisions_weights() -> None:
    """Measured by two: they agree to rounding, so neither column has slipped by a row."""
    for row in PUBLISHED.values():
        if row.publisher != "timm":
            continue
        theirs = find(row.name.replace("timm/", "torchvision/").removesuffix(".tv_in1k"))
        here, there = row.errors[0], theirs.errors[0]
        for ours, other in ((here.top1, there.top1), (here.top5, there.top5)):
            assert ours is not None
            assert other is not None
            assert abs(ours - other) < 0.06


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    row = next(line for line in lines if line.startswith("authors/vgg16"))
    assert re.split(r"\s{2,}", row) == [
        "authors/vgg16",
        *("D", "24.8", "7.5"),
        *("dense, Q=256, 384, 512, flips", "CC BY 4.0", "528"),
    ]
    assert sum(line.split("  ")[0] in PUBLISHED for line in lines) == len(PUBLISHED)
    assert main(["weights", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == list(PUBLISHED)
    assert main(["weights", "keras/vgg16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found[list(PUBLISHED).index("keras/vgg16")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_facts_of_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", name]) == 0
    text, row = capsys.readouterr().out, PUBLISHED[name]
    for fact in (row.url, row.licence, row.licence_source, row.preprocessing, row.source, row.note):
        assert fact in text
    for error in row.errors:
        assert error.protocol in text
        assert f"{error.top5:g} %" in text
    assert ("error: not published" in text) != bool(row.errors)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vgg16"], "did you mean torchvision/vgg16, timm/vgg16.tv_in1k, keras/vgg16"),
        (["torchvision/vgg61"], "did you mean torchvision/vgg"),
        (["resnet"], "no weights named 'resnet' are known: vggnet weights lists them"),
        (["fetch"], "name the weights"),
        (["fetch", "a", "b"], "give one name, or fetch and one name"),
    ],
)
def test_what_is_not_there(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *words]) == 2
    assert message in capsys.readouterr().err


def meta(path: Path, order: list[str]) -> Path:
    """meta.mat as the devkit's: the leaves under their ids, then inner nodes of WordNet."""
    rows = np.empty((len(order) + 1, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for row, synset in enumerate([*order, "n00001740"]):
        rows[row, 0] = (float(row + 1), synset)
    savemat(path, {"synsets": rows})
    return path


def test_devkit_classes(tmp_path: Path) -> None:
    order = list(np.random.default_rng(0).permutation(list(synset_names())))
    found = devkit_classes(meta(tmp_path / "meta.mat", order))
    assert len(found) == 1000
    for number, synset in enumerate(order, start=1):
        assert sorted(order)[found[number]] == synset
    with pytest.raises(InputError, match=r"other.mat: does not number the 1,000 .* \(999 of them"):
        devkit_classes(meta(tmp_path / "other.mat", order[1:]))
    with pytest.raises(InputError, match=r"none.mat: "):
        devkit_classes(str(tmp_path / "none.mat"))

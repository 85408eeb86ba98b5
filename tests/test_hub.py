"""Nets to the Hub and back: through folders, a client whose uploads are caught, and a server on
this machine that answers as the Hub does."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import vggnet
from vggnet import VGG, InputError, RunError
from vggnet.card import as_result
from vggnet.formats import torchvision
from vggnet.formats.foreign import TORCHVISION, Preprocessing
from vggnet.imagenet import synset_names
from vggnet.model import Provenance
from vggnet.protocols import Fusion, Protocol
from vggnet.scoring import Result, errors

NAMES = ("nought", "one", "two", "three", "four", "five", "six")
KNOWN = Provenance(
    class_names=NAMES,
    dataset="digits",
    data="12" * 32,
    S=(37, 73),
    seed=3,
    recipe={"model": {"net": "D"}, "S": [37, 73], "batch_size": 32, "learning_rate": 0.01},
)


def net(**options: Any) -> VGG:
    model = vggnet.build("D", num_classes=7, crop=32, width=1 / 64, **options)
    model.provenance = KNOWN
    return model


def result(method: Any = "dense", Q: tuple[int, ...] = (37, 55)) -> Result:  # noqa: N803
    rng = np.random.default_rng(len(Q))
    posteriors = rng.random((300, 7))
    labels = rng.integers(7, size=300)
    return errors(posteriors, labels, Protocol("D", (37, 73), Q, method), 4.0, 1e9)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8, generator=generator)


def same(found: VGG, model: VGG) -> None:
    assert torch.equal(found(images()), model(images()))
    assert found.provenance == model.provenance
    assert found.config == model.config


def test_a_folder_and_back(tmp_path: Path) -> None:
    model, folder = net(), tmp_path / "a" / "net"
    model.save_pretrained(folder, [result()])
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "README.md", "config.json")
    }
    same(VGG.from_pretrained(folder), model)
    same(VGG.from_pretrained(str(folder / "model.safetensors")), model)
    same(vggnet.load(folder / "model.safetensors"), model)
    assert json.loads((folder / "config.json").read_text())["net"] == "D"
    (folder / "config.json").write_text("harmless")
    same(VGG.from_pretrained(folder), model)


def test_a_compiled_net_is_saved(tmp_path: Path) -> None:
    model = net()
    wrapped = SimpleNamespace(_orig_mod=model)  # as torch.compile has it
    VGG.save_pretrained(wrapped, tmp_path)  # type: ignore[arg-type]
    same(VGG.from_pretrained(tmp_path), model)


def test_other_files_of_a_folder(tmp_path: Path) -> None:
    """What torchvision's and others' repositories hold."""
    model = net(mean=[123.675, 116.28, 103.53])
    torch.save(torchvision.state_dict(model), tmp_path / "pytorch_model.bin")
    for found in (
        VGG.from_pretrained(tmp_path, class_names=NAMES),
        VGG.from_pretrained(tmp_path, file="pytorch_model.bin", net="D"),
    ):
        torch.testing.assert_close(found(images()), model(images()), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="holds net D, not E"):
        VGG.from_pretrained(tmp_path, net="E")
    with pytest.raises(InputError, match=r"has no net.h5: name the file"):
        VGG.from_pretrained(tmp_path, file="net.h5")


def test_the_card_states_every_error_with_its_protocol(tmp_path: Path) -> None:
    results = [result(), result("multi-crop", (37,))]
    net().save_pretrained(tmp_path, results, license="cc-by-4.0")
    loaded = ModelCard.load(tmp_path / "README.md")
    data = loaded.data.to_dict()
    assert data["library_name"] == "vggnet"
    assert data["license"] == "cc-by-4.0"
    assert {"vgg", "vgg-d"} <= set(data["tags"])
    stated = [
        (entry.metric_name, entry.metric_value, entry.metric_args, entry.dataset_name)
        for entry in loaded.data.eval_results or []
    ]
    assert stated == [
        (
            f"{name} error, %",
            round(error, 2),
            {
                "protocol": str(each.protocol),
                "n": 300,
                "interval": [round(bound, 2) for bound in bounds],
            },
            "digits",
        )
        for each in results
        for name, error, bounds in (
            ("top-1", each.top1, each.top1_interval),
            ("top-5", each.top5, each.top5_interval),
        )
    ]
    rows = [line.split(" | ") for line in loaded.text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 2
    for row, each in zip(rows, results, strict=True):
        low, high = each.top1_interval
        assert row[0] == f"| {each.top1:.2f} [{low:.2f}, {high:.2f}]"
        assert row[2:] == ["300", f"{each.protocol} |"]
    count = sum(parameter.numel() for parameter in net().parameters())
    for words in (
        f"16 weight layers, {count:,} parameters, 7 classes",
        "RGB, 0–255",
        "123.680, 116.779, 103.939",
        "On digits",
        "- S: [37;73]",
        "- batch size: 32",
        "nought, one, two",
        "## Licence\n\ncc-by-4.0",
    ):
        assert words in loaded.text


def test_a_card_without_results_states_no_error(tmp_path: Path) -> None:
    model = net()
    model.save_pretrained(tmp_path, [result()])
    model.provenance = Provenance()
    model.save_pretrained(tmp_path)  # the card is written anew: the old errors are gone
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.eval_results is None
    for words in ("No error is stated", "Not known", "has no names", "Not stated"):
        assert words in loaded.text
    assert "%" not in loaded.text


def test_results_as_evaluate_prints_them(tmp_path: Path) -> None:
    found = replace(result(), unread=2)
    printed = json.loads(json.dumps(found.to_json() | {"views_per_image": 4}))
    assert as_result(printed) == found
    plain = replace(found, protocol=Protocol("D", None, (32,), "centre-crop", flips=False))
    assert as_result(json.loads(json.dumps(plain.to_json()))) == plain
    fused = replace(
        found, protocol=Fusion((Protocol("D", 37, (37,)), Protocol("E", (37, 73), (9,))))
    )
    assert as_result(json.loads(json.dumps(fused.to_json()))) == fused
    net().save_pretrained(tmp_path / "a", [printed])
    net().save_pretrained(tmp_path / "b", [found])
    assert (tmp_path / "a/README.md").read_text() == (tmp_path / "b/README.md").read_text()
    assert "300 (2 more could not be read)" in (tmp_path / "a/README.md").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (replace(result(), protocol=Protocol("E", 37, (37,))), "are of net E, the net is D"),
        (replace(result(), protocol=Fusion((Protocol("D", 37, (37,)),))), "a fusion's error"),
        ({"top1": 3}, "is no Result, nor what vggnet evaluate --json prints"),
        (result().to_json() | {"top1_interval": None}, "is no Result"),
        (result().to_json() | {"top5": "x"}, "is no Result"),
        ("3.2 %", "is no Result"),
        (
            {**result().to_json(), "protocol": {**result().protocol.to_json(), "method": "best"}},
            "unknown method 'best'",
        ),
    ],
)
def test_results_that_are_none(given: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        net().save_pretrained(tmp_path / "net", [given])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="give a list of them"):
        net().save_pretrained(tmp_path, result())  # type: ignore[arg-type]


def test_results_on_another_data_set(tmp_path: Path) -> None:
    model = net()
    model.provenance = Provenance()
    with pytest.raises(InputError, match="of which data set"):
        model.save_pretrained(tmp_path, [result()])
    model.save_pretrained(tmp_path, [result()], dataset="imagenet")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.eval_results
    assert loaded.data.eval_results[0].dataset_type == "ILSVRC/imagenet-1k"
    assert "datasets" not in loaded.data.to_dict()  # trained on what, nobody knows


def code_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("kind", ["names", "no names", "no head", "grey", "boxes"])
def test_the_cards_code_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = net(in_channels=1) if kind == "grey" else net()
    if kind == "no names":
        model.provenance = Provenance()
    if kind == "no head":
        from vggnet.model import empty

        headless = empty(replace(model.config, head=False))
        headless.load_state_dict(
            {key: value for key, value in model.state_dict().items() if "fc" not in key}
        )
        model = headless
    if kind == "boxes":
        model = vggnet.VGG(vggnet.Config("A", 3, crop=32, width=1 / 16, boxes="pcr")).eval()
    model.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code_of(tmp_path), {})
    printed = capsys.readouterr().out
    if kind == "names":
        assert printed.split()[0] in NAMES
    if kind == "boxes":
        assert printed.count("[") == 1 + 1 + 3  # one image's three boxes
        assert "pipeline_tag: object-detection" in (tmp_path / "README.md").read_text()
    if kind == "no head":
        assert "'relu5_3'" in printed
        assert "torch.Size([1, 8, 1, 1])" in printed


class FakeHub(ThreadingHTTPServer):
    """Files by repository and name; what the Hub says of them in its headers."""

    files: dict[str, bytes]
    asked: list[str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> bytes:
            path = self.path.partition("?")[0].lstrip("/")
            server.asked.append(f"{self.command} {path}")
            content = server.files.get(path)
            repo = path.partition("/resolve/")[0]
            self.send_response(200 if content is not None else 404)
            if content is None:
                known = any(name.startswith(f"{repo}/") for name in server.files)
                code = "EntryNotFound" if known else "RepoNotFound"
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("Content-Length", "0")
            else:
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()
            return content or b""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.wfile.write(self.answer())

        def log_message(self, *_: object) -> None:
            pass

    server = FakeHub(("127.0.0.1", 0), Handler)
    server.files, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_from_a_repository(hub: FakeHub, tmp_path: Path) -> None:
    model = net()
    model.save_pretrained(tmp_path / "net")
    content = (tmp_path / "net" / "model.safetensors").read_bytes()
    hub.files["user/net/resolve/main/model.safetensors"] = content
    same(VGG.from_pretrained("user/net"), model)
    asked = len(hub.asked)
    # From the cache alone, though there is no config.json in it.
    same(VGG.from_pretrained("user/net", local_files_only=True), model)
    assert len(hub.asked) == asked
    same(VGG.from_pretrained("user/net", cache_dir=tmp_path / "other"), model)
    assert (tmp_path / "other").is_dir()


def test_from_torchvisions_names_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    model = net(mean=[123.675, 116.28, 103.53])
    torch.save(torchvision.state_dict(model), tmp_path / "w.bin")
    content = (tmp_path / "w.bin").read_bytes()
    hub.files["timm/small/resolve/v2/pytorch_model.bin"] = content
    found = VGG.from_pretrained("timm/small", revision="v2")
    torch.testing.assert_close(found(images()), model(images()), rtol=1e-4, atol=1e-6)
    assert found.provenance.source
    assert hashlib.sha256(content).hexdigest() in found.provenance.source


def test_what_the_hub_has_not(hub: FakeHub) -> None:
    hub.files["user/net/resolve/main/other"] = b""
    with pytest.raises(InputError, match=r"^user/net: has no model.safetensors or pytorch_model"):
        VGG.from_pretrained("user/net")
    with pytest.raises(InputError, match=r"^user/nothing: no such repository on the Hub"):
        VGG.from_pretrained("user/nothing")
    for name in ("no/such/folder", "/no/such", "", " "):
        with pytest.raises(InputError, match="neither a folder nor a name on the Hub"):
            VGG.from_pretrained(name)
    with pytest.raises(InputError, match="not in the Hub client's cache"):
        VGG.from_pretrained("user/net", local_files_only=True)


def theirs(folder: Path, given: Preprocessing) -> VGG:
    """A net, and its weights in a folder as a file of torchvision's for images of this kind."""
    model = net(mean=[255 * value for value in given.mean])
    state = torchvision.state_dict(model)
    key = "features.0.weight"
    state[key] = given.unfolded(dict(model.named_parameters())["conv1_1.weight"].detach())
    torch.save(state, folder / "pytorch_model.bin")
    return model


HALVES = Preprocessing("RGB", 255.0, (0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
FACTS = {"mean": HALVES.mean, "std": HALVES.std, "input_size": [3, 32, 32]}
NUMBERED = {str(number): name for number, name in reversed([*enumerate(NAMES)])}


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vgg16", "pretrained_cfg": FACTS, "label_names": NAMES},
        {"architecture": "vgg16", "pretrained_cfg": FACTS | {"label_names": NUMBERED}},
        {"architecture": "vgg16", **FACTS, "labels": NAMES},
    ],
)
def test_timms_config(hub: FakeHub, tmp_path: Path, config: dict[str, Any]) -> None:
    model = theirs(tmp_path, HALVES)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("config.json", "pytorch_model.bin"):
        content = (tmp_path / name).read_bytes()
        hub.files[f"user/small/resolve/main/{name}"] = content
    for place in (tmp_path, tmp_path / "pytorch_model.bin", "user/small"):
        found = VGG.from_pretrained(place)
        torch.testing.assert_close(found(images()), model(images()), rtol=1e-4, atol=1e-6)
        assert found.provenance.class_names == NAMES
        assert found.mean.tolist() == [127.5] * 3
    asked = len(hub.asked)
    found = VGG.from_pretrained("user/small", local_files_only=True)
    assert found.mean.tolist() == [127.5] * 3
    assert len(hub.asked) == asked
    other = tuple("abcdefg")
    found = VGG.from_pretrained(tmp_path, class_names=other)
    assert (found.provenance.class_names, found.mean.tolist()) == (other, [127.5] * 3)
    found = VGG.from_pretrained(tmp_path, preprocessing=Preprocessing())
    assert (found.provenance.class_names, found.mean.tolist()) == (NAMES, [0.0] * 3)


@pytest.mark.parametrize(
    "config",
    [
        {"net": "D", "mean": [1, 2, 3]},
        {"architectures": ["Other"], "std": 3},
        {"architecture": "vgg16", "num_classes": 7, "pretrained_cfg": {"input_size": [3, 32, 32]}},
    ],
)
def test_a_config_that_says_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    model = theirs(tmp_path, TORCHVISION)
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = VGG.from_pretrained(tmp_path)
    torch.testing.assert_close(found(images()), model(images()), rtol=1e-4, atol=1e-6)
    assert found.provenance.class_names is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"pretrained_cfg": 3}',
        '{"pretrained_cfg": {"mean": 3}}',
        '{"pretrained_cfg": {"mean": ["a", 1, 2]}}',
        '{"pretrained_cfg": {"mean": [1, 2]}}',
        '{"pretrained_cfg": {"std": [0, 1, 1]}}',
        '{"pretrained_cfg": {"std": [NaN, 1, 1]}}',
        '{"pretrained_cfg": {"label_names": 3}}',
        '{"label_names": [1, 2, 3, 4, 5, 6, 7], "pretrained_cfg": {}}',
        '{"label_names": {"1": "a"}, "pretrained_cfg": {}}',
    ],
)
def test_a_broken_config(tmp_path: Path, text: str) -> None:
    theirs(tmp_path, TORCHVISION)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="is not as timm writes it") as raised:
        VGG.from_pretrained(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert "\n" not in str(raised.value)
    VGG.from_pretrained(tmp_path, preprocessing=TORCHVISION, class_names=NAMES)


def test_a_config_that_nobody_knows_of(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are in the cache, and whether a config.json belongs to them, is not known."""
    theirs(tmp_path, HALVES)
    content = (tmp_path / "pytorch_model.bin").read_bytes()
    hub.files["user/small/resolve/main/pytorch_model.bin"] = content
    given: dict[str, Any] = {"preprocessing": HALVES, "class_names": NAMES}
    VGG.from_pretrained("user/small", **given)
    with pytest.raises(InputError, match=r"config.json, which may say .* leave out local_files"):
        VGG.from_pretrained("user/small", local_files_only=True)
    VGG.from_pretrained("user/small", local_files_only=True, **given)
    VGG.from_pretrained("user/small")  # the Hub says that there is none, and the cache keeps that
    VGG.from_pretrained("user/small", local_files_only=True)


def test_the_card_of_converted_weights(tmp_path: Path) -> None:
    """1,000 classes of ImageNet's names do not say on what these weights were trained."""
    model = vggnet.build("A", crop=32, width=1 / 64)
    torch.save(torchvision.state_dict(model), tmp_path / "w.pth")
    found = vggnet.load(tmp_path / "w.pth")
    assert found.provenance.class_names == tuple(synset_names().values())
    found.save_pretrained(tmp_path / "net")
    card = ModelCard.load(tmp_path / "net" / "README.md")
    assert "datasets" not in card.data.to_dict()
    assert "imagenet" not in card.content.lower()
    assert "- converted from: torchvision, images RGB 0–1, minus 0.4" in card.content
    assert "data set" not in card.content
    found.provenance = Provenance(dataset="imagenet")
    found.save_pretrained(tmp_path / "net")
    card = ModelCard.load(tmp_path / "net" / "README.md")
    assert card.data.to_dict()["datasets"] == ["ILSVRC/imagenet-1k"]


FRESH = """
import sys
import vggnet
from vggnet.cli import main
assert "huggingface_hub" not in sys.modules
code = main(["weights", "fetch", "timm/vgg16.tv_in1k"])
print(code, "-")
calls = [
    lambda name=name: vggnet.VGG.from_pretrained(name)
    for name in ("timm/vgg16.tv_in1k", "/no/such", "a/b/c", "")
]
if sys.argv[1] == "push":
    model = vggnet.build("A", num_classes=2, crop=32, width=1 / 64)
    calls = [lambda: model.push_to_hub("user/net"), lambda: model.push_to_hub("a/b/c")]
for call in calls:
    try:
        call()
    except (vggnet.InputError, vggnet.RunError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["load", "push"])
def test_in_a_fresh_process(tmp_path: Path, what: str) -> None:
    """The client loads its modules late: what other tests have imported is not there."""
    code = FRESH
    if what == "push":
        code = code.replace('code = main(["weights", "fetch", "timm/vgg16.tv_in1k"])', "code = 1")
    done = subprocess.run(
        [sys.executable, "-c", code, what],
        env=os.environ
        | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "Traceback" not in done.stderr
    if what == "push":
        assert len(lines) == 3
        assert lines[1].startswith("RunError user/net: the Hub could not be used")
        assert lines[2].startswith(("RunError a/b/c: ", "InputError 'a/b/c': "))
        return
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("vggnet: error: timm/vgg16.tv_in1k: the Hub cannot be reached")
    assert lines[0] == "1 -"
    assert lines[1].startswith("RunError timm/vgg16.tv_in1k: the Hub cannot be reached")
    neither = "neither a folder nor a name on the Hub, such as user/name"
    assert lines[2:] == [f"InputError {name!r}: {neither}" for name in ("/no/such", "a/b/c", "")]


def test_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "http://127.0.0.1:9"
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", dead)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        dead + "/{repo_id}/resolve/{revision}/{filename}",
    )
    ask, asked = huggingface_hub.hf_hub_download, []

    def noted(repo: str, name: str, **options: Any) -> str:
        asked.append((name, options["local_files_only"]))
        return str(ask(repo, name, **options))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", noted)
    with pytest.raises(RunError, match=r"^user/net: the Hub cannot be reached, and its client's"):
        VGG.from_pretrained("user/net")
    # The client tries for long; once is enough.
    assert asked == [("model.safetensors", False), ("pytorch_model.bin", True)]


def answered(status: int) -> Any:
    return SimpleNamespace(headers={}, request=None, status_code=status)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (GatedRepoError("x", response=answered(403)), InputError, "lets in by request"),
        (RepositoryNotFoundError("x", response=answered(404)), InputError, "no such repository"),
        (RevisionNotFoundError("x", response=answered(404)), InputError, "no such revision"),
        (HfHubHTTPError("x", response=answered(401)), InputError, "hf auth login"),
        (HfHubHTTPError("x\ny", response=answered(500)), RunError, "the Hub says 500"),
        (HfHubHTTPError("no such license\n", response=answered(400)), InputError, "(400): no such"),
        (OfflineModeIsEnabled("HF_HUB_OFFLINE is set"), RunError, "HF_HUB_OFFLINE is set"),
        (ValueError(""), RunError, "ValueError"),
    ],
)
def test_errors_of_the_client_are_one_line(
    error: Exception, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    for call in (lambda: VGG.from_pretrained("user/net"), lambda: net().push_to_hub("user/net")):
        with pytest.raises(kind, match=re.escape(words)) as raised:
            call()
        assert str(raised.value).startswith("user/net: ")
        assert "\n" not in str(raised.value)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(RunError, match=r"^/cache/blob: could not be written \(No space left"):
        VGG.from_pretrained("user/net")


def test_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: dict[str, Any] = {}

    def create(_: object, repo_id: str, *, private: bool | None, exist_ok: bool) -> object:
        made["repo"] = repo_id, private, exist_ok
        return SimpleNamespace(repo_id=repo_id)

    def upload(_: object, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        made["options"] = options
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    model = net()
    url = model.push_to_hub("user/net", [result()], private=True, license="mit", branch="b")
    assert url == "https://hub/user/net/commit/1"
    assert made["repo"] == ("user/net", True, True)
    assert (made["options"]["revision"], made["options"]["repo_type"]) == ("b", "model")
    folder = tmp_path / "user" / "net"
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "README.md", "config.json")
    }
    same(VGG.from_pretrained(folder), model)
    data = ModelCard.load(folder / "README.md").data
    assert data.license == "mit"
    assert data.eval_results
    # The code names the repository; here a folder of that name stands for it.
    assert "VGG.from_pretrained('user/net')" in code_of(folder)
    monkeypatch.chdir(tmp_path)
    exec(code_of(folder), {})
    assert capsys.readouterr().out.split()[0] in NAMES


def test_without_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net().save_pretrained(tmp_path / "net")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: VGG.from_pretrained("user/net"),
        lambda: net().save_pretrained(tmp_path / "b"),
        lambda: net().push_to_hub("user/net"),
    ):
        with pytest.raises(InputError, match=re.escape("pip install 'vggnet[hub]'")):
            call()
    same(VGG.from_pretrained(tmp_path / "net"), net())  # a folder needs no Hub


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        net().save_pretrained(tmp_path / "file" / "net")

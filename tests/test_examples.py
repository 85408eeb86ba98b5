"""The examples, run as a user runs them."""

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vggnet

ROOT = Path(__file__).parent.parent
STYLE_TRANSFER = [sys.executable, "-W", "error", str(ROOT / "examples" / "style_transfer.py")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, and a narrow net E of random weights."""
    folder = tmp_path_factory.mktemp("examples")
    y, x = np.mgrid[0:60, 0:80]
    waves = np.stack([128 + 100 * np.sin(x / 9), 3.0 * y, 128 + 100 * np.cos((x + y) / 5)], axis=2)
    Image.fromarray(waves.astype(np.uint8)).save(folder / "content.png")
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    noise[:, :, 2] //= 4
    Image.fromarray(noise).save(folder / "style.jpg")
    (folder / "broken.jpg").write_bytes((folder / "style.jpg").read_bytes()[:300])
    (folder / "text.safetensors").write_text("no weights")
    vggnet.save(vggnet.build("E", width=1 / 16, crop=32, init="he"), folder / "e.safetensors")
    return folder


def test_a_picture_is_painted(folder: Path) -> None:
    words = ["content.png", "style.jpg", "new/out.png", "--weights", "e.safetensors"]
    done = subprocess.run(
        [*STYLE_TRANSFER, *words, "--size", "48", "--steps", "12"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "painting: 100%" in done.stderr
    with Image.open(folder / "new" / "out.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 48))
    found = re.search(r"loss (\S+) at first, (\S+) now", done.stdout)
    assert found is not None
    assert float(found[2]) < 0.5 * float(found[1])
    assert len(list((folder / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("content.png broken.jpg x.png --weights e.safetensors", "broken.jpg: cannot be read"),
        ("content.png none.jpg x.png --weights e.safetensors", "none.jpg: no such file"),
        ("content.png style.jpg x.png --weights none.pth", "none.pth: no such file"),
        ("content.png style.jpg x.png --weights text.safetensors", "not a weight file"),
        ("content.png style.jpg e.safetensors/x.png --weights e.safetensors", "cannot be written"),
        ("content.png style.jpg x.txt --weights e.safetensors", "end it in .png, .jpg"),
        ("content.png style.jpg content.png --weights e.safetensors", "is one of the pictures"),
        ("content.png style.jpg x.png --weights e.safetensors --size 31", "take 32 pixels"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    words: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["style_transfer.py", *words.split()])
    before = sorted(folder.rglob("*"))
    # As a script, which calls its main and exits.
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(STYLE_TRANSFER[-1], run_name="__main__")
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert not out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_saves_the_best_picture(folder: Path) -> None:
    words = ["content.png", "style.jpg", "stopped.png", "--weights", "e.safetensors"]
    with subprocess.Popen(
        [*STYLE_TRANSFER, *words, "--size", "32", "--steps", "1000000"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        seen = ""
        while "loss=" not in seen:
            read = process.stderr.read(1)
            assert read, seen
            seen += read
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=30)
    assert process.returncode == 130, seen + rest
    assert "Traceback" not in rest
    assert "at first" in out
    with Image.open(folder / "stopped.png") as image:
        assert image.size == (43, 32)

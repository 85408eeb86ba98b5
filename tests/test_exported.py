"""The public names; a change of this list is a change of the interface."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vggnet

NAMES = [
    "LPIPS",
    "NETS",
    "VGG",
    "Config",
    "InputError",
    "PerceptualLoss",
    "RunError",
    "StyleLoss",
    "TrainConfig",
    "__version__",
    "account",
    "activations",
    "build",
    "fast",
    "load",
    "posteriors",
    "read_header",
    "save",
]


def test_names() -> None:
    assert vggnet.__all__ == NAMES
    for name in NAMES:
        assert getattr(vggnet, name) is not None
    assert dir(vggnet) == sorted(NAMES)
    with pytest.raises(AttributeError, match="'vgg16'"):
        _ = vggnet.vgg16


def test_importing_is_cheap() -> None:
    code = "import vggnet, sys; assert 'torch' not in sys.modules; vggnet.build; import torch"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_public_name_is_hidden_by_a_module() -> None:
    """`import vggnet.train` would replace a function `vggnet.train` by the module."""
    modules = {path.stem for path in Path(vggnet.__file__).parent.glob("*.py")}
    assert not modules & set(vggnet.__all__)


def test_constraints_pin_what_the_project_asks_for() -> None:
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {requirement.split(">=")[0].split("[")[0].strip() for requirement in asked}
    assert names - {"vggnet"} <= pinned  # an extra of extras names the package itself
    assert "all" in project["optional-dependencies"]

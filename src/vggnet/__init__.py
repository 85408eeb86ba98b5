"""The complete VGG (Simonyan & Zisserman 2014) in PyTorch.

Importing the package is cheap: PyTorch is imported with the first name that needs it.
Training, evaluation and reproduction are functions of the modules named after them, for example
`from vggnet.train import train`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vggnet.accounting import account
    from vggnet.checkpoint import read_header, save
    from vggnet.configs import NETS, Config
    from vggnet.errors import InputError, RunError
    from vggnet.evaluate import posteriors
    from vggnet.features import LPIPS, PerceptualLoss, StyleLoss, activations
    from vggnet.inference import fast
    from vggnet.model import VGG, build
    from vggnet.recipes import TrainConfig
    from vggnet.weights import load

_HOMES = {
    "LPIPS": "features",
    "NETS": "configs",
    "PerceptualLoss": "features",
    "StyleLoss": "features",
    "VGG": "model",
    "Config": "configs",
    "InputError": "errors",
    "RunError": "errors",
    "TrainConfig": "recipes",
    "account": "accounting",
    "activations": "features",
    "build": "model",
    "fast": "inference",
    "load": "weights",
    "posteriors": "evaluate",
    "read_header": "checkpoint",
    "save": "checkpoint",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vggnet' has no attribute {name!r}")
    return getattr(import_module(f"vggnet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

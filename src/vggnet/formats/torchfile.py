"""PyTorch's files: tensors by name, with nothing unpickled beyond `weights_only=True`."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggnet.errors import InputError

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Under which training scripts put the weights beside other things."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Of data parallel, of `torch.compile`, of a net inside another module."""


def read_state(path: Path) -> dict[str, Tensor]:
    """A state_dict, also one inside a checkpoint of a training script.

    Takes the zip files of today and the plain ones from before PyTorch 1.6, in which torchvision's
    VGG weights are.

    Raises:
        InputError: for a file that is damaged, holds other objects than tensors, or no tensors.
    """
    if zipfile.is_zipfile(path):
        _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's readers raise nearly anything on damaged files
        raise InputError(f"{path}: {_why(error)}") from None
    for name in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not weights by name")
    tensors = {
        key: value
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors or len(tensors) < len(found):
        raise InputError(
            f"{path}: holds no weights by name: save the net's state_dict() where it was made"
        )
    return plain_names(path, tensors)


def plain_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers put before every name, dense and on the CPU."""
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise InputError(
                f"{path}: {key} is no plain tensor: save the float32 net's state_dict()"
            )
        # A stride of 0 lets a few bytes claim any size.
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise InputError(f"{path}: {key} claims more values than the file has")
    return tensors


def _check_zip(path: Path) -> None:
    """PyTorch stores its members as they are; packed ones could claim any size."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except Exception as error:
        raise InputError(f"{path}: {_why(error)}") from None
    total = sum(member.file_size for member in members)
    if any(member.compress_type for member in members) or total > path.stat().st_size:
        raise InputError(f"{path}: a zip file, but packed as PyTorch packs none: save it again")


def _why(error: Exception) -> str:
    text = str(error)
    if objects := re.search(r"(?:GLOBAL|global|class) ([a-z_]\w*(?:\.\w+)+)", text):
        return (
            f"holds Python objects ({objects[1]}), which vggnet does not unpickle, since that can "
            "run any program: open it where it was made and save the net's state_dict()"
        )
    what = text.splitlines()[0][:120] if text else type(error).__name__
    return f"cannot be read as PyTorch's ({what}): copy or download it again"

"""PyTorch's files: tensors by name, with nothing unpickled beyond `weights_only=True`."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vggnet.errors import InputError
from vggnet.formats import picklecheck

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file from before PyTorch 1.6."""
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net"),
    *("state_dict_ema", "model_ema", "ema"),
)
"""Under which training scripts put the weights beside other things."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
"""Of data parallel, of `torch.compile`, of a net inside another module."""
_NUMBERED = re.compile(r"\d+\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_SAVE = "open it where it was made and save the net's state_dict()"


def read_state(path: Path, *, lazily: bool = False) -> dict[str, Tensor]:
    """A state_dict, also one inside a checkpoint of a training script.

    Takes the zip files of today and the plain ones from before PyTorch 1.6, in which torchvision's
    VGG weights are.

    Args:
        path: the file.
        lazily: map a zip file, so that no tensor is read before its values are; those of before
            PyTorch 1.6 are read whole all the same.

    Raises:
        InputError: for a file that is damaged, holds other objects than tensors, or no tensors.
    """
    try:
        zipped = _check(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=lazily and zipped
            )
    except InputError:
        raise
    except picklecheck.ForeignError as error:
        raise InputError(f"{path}: {_foreign(str(error))}") from None
    except picklecheck.PickleError as error:
        raise InputError(f"{path}: cannot be read as PyTorch's ({error}): {_SAVE}") from None
    except Exception:  # PyTorch's readers raise nearly anything on damaged files
        raise InputError(
            f"{path}: cannot be read as PyTorch's (cut off or damaged): copy or download it again"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not weights by name")
    tensors = {
        key: value
        for key, value in _unwrapped(path, found).items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(
            f"{path}: holds no weights by name: save the net's state_dict() where it was made"
        )
    return plain_names(path, tensors)


def plain_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers put before every name, dense and on the CPU.

    A state_dict of the convolutions alone, `net.features`, has numbers for names: they get their
    `features.` again. Averaged weights (`torch.optim.swa_utils`) lose the count of their averages.
    """
    if any(key.startswith("module.") for key in tensors):
        tensors = {key: value for key, value in tensors.items() if key != "n_averaged"}
    while prefix := _prefix(tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if all(map(_NUMBERED.fullmatch, tensors)):
        tensors = {f"features.{key}": value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise InputError(
                f"{path}: {key[:60]!r} is no plain tensor: save the float32 net's state_dict()"
            )
        # A stride of 0 lets a few bytes claim any size.
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise InputError(f"{path}: {key[:60]!r} claims more values than the file has")
    return tensors


def _prefix(tensors: dict[str, Tensor]) -> str | None:
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return prefix
    return None


def _unwrapped(path: Path, found: dict[Any, Any]) -> dict[Any, Any]:
    """The weights in a checkpoint; of several, such as a running average, none is chosen."""
    while True:
        held = {
            name: value
            for name, value in found.items()
            if isinstance(value, dict) and (name in _WRAPPERS or _is_vgg(value))
        }
        if len(nets := {name: value for name, value in held.items() if _is_vgg(value)}) == 1:
            held = nets
        if not held:
            return found
        if len(held) > 1:
            several = " and ".join(repr(name)[:40] for name in list(held)[:3])
            raise InputError(
                f"{path}: holds the weights of several nets, {several}: open it where it was made "
                "and save the one that is meant"
            )
        (found,) = held.values()


def _is_vgg(found: dict[Any, Any]) -> bool:
    return any(
        isinstance(key, str) and (key == "0.weight" or key.endswith("features.0.weight"))
        for key in found
    )


def _check(path: Path) -> bool:
    """Follows every pickle before PyTorch's reader, which keeps no bounds, gets the file.

    Returns:
        Whether it is a zip file.
    """
    size = path.stat().st_size

    def has_room(numel: int) -> bool:
        return numel <= size

    with path.open("rb") as file:
        if file.read(len(_ZIP)) == _ZIP:
            _check_zip(path)
            # As PyTorch finds it: another reader could be led to another member of that name.
            content = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
            picklecheck.follow(io.BytesIO(content), has_room)
            return True
        file.seek(0)
        magic, _ = picklecheck.follow(file, has_room)
        if magic.value != _MAGIC:
            raise picklecheck.PickleError("a pickle, but not of torch.save")
        for _ in ("version", "machine"):
            picklecheck.follow(file, has_room)
        _, used = picklecheck.follow(file, has_room)
        kept, _ = picklecheck.follow(file, has_room)
        # Of others the memory would be what happened to be there.
        if not set(used) <= {key.value for key in kept.items}:
            raise picklecheck.PickleError("has tensors without their values")
    return False


def _check_zip(path: Path) -> None:
    """PyTorch stores its members as they are; packed ones could claim any size."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
    total = sum(member.file_size for member in members)
    if any(member.compress_type for member in members) or total > path.stat().st_size:
        raise InputError(f"{path}: a zip file, but packed as PyTorch packs none: save it again")


def _foreign(name: str) -> str:
    shown = name if re.fullmatch(r"[\w.]{1,80}", name, re.ASCII) else repr(name[:80])
    if name.startswith("torch._utils._rebuild_"):
        return (
            f"holds a tensor that is no plain tensor ({shown}): save the float32 net's state_dict()"
        )
    return (
        f"holds Python objects ({shown}), which vggnet does not unpickle, since that can run any "
        f"program: {_SAVE}"
    )

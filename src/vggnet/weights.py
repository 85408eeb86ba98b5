"""Everybody's weight files, in and out, told apart by their content."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from vggnet import checkpoint
from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.files import check_writable, existing, write_atomically
from vggnet.formats import caffe, keras, matconvnet, timm, torchfile, torchvision
from vggnet.formats.foreign import TORCHVISION, Foreign, Preprocessing, assemble
from vggnet.model import VGG

_HDF5 = b"\x89HDF\r\n\x1a\n"
_MATLAB = b"MATLAB "
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_CAFFE = (b"\x0a", b"\x12", b"\xa2\x06")
"""A protobuf message has no magic number; Caffe's begins with the net's name or with a layer."""


def load(
    path: str | Path,
    *,
    net: str | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: tuple[str, ...] | None = None,
    head: bool = True,
) -> VGG:
    """Reads a net from a weight file of ours, torchvision, timm, Keras, Caffe or MatConvNet.

    What the file is, is told by its content. Whatever images its own software feeds it, the net
    that comes out takes RGB 0–255 and does the rest itself: order and scale of the channels are
    folded into conv1_1, the mean is subtracted inside. Nothing is unpickled beyond
    `weights_only=True`.

    Args:
        path: the file.
        net: refuse the file unless it holds this net.
        preprocessing: what the file's weights expect, where they were not trained as the format's
            own software does (`vggnet.formats.foreign.NAMED` has the usual ones).
        class_names: in the order of the scores, where the file does not have them. Nets of 1,000
            classes without names get ImageNet's, in the order of their synsets.
        head: False leaves fc6, fc7 and fc8 out, 495 of net D's 553 MB. Of safetensors and
            PyTorch's zip files they are not even read; other files are read whole first.

    Returns:
        In evaluation mode, on the CPU, float32. Without a classifier, in the file or by `head`, it
        refuses to give scores (`Config.head`).

    Raises:
        InputError: for a file that is missing, damaged, in another format or of another net;
            it names the file and the first thing wrong.
    """
    path = existing(Path(path))
    foreign = _foreign(path, head)
    if foreign is None:
        if preprocessing is not None or class_names is not None:
            raise InputError(
                f"{path}: a file of vggnet's, which has its own pre-processing and names"
            )
        return checkpoint.load(path, net=net, head=head)
    model = assemble(path, foreign, preprocessing=preprocessing, class_names=class_names, head=head)
    if net is not None and model.config.net != net:
        raise InputError(f"{path}: holds net {model.config.net}, not {net}")
    return model


def config_of(path: str | Path) -> Config:
    """Of the net in a file that `load` reads: of one of ours by its header; any other is read
    whole, which finds what is wrong with it.

    Raises:
        InputError: as `load`.
    """
    path = existing(Path(path))
    foreign = _foreign(path, head=True)
    if foreign is None:
        return checkpoint.read_header(path).config
    return assemble(path, foreign).config


def _foreign(path: Path, head: bool) -> Foreign | None:
    """What is in a file of other software; None for one of ours."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if start.startswith(_HDF5):
        return keras.read(path)
    if start.startswith(_MATLAB):
        return matconvnet.read(path)
    if start.startswith(_ZIP):
        return keras.read(path) if _is_keras(path) else _of_torch(path, head)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27:
        tensors, metadata = checkpoint.read_tensors(path)
        if metadata and checkpoint.KEY in metadata:
            return None
        return _named(path, torchfile.plain_names(path, tensors))
    if start.startswith(_PICKLE):
        return _of_torch(path, head)
    if start.startswith(_CAFFE):
        return caffe.read(path)
    raise InputError(
        f"{path}: not a weight file in a format that vggnet reads: safetensors (vggnet's, timm's), "
        "PyTorch's .pth or .bin, Keras' .h5 or .keras, Caffe's .caffemodel, MatConvNet's .mat"
    )


def _of_torch(path: Path, head: bool) -> Foreign:
    return _named(path, torchfile.read_state(path, lazily=not head))


def _named(path: Path, tensors: dict[str, torch.Tensor]) -> Foreign:
    return timm.read(path, tensors) if timm.is_timm(tensors) else torchvision.read(path, tensors)


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return "model.weights.h5" in file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _write_pth(model: VGG, path: Path) -> str:
    state = torchvision.state_dict(model)
    write_atomically(path, lambda temporary: torch.save(state, temporary))
    images = torchvision.preprocessing(model)
    other = ", which is not what torchvision's transforms subtract, and the file cannot say so"
    warning = other * (images != TORCHVISION)
    return f"torchvision's {torchvision.title(model.config)}, images {images}{warning}"


def _write_h5(model: VGG, path: Path) -> str:
    return keras.write(model, path)


def _write_own(model: VGG, path: Path) -> str:
    checkpoint.save(model, path)
    return f"net {model.config.title}, images RGB 0–255"


WRITERS: dict[str, Callable[[VGG, Path], str]] = {
    ".safetensors": _write_own,
    ".pth": _write_pth,
    ".h5": _write_h5,
}
"""By the ending of the file; each returns what was written and which images it takes."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: tuple[str, ...] | None = None,
) -> tuple[VGG, str]:
    """Writes a weight file again in another format.

    Args:
        source: as for `load`, with `preprocessing` and `class_names`.
        target: `….safetensors` (vggnet's, which describes itself), `….pth` (torchvision's names) or
            `….h5` (Keras').

    Returns:
        The net, and what was written: the net's name there and the images that it takes there.

    Raises:
        InputError: as `load`; for another ending, a net that the other software does not have, or
            a place that cannot be written.
    """
    source, target = Path(source), Path(target)
    ending = target.suffix.lower()
    if ending not in WRITERS:
        raise InputError(f"{target}: takes {', '.join(WRITERS)}: choose by the ending")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: is the source itself: choose another name")
    check_writable(target)
    model = load(source, preprocessing=preprocessing, class_names=class_names)
    if ending != ".safetensors" and model.config.boxes is not None:
        raise InputError(
            f"{source}: gives boxes, which no other software's VGG does: keep the file"
        )
    return model, WRITERS[ending](model, target)

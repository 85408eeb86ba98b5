"""Files of weights that describe themselves, and the state of a training run.

Both are safetensors with one metadata entry, `vggnet`, which holds JSON. Nothing is unpickled.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggnet import __version__, rivals
from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.files import existing, write_atomically
from vggnet.model import VGG, Provenance
from vggnet.recipes import as_scale

FORMAT = 1
KEY = "vggnet"
"""Of the one metadata entry."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a weight file says of itself."""

    config: Config
    mean: tuple[float, ...]
    """The mean subtracted inside the net, one value a channel, 0–255."""
    provenance: Provenance
    version: str
    """Of the vggnet that wrote the file."""


_OTHERS = (".pth", ".pt", ".h5", ".hdf5", ".keras", ".caffemodel", ".mat", ".onnx")


def save(model: VGG, path: str | Path, **provenance: Any) -> None:
    """Writes a net's weights and everything needed to use them.

    Args:
        model: any net; its memory format does not matter.
        path: the file, usually `….safetensors`; replaced if it exists. Folders are made. Not one
            that ends as another format does.
        provenance: fields of `Provenance` that replace the model's own, such as `class_names`.

    Raises:
        InputError: for class names that do not fit, or a path that cannot be written.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(model, VGG):
        raise InputError(f"save takes a VGG, not a {type(model).__name__}: give the net inside it")
    if Path(path).suffix.lower() in _OTHERS:
        raise InputError(
            f"{path}: save writes safetensors: end the name in .safetensors (vggnet convert makes "
            ".pth and .h5 of that, vggnet export .onnx)"
        )
    try:
        known = replace(model.provenance, **provenance)
    except TypeError as error:
        raise InputError(f"save: {error}") from None
    names = known.class_names
    if isinstance(names, str):
        raise InputError(f"class names {names[:40]!r}: give a list of them")
    if names is not None:
        known = replace(known, class_names=tuple(names))
        if len(names) != model.config.num_classes:
            raise InputError(f"{len(names)} class names for {model.config.num_classes} classes")
    if wrong := difference(model.config, model.state_dict()):
        raise InputError(f"save: the net is not the one that its config describes: {wrong}")
    header = {
        "format": FORMAT,
        "version": __version__,
        "config": asdict(model.config),
        "preprocessing": _preprocessing(model.config, model.mean.tolist()),
        **asdict(known),
    }
    write_tensors(Path(path), model.state_dict(), header)


def load(path: str | Path, *, net: str | None = None, head: bool = True) -> VGG:
    """Reads a net from a weight file, in evaluation mode on the CPU.

    Args:
        path: a file that `save` wrote.
        net: refuse the file unless it holds this net.
        head: without it fc6, fc7 and fc8 are not read, and the net is one without them.

    Raises:
        InputError: for a file that is missing, truncated, not safetensors, not ours, of another
            net than `net`, or at odds with its own header.
    """
    path = Path(path)
    tensors, raw = read_tensors(path)
    header = _header(path, raw)
    if net is not None and header.config.net != net:
        raise InputError(f"{path}: holds net {header.config.net}, not {net}")
    if wrong := difference(header.config, tensors):
        raise InputError(
            f"{path}: does not hold the net {header.config.net} that its header describes: {wrong}"
        )
    config = header.config
    if not head:
        config = replace(config, head=False)
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc")}
    if tensors["mean"].tolist() != list(header.mean):
        raise InputError(f"{path}: the header's mean is not the one in the weights")
    with torch.device("meta"):
        model = VGG(config, header.mean)
    model.load_state_dict(tensors, assign=True)
    model.provenance = header.provenance if head else replace(header.provenance, class_names=None)
    return model.eval()


def read_header(path: str | Path) -> Header:
    """What a weight file says of itself, without reading the weights.

    Raises:
        InputError: as `load`.
    """
    path = Path(path)
    return _header(path, _open(path, lambda file: file.metadata()))


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes safetensors atomically, `header` as JSON beside them.

    Raises:
        InputError, RunError: as `write_atomically`.
    """
    plain = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
    metadata = {KEY: json.dumps(header)}
    write_atomically(path, lambda temporary: save_file(plain, temporary, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """All tensors of a safetensors file, and its metadata."""

    def read(file: Any) -> tuple[dict[str, Tensor], dict[str, str] | None]:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118

    result: tuple[dict[str, Tensor], dict[str, str] | None] = _open(path, read)
    return result


def parse_header(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    """The JSON that `write_tensors` put beside the tensors."""
    if not metadata or KEY not in metadata:
        raise InputError(
            f"{path}: safetensors, but without vggnet's header: if these are a VGG's weights, make "
            f"a file of them that describes itself: vggnet convert {path} NEW.safetensors"
        )
    try:
        header = json.loads(metadata[KEY])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: its header is not a JSON object")
    return header


def provenance_of(header: dict[str, Any]) -> Provenance:
    """The provenance in a header, its lists being tuples again."""
    names, scale = header["class_names"], header["S"]
    return Provenance(
        class_names=None if names is None else tuple(names),
        S=None if scale is None else as_scale(scale),
        data=header.get("data"),
        source=header.get("source"),
        **{key: header[key] for key in ("dataset", "seed", "recipe", "parent")},
    )


def _open(path: Path, read: Callable[[Any], Any]) -> Any:
    existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise InputError(f"{path}: {_why_broken(path)} ({error})") from None


def _why_broken(path: Path) -> str:
    """A truncated safetensors file still starts with its length and a JSON header."""
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27:
        return "truncated or damaged: copy or download it again"
    return (
        "not a safetensors file: weights in another format are converted by vggnet convert "
        f"{path} NEW.safetensors"
    )


def _preprocessing(config: Config, mean: list[float]) -> dict[str, Any]:
    """What the net does with its images; the only way there is, written for other readers."""
    order = "RGB" if config.in_channels == 3 else None
    return {"order": order, "range": [0, 255], "mean": mean, "inside_the_net": True}


def difference(config: Config, tensors: dict[str, Tensor]) -> str | None:
    """The first tensor that is not as the net of this config has it, in words."""
    try:
        with torch.device("meta"):
            net = VGG(config).state_dict()
    except (RuntimeError, TypeError) as error:  # sizes beyond 64 bits
        return f"no such net can be made ({error})"
    expected = {key: tuple(value.shape) for key, value in net.items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            had, wanted = found.get(key, "missing"), expected.get(key, "nothing")
            return f"{key} is {had}, expected {wanted}"
        if net[key].is_floating_point() != tensors[key].is_floating_point():
            return f"{key} is of {tensors[key].dtype}"
    return None


def _header(path: Path, metadata: dict[str, str] | None) -> Header:
    raw = parse_header(path, metadata)
    if raw.get("format") != FORMAT:
        raise InputError(
            f"{path}: header format {raw.get('format')!r}; this vggnet ({__version__}) reads "
            f"{FORMAT}: upgrade vggnet"
            if "config" in raw
            else f"{path}: not a weight file (is it the state of an unfinished run?)"
        )
    try:
        config = rivals.of(raw["config"])
        mean = tuple(float(value) for value in raw["preprocessing"]["mean"])
        if raw["preprocessing"] != _preprocessing(config, list(mean)):
            raise InputError(f"its pre-processing is not this net's: {raw['preprocessing']}")
        names = raw["class_names"]
        if names is not None and len(names) != config.num_classes:
            raise InputError(f"{len(names)} class names for {config.num_classes} classes")
        return Header(config, mean, provenance_of(raw), raw["version"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its header is not understood ({error!r})") from None

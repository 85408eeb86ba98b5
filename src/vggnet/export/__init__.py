"""A net for other runtimes: ONNX Runtime, OpenVINO, torch.export, ncnn.

What is exported takes images as the net does, RGB 0–255, and does everything else inside; its
scores are `VGG.forward`'s. Every file is run in its own runtime and compared with the net before
it gets its name.

    from vggnet import load
    from vggnet.export import export

    export(load("weights.safetensors"), "net.onnx", format="onnx")
    export(load("weights.safetensors"), "net.xml", format="openvino", precision="float16")

`runtimes.load` opens the files again, `compare.side_by_side` counts their errors.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from vggnet.errors import InputError, RunError
from vggnet.export import compare, int8, layers, ncnn, onnx, openvino, program, runtimes
from vggnet.export.layers import Form, Precision
from vggnet.export.runtimes import SUFFIXES, Format
from vggnet.files import check_writable, write_atomically, write_error
from vggnet.images import Pixels
from vggnet.model import VGG
from vggnet.stopping import stoppable

__all__ = ["Exported", "Form", "Format", "Precision", "check", "export"]

LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 0.02, "int8": float("inf")}
"""Of scores from the net's, over the largest score. Runtimes add in other orders; float16 rounds to
0.001 or so, and to more where weights are too small for it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how near to the net it is."""

    path: Path
    files: tuple[Path, ...]
    """Those that belong together: the path, and the weights where they lie beside it."""
    bytes: int
    """Of all of them."""
    differences: dict[str, float]
    """For each N×H×W that was tried, such as 1×224×224: the largest difference of two scores over
    the largest score."""

    @property
    def difference(self) -> float:
        """The largest."""
        return max(self.differences.values())


def export(
    model: VGG,
    path: str | Path,
    *,
    format: Format,
    form: Form = "dense",
    precision: Precision = "float32",
    calibration: Sequence[Pixels] | None = None,
) -> Exported:
    """Writes a net for another runtime, and runs it there on three sizes beside the net itself.

    Args:
        model: float32, on the CPU; it is put into evaluation mode.
        path: ….onnx, ….xml (OpenVINO), ….pt2 (torch) or ….param (ncnn), replaced if it exists.
            OpenVINO's and ncnn's weights go into a .bin beside it. Folders are made.
        format: onnx (opset 13), openvino, torch (a `torch.export` program) or ncnn.
        form: dense takes any H and W from the crop on, and averages the score map. crop takes the
            crop's size alone. Batches are of any size; ncnn knows none.
        precision: of the weights. float16 halves the file, the computation stays float32 where the
            runtime is told so (`runtimes.load`). int8, of onnx and openvino, quarters it, and
            activations are eight bits wide too.
        calibration: training images for int8, H×W×3 of uint8, RGB, of any sizes, in memory or in
            files; they are rescaled to the net's Q. 128 are enough.

    Raises:
        InputError: on a value that cannot be, a net without its classifier, a library that is
            missing, a place that cannot be written.
        RunError: when scores differ from the net's by more than 1e-4 of the largest (float16: by
            more than 0.02), or the runtime cannot run the file; then nothing is written.
    """
    path = Path(path)
    check(path, format=format, form=form, precision=precision, calibrated=calibration is not None)
    _check_model(model, precision)
    batches = [] if calibration is None else int8.views(model, calibration, form)
    model.eval()
    with _folder_beside(path) as folder:
        built = folder / path.name
        try:
            _write(model, built, format, form, precision, batches)
        except OSError as error:
            raise write_error(path, error) from None
        seen = [batch[0].transpose(1, 2, 0) for batch in batches]
        try:
            session = runtimes.load(built)
            differences = {
                "×".join(map(str, (len(batch), *batch.shape[2:]))): compare.difference(
                    model, session, batch
                )
                for batch in compare.samples(model.config, form, seen)
            }
            del session
        except Exception as error:  # every runtime has errors of its own
            why = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise RunError(
                f"{path}: not written: its own runtime cannot run it ({why}): take another "
                "--format or --form"
            ) from None
        largest, allowed = max(differences.values()), LARGEST_DIFFERENCE[precision]
        if not largest <= allowed:
            raise RunError(
                f"{path}: not written: its scores in {format} differ from the net's by "
                f"{largest:.1e} of the largest, more than {allowed:g}: "
                + (
                    "its weights may be too small for float16, export without --fp16"
                    if precision == "float16"
                    else "is the runtime's version a tested one?"
                )
            )
        files = runtimes.files(path, format)
        with stoppable() as stop:  # both files or neither
            for one in files:
                _move(built.with_suffix(one.suffix), one)
        stop.check()
    size = sum(one.stat().st_size for one in files)
    return Exported(path, files, size, differences)


def check(path: Path, *, format: str, form: str, precision: str, calibrated: bool) -> None:
    """Whether an export of this kind can be made here, before the work for it is done.

    Raises:
        InputError: naming the value and the remedy.
    """
    known = runtimes.check_format(format)
    if path.suffix != SUFFIXES[known]:
        raise InputError(f"{path}: a file of format {known} ends in {SUFFIXES[known]}")
    if form not in get_args(Form):
        raise InputError(f"unknown form {form!r}: take {' or '.join(get_args(Form))}")
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision {precision!r}: {', '.join(get_args(Precision))}")
    if precision == "int8" and known not in ("onnx", "openvino"):
        raise InputError(f"int8 is for onnx and openvino, not {known}: take --fp16, or neither")
    if precision == "int8" and not calibrated:
        raise InputError("int8 needs training images to calibrate with: --calibrate DATA")
    if precision != "int8" and calibrated:
        raise InputError("images to calibrate with are for int8 alone: add --int8")
    for file in runtimes.files(path, known):
        if file.is_dir():
            raise InputError(f"{file}: is a folder: give the name of a file")
        check_writable(file)
    if known in ("openvino", "ncnn"):
        other = path.with_suffix(SUFFIXES["ncnn" if known == "openvino" else "openvino"])
        if other.exists():
            shared = path.with_suffix(".bin").name
            raise InputError(f"{path}: {shared} would be {other.name}'s too: choose another name")
    weights, *others = runtimes.files(path, known)
    if others and weights.exists() and not path.exists():
        raise InputError(
            f"{path}: its weights would overwrite {weights}, which is not its: choose another name"
        )
    runtimes.check_libraries(known, int8=precision == "int8")


def _check_model(model: VGG, precision: Precision) -> None:
    model.config.check_vgg("export")
    model.config.check_classes()
    if model.mean.device.type != "cpu" or model.mean.dtype != torch.float32:
        raise InputError(
            f"the net is {model.mean.dtype} on {model.mean.device}: export takes it as float32 on "
            "the CPU, model.float().cpu()"
        )
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise InputError(
                f"{name} of the net has values that are not finite (NaN or infinity): the weights "
                "are damaged, or the net diverged"
            )
    if precision == "float16":
        layers.check_float16(model)
    if precision == "int8" and model.config.in_channels != 3:
        raise InputError(f"the net takes {model.config.in_channels} channels; images have 3")


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder for the time of the work, on the disk where the path is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise write_error(path, error) from None
    with folder as name:
        yield Path(name)


def _write(
    model: VGG,
    path: Path,
    format: Format,
    form: Form,
    precision: Precision,
    batches: int8.Batches,
) -> None:
    described, half = layers.description(model, form, precision), precision == "float16"
    match format:
        case "onnx":
            graph = onnx.graph(model, form, precision)
            if precision == "int8":
                int8.quantize_onnx(graph, path, batches, described)
            else:
                path.write_bytes(graph.SerializeToString())
        case "openvino":
            made = openvino.read(onnx.graph(model, form, "float32"))
            if precision == "int8":
                made = int8.quantize_openvino(made, batches)
            openvino.write(made, path, described, half=half)
        case "torch":
            program.write(model, path, form, described, half=half)
        case "ncnn":
            ncnn.write(model, path, form, half=half)


def _move(built: Path, path: Path) -> None:
    write_atomically(path, lambda temporary: built.replace(temporary))

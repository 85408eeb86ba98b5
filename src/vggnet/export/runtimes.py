"""Exported files in their own runtimes, on this machine's processor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vggnet.errors import InputError
from vggnet.export.libraries import library, quiet

Format = Literal["onnx", "openvino", "torch", "ncnn"]

SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "ncnn": ".param",
}
"""What a file's name ends in. OpenVINO's and ncnn's weights lie in a .bin beside it."""

Session = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images, N×3×H×W, RGB 0–255, to scores before the soft-max, N×K."""


def load(path: str | Path, threads: int | None = None) -> Session:
    """Opens an exported file in its runtime, told by the ending of its name.

    Every runtime computes in float32, or in int8 where the file says so; without that, OpenVINO
    would take bfloat16 on processors that have it, and ncnn float16.

    Args:
        path: what `export` wrote.
        threads: how many compute; as many as PyTorch's by default.

    Raises:
        InputError: for another ending, a file that is missing, or a missing library.
    """
    path = Path(path)
    found = next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if found is None:
        raise InputError(f"{path}: takes {', '.join(SUFFIXES.values())}: what export wrote")
    for file in files(path, found):
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    return _LOADERS[found](path, threads or torch.get_num_threads())


def files(path: Path, format: Format) -> tuple[Path, ...]:
    """What an exported net consists of; `path` itself is the last."""
    return (path.with_suffix(".bin"), path) if format in ("openvino", "ncnn") else (path,)


def check_libraries(format: Format, *, int8: bool) -> None:
    """Raises InputError where a library is missing that writes or runs this format."""
    needed: dict[Format, tuple[str, ...]] = {
        "onnx": ("onnx", "onnxruntime", *["onnxruntime.quantization"] * int8),
        "openvino": ("onnx", "openvino", *["nncf"] * int8),
        "torch": (),
        "ncnn": ("ncnn",),
    }
    for name in needed[format]:
        library(name, format)


def check_format(format: str) -> Format:
    """Raises InputError for a format that there is not."""
    if format not in get_args(Format):
        raise InputError(f"unknown format {format!r}: take one of {', '.join(get_args(Format))}")
    return format  # type: ignore[return-value]


def _onnx(path: Path, threads: int) -> Session:
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    # Threads that wait by spinning would take the processor from whoever is compared with it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (scores,) = session.run(["scores"], {"images": images})
        return np.asarray(scores)

    return run


def _openvino(path: Path, threads: int) -> Session:
    openvino = library("openvino", "openvino")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    with quiet():
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(compiled([images])["scores"])

    return run


def _torch(path: Path, _: int) -> Session:
    with quiet():
        module = torch.export.load(path).module()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores: torch.Tensor = module(torch.from_numpy(images))
        return scores.numpy()

    return run


def _ncnn(path: Path, threads: int) -> Session:
    ncnn = library("ncnn", "ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_vulkan")):
            setattr(net.opt, name, False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"{path}: ncnn cannot read it")

    def one(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        extractor: Any = net.create_extractor()
        pixels = image.astype(np.float32, order="C")  # a Mat of an array does not keep it alive
        extractor.input("images", ncnn.Mat(pixels).clone())
        failed, scores = extractor.extract("scores")
        if failed:
            raise InputError(f"{path}: ncnn cannot run it on {image.shape[1]}×{image.shape[2]}")
        return np.array(scores)

    return lambda images: np.stack([one(image) for image in images])


_LOADERS: dict[Format, Callable[[Path, int], Session]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch": _torch,
    "ncnn": _ncnn,
}

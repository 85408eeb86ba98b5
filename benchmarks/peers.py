"""Net D beside other software on the CPU: milliseconds an image, all with PyTorch's threads.

Random weights at width 1, the same for everybody; 1000 classes; float32 but for int8.

- `forward_b1`, `forward_b8`: the scores of images of 224×224, one and eight at a time.
- `dense_384`: one image of 384×384 through the dense net: a map of 6×6 scores.
- `train_b8`: a step of SGD (momentum 0.9, weight decay 5e-4, dropout 0.5) on 8 images of 224×224.
- `int8_b1`, `int8_b8`: the files that `vggnet export --int8` writes, in their runtimes; `vggnet`
  is the faster of the two, since both are its own. Calibrated on four images of noise, which
  decides their scores but not their speed.

Each peer has a process of its own for each of these, started anew, with its images ready in the
form that it likes best. The processes work in turns, round by round, and who comes first rotates;
those that wait sleep (`waiting_cpu_ms` is the processor time that they took all the same between
two turns). A turn is a pause of 150 ms, in which the threads of the one before go to sleep (ONNX
Runtime's spin for 50), one call untimed, and the median of three timed ones; in training of one.
Numbers are medians of the rounds' turns, their quartiles are in `spread`; a ratio is of each round
the best peer's time over vggnet's, median and quartiles (above 1, vggnet is faster), where the best
peer is the one with the lowest median. A peer that cannot be measured has a note in its place,
which says why.

The peers, each as fast as it is known to be in float32:

- `vggnet`: `vggnet.fast(model)`; for training, see `step_of`. It takes uint8 and subtracts the mean
  within the time, and so do the exported nets of the others (ncnn's takes floats): a thousandth of
  their time.
- `torch_eager`: plain layers in channels_last under inference_mode, of floats without their mean.
  Dense: the `vggnet.VGG` itself in channels_last. Training: contiguous memory, and SGD's default
  implementation, as torchvision's reference script has it on a CPU; `torch_channels_last` is the
  same in channels_last with SGD(fused=True).
- `torch_compile`: what `torch_eager` computes, by torch.compile with Inductor's freezing. Training:
  forward and backward of `torch_channels_last`, compiled.
- `onnxruntime`: `vggnet export`'s file with spinning threads, which is its default.
- `openvino`: likewise, with the performance hint LATENCY and INFERENCE_PRECISION_HINT f32.
- `ncnn`: likewise, float16 and bfloat16 off, everything else at its default (Winograd and sgemm
  on). It takes one image at a time: eight are eight calls.
- `MNN`: made of the ONNX file by its own converter, precision high. It is not among this
  repository's requirements, and is measured where it can be imported; apart from the environment:

      pip install --no-deps --target /tmp/mnn MNN
      PYTHONPATH=/tmp/mnn .venv/bin/python benchmarks/peers.py --with-mnn

  `--with-mnn` refuses to begin without it. The converter's own command, mnnconvert, installs
  another package with pip and sends usage data; here the function beneath it is called, which does
  neither.

The exported nets of `forward` are in crop form, the others in dense form (`vggnet export --form`).
At 224 the two were equally fast with each of these within what could be told apart, some 5 %, and
dense takes ONNX Runtime twice the memory, ncnn and MNN a third more.

`peak_memory` is the largest resident memory of the process that did nothing but this, in megabytes
(10^6 bytes): reading the weights, the library's own preparation, the calls; no export.
`torch_compile` compiles in it. `interpreter` and `torch` are of Python with NumPy, and with PyTorch
imported besides. `difference` is the largest of a score from `torch_eager`'s over its largest one.

`--quick` leaves out `torch_compile`, which compiles for a minute, unless `--only` names it. The
whole takes 12 GB of memory, since all peers of a task are there at once, and 5 GB in the folder for
temporary files (`TMPDIR`). Nothing else should run meanwhile: what did before is in
`load_average_before`.

    .venv/bin/python benchmarks/peers.py [--json] [--out FILE] [--rounds 9] [--quick]
        [--only PEER_OR_TASK,…] [--with-mnn]
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from turns import in_turns, ratio

if TYPE_CHECKING:  # what measures ONNX Runtime and so on does without PyTorch
    from torch import Tensor, nn

    from vggnet.model import VGG

PAUSE = 0.15
"""Seconds between turns: longer than threads spin when their work is done."""
LONGEST = 900.0
"""Seconds until a process that does not answer is given up."""
SGD = {"lr": 1e-5, "momentum": 0.9, "weight_decay": 5e-4}
"""The learning rate decides nothing about the time; at this one noise is no trouble."""

Once = Callable[[], Any]
"""One call on all images: their scores, N×K or N×K×h×w; of training, nothing of interest."""
Form = Literal["crop", "dense"]


@dataclass(frozen=True, slots=True)
class Task:
    batch: int
    side: int
    peers: tuple[str, ...]
    untimed: int = 1
    timed: int = 3
    """Calls in a turn."""


_ENGINES = ("onnxruntime", "openvino", "ncnn", "MNN")
_FORWARD = ("vggnet", "torch_eager", "torch_compile", *_ENGINES)
TASKS = {
    "forward_b1": Task(1, 224, _FORWARD),
    "forward_b8": Task(8, 224, _FORWARD),
    "dense_384": Task(1, 384, _FORWARD[:5]),
    "train_b8": Task(8, 224, (*_FORWARD[:3], "torch_channels_last"), timed=1),
    "int8_b1": Task(1, 224, ("onnxruntime", "openvino")),
    "int8_b8": Task(8, 224, ("onnxruntime", "openvino")),
}
PEERS = (*_FORWARD[:3], "torch_channels_last", *_ENGINES)
RATIOS: dict[str, tuple[str, ...]] = {
    "torch_and_runtimes": ("torch_eager", "torch_compile", "onnxruntime", "openvino"),
    "ncnn_and_mnn": ("ncnn", "MNN"),
    "torch": ("torch_eager", "torch_compile"),
    "runtimes": ("onnxruntime", "openvino"),
    "torch_eager": ("torch_eager",),
    "torch_channels_last": ("torch_channels_last",),
    "torch_compile": ("torch_compile",),
}
"""Groups of peers; the best of one is what vggnet is compared with."""
BARS = {
    "forward_b1": ("torch_and_runtimes", "ncnn_and_mnn"),
    "forward_b8": ("torch_and_runtimes", "ncnn_and_mnn"),
    "dense_384": ("torch", "runtimes"),
    "train_b8": ("torch_eager", "torch_channels_last", "torch_compile"),
}
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "ncnn": ".param", "MNN": ".mnn"}
"""Of the exported net that a peer reads."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does."""

    peer: str
    name: str
    folder: Path
    threads: int

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def file(self) -> Path | None:
        """The exported net that it reads, if it does; `written` makes it."""
        if self.peer not in SUFFIXES:
            return None
        precision = "int8" if self.name.startswith("int8") else "float32"
        return self.folder / self.peer / f"{self.form}-{precision}{SUFFIXES[self.peer]}"

    @property
    def form(self) -> Form:
        """Of the exported net."""
        return "crop" if self.name.startswith("forward") else "dense"

    def pixels(self) -> NDArray[np.uint8]:
        shape = self.task.batch, 3, self.task.side, self.task.side
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def model(self) -> "VGG":
        """The net, and PyTorch with the job's threads: for those that compute with it."""
        import torch

        import vggnet

        torch.set_num_threads(self.threads)
        return vggnet.load(self.folder / "weights.safetensors")


# The peers. Each takes a job, and gives what is timed and what it is, in words.


def _vggnet(job: Job) -> tuple[Once, str]:
    import torch

    import vggnet

    images = torch.from_numpy(job.pixels())
    if job.name.startswith("train"):
        return _training(job, *step_of(job.model()), images)
    net = vggnet.fast(job.model())
    call = net.score_map if job.name.startswith("dense") else net
    return lambda: call(images), net.engine


def step_of(model: "VGG") -> tuple["Callable[[Tensor, Tensor], None]", str]:
    """HOW VGGNET TRAINS ON A CPU, as in `vggnet.train`. The one place to change when that changes.

    Args:
        model: with its weights.

    Returns:
        What makes a step with images, uint8, N×3×H×W, and their labels; and what it is, in words.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from vggnet.kernels.training import accelerated, uses_kernels

    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = accelerated(model)
    optimizer = torch.optim.SGD(model.parameters(), **SGD, fused=True)  # type: ignore[arg-type]

    def step(images: "Tensor", labels: "Tensor") -> None:
        optimizer.zero_grad()
        cross_entropy(forward(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    words = "the kernels" if uses_kernels(model) else "the model itself"
    return step, f"{words}, SGD(fused=True)"


def _torch_eager(job: Job) -> tuple[Once, str]:
    import torch

    if job.name.startswith("train"):
        return _plain_training(job, torch.contiguous_format, fused=None)
    net, images = _torch_forward(job)

    def once() -> "Tensor":
        with torch.inference_mode():
            return net(images)  # type: ignore[no-any-return]

    return once, "channels_last"


def _torch_channels_last(job: Job) -> tuple[Once, str]:
    import torch

    return _plain_training(job, torch.channels_last, fused=True)


def _torch_compile(job: Job) -> tuple[Once, str]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job.folder / "inductor" / job.name)
    import torch
    from torch._inductor import config

    if job.name.startswith("train"):
        return _plain_training(job, torch.channels_last, fused=True, compiled=True)
    config.freezing = True  # type: ignore[assignment,unused-ignore]
    net, images = _torch_forward(job)
    compiled = torch.compile(net, dynamic=False)

    def once() -> "Tensor":
        with torch.inference_mode():
            return compiled(images)  # type: ignore[no-any-return]

    return once, "Inductor, freezing"


def _torch_forward(job: Job) -> "tuple[nn.Module, Tensor]":
    """What eager PyTorch and the compiler compute, and what of."""
    import torch
    from torch import nn

    model = job.model().requires_grad_(False)
    images = torch.from_numpy(job.pixels())
    if job.name.startswith("dense"):

        class ScoreMap(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = model

            def forward(self, images: "Tensor") -> "Tensor":
                return self.net.score_map(images)

        net: nn.Module = ScoreMap()
    else:
        net, images = plain(model), images - model.mean.view(1, 3, 1, 1)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval(), images.contiguous(memory_format=torch.channels_last)


def plain(model: "VGG") -> "nn.Sequential":
    """The usual VGG of plain layers, in-place ReLUs and linear head, on the model's own weights."""
    from torch import nn

    layers: list[nn.Module] = []
    for layer in model.config.layers():
        match layer.kind:
            case "conv":
                shape = layer.in_channels, layer.out_channels, layer.kernel
                layers.append(nn.Conv2d(*shape, padding=layer.kernel // 2, device="meta"))
            case "relu":
                layers.append(nn.ReLU(inplace=True))
            case "pool":
                layers.append(nn.MaxPool2d(2))
            case "dropout":
                layers.append(nn.Dropout(model.config.dropout))
            case "fc":
                if layer.name == "fc6":
                    layers.append(nn.Flatten())
                size = layer.in_channels * layer.kernel**2
                layers.append(nn.Linear(size, layer.out_channels, device="meta"))
            case other:
                raise ValueError(f"no plain layer for {other}")
    net = nn.Sequential(*layers)
    weights = [value for key, value in model.state_dict().items() if key != "mean"]
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)), assign=True)
    return net


def _plain_training(
    job: Job, memory: Any, fused: bool | None, *, compiled: bool = False
) -> tuple[Once, str]:
    import torch
    from torch import nn

    model = job.model()
    net, criterion = plain(model).train().to(memory_format=memory), nn.CrossEntropyLoss()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), **SGD, fused=fused)  # type: ignore[arg-type]
    forward = torch.compile(net, dynamic=False) if compiled else net

    def step(images: "Tensor", labels: "Tensor") -> None:
        optimizer.zero_grad()
        criterion(forward(images), labels).backward()
        optimizer.step()

    floats = torch.from_numpy(job.pixels()) - model.mean.view(1, 3, 1, 1)
    words = "Inductor, " * compiled + str(memory).removeprefix("torch.")
    words += ", SGD" + "(fused=True)" * bool(fused)
    return _training(job, step, words, floats.contiguous(memory_format=memory))


def _training(
    job: Job, step: "Callable[[Tensor, Tensor], None]", words: str, images: "Tensor"
) -> tuple[Once, str]:
    import torch

    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 1000, job.task.batch))
    return lambda: step(images, labels), words


def _onnxruntime(job: Job) -> tuple[Once, str]:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3  # errors alone
    session = runtime.InferenceSession(str(job.file), options, providers=["CPUExecutionProvider"])
    pixels = job.pixels()
    return lambda: session.run(["scores"], {"images": pixels})[0], f"{job.form} form"


def _openvino(job: Job) -> tuple[Once, str]:
    openvino = importlib.import_module("openvino")
    core, pixels = openvino.Core(), job.pixels()
    net = core.read_model(str(job.file))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(job.threads),
    }
    request = core.compile_model(net, "CPU", settings).create_infer_request()

    def once() -> Any:
        return request.infer([pixels], share_inputs=True, share_outputs=True)["scores"]

    return once, f"{job.form} form"


def _ncnn(job: Job) -> tuple[Once, str]:
    ncnn = importlib.import_module("ncnn")
    assert job.file is not None
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_vulkan")):
            setattr(net.opt, name, False)
    if net.load_param(str(job.file)) or net.load_model(str(job.file.with_suffix(".bin"))):
        raise RuntimeError("ncnn cannot read its file")
    images = [ncnn.Mat(image).clone() for image in job.pixels().astype(np.float32)]

    def once() -> Any:
        scores = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("images", image)
            failed, found = extractor.extract("scores")
            if failed:
                raise RuntimeError("ncnn cannot run its file")
            scores.append(np.array(found))
        return np.stack(scores)

    return once, f"{job.form} form, image by image"


def _mnn(job: Job) -> tuple[Once, str]:
    mnn = importlib.import_module("MNN")
    pixels = job.pixels()
    net = mnn.Interpreter(str(job.file))
    session = net.createSession({"backend": "CPU", "precision": "high", "numThread": job.threads})
    net.resizeTensor(net.getSessionInput(session, "images"), pixels.shape)
    net.resizeSession(session)
    images = net.getSessionInput(session, "images")
    kind = mnn.Tensor_DimensionType_Caffe
    given = mnn.Tensor(pixels.shape, mnn.Halide_Type_Uint8, pixels, kind)

    def once() -> Any:
        images.copyFrom(given)
        net.runSession(session)
        scores = net.getSessionOutput(session, "scores")
        shape = scores.getShape()
        taken = mnn.Tensor(shape, mnn.Halide_Type_Float, np.zeros(shape, np.float32), kind)
        scores.copyToHostTensor(taken)
        return np.array(taken.getNumpyData())

    return once, f"{job.form} form, session"


MAKERS: dict[str, Callable[[Job], tuple[Once, str]]] = {
    "vggnet": _vggnet,
    "torch_eager": _torch_eager,
    "torch_channels_last": _torch_channels_last,
    "torch_compile": _torch_compile,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "MNN": _mnn,
}


# What runs in a process of its own, and how it is spoken to.


def _serve(job: Job, log: Path, parent: Connection) -> None:
    _keep_quiet(log)
    try:
        start = time.perf_counter()
        once, words = MAKERS[job.peer](job)
        scores = once()
        once()
        seconds = time.perf_counter() - start
        first = None
        if scores is not None:
            array = np.asarray(scores, np.float64)
            first = array.reshape(*array.shape[:2], -1).mean(2)[0].tolist()
        parent.send({"words": words, "seconds": seconds, "scores": first})
        before = time.process_time()
        while parent.recv() == "turn":
            waited = time.process_time() - before
            for _ in range(job.task.untimed):
                once()
            found = []
            for _ in range(job.task.timed):
                start = time.perf_counter()
                once()
                found.append(time.perf_counter() - start)
            before = time.process_time()
            parent.send({"seconds": statistics.median(found), "waited": waited})
        parent.send({"peak": peak_memory()})
    except Exception as error:  # every library has errors of its own
        parent.send({"error": _said(error)})


def _bare(torch: bool, log: Path, parent: Connection) -> None:
    _keep_quiet(log)
    if torch:
        importlib.import_module("torch")
    parent.send({"peak": peak_memory()})


def _write_weights(folder: Path, width: float, log: Path, parent: Connection) -> None:
    """Writes the net; compiles the kernels where they are not."""
    _keep_quiet(log)
    import vggnet

    model = vggnet.build("D", width=width)
    vggnet.save(model, folder / "weights.safetensors")
    vggnet.fast(vggnet.build("D", width=1 / 16, crop=32))
    weights = model.parameters()
    parent.send({"bytes": sum(weight.numel() * weight.element_size() for weight in weights)})


def _export(jobs: Sequence[Job], log: Path, parent: Connection) -> None:
    """Writes the exported nets that the jobs read, but for MNN's."""
    _keep_quiet(log)
    from vggnet.export import Format, export

    model = jobs[0].model()
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (256, 341, 3), np.uint8) for _ in range(4)]
    formats: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".param": "ncnn"}
    failed: dict[str, str] = {}
    for path in _files(jobs):
        if path.suffix not in formats:
            continue
        form, _, precision = path.stem.partition("-")
        try:
            export(
                model,
                path,
                format=formats[path.suffix],
                form=form,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                calibration=noise if precision == "int8" else None,
            )
        except Exception as error:
            failed[str(path)] = _said(error)
    parent.send({"failed": failed})


def _files(jobs: Iterable[Job]) -> list[Path]:
    """What has to be exported for the jobs, each once; an ONNX file before what is made of it."""
    found = []
    for job in jobs:
        if job.file is not None:
            if job.peer == "MNN":
                found.append(_source(job.file))
            found.append(job.file)
    return list(dict.fromkeys(found))


def _source(path: Path) -> Path:
    """The ONNX file that a file of MNN's is made of."""
    return path.parent.parent / "onnxruntime" / f"{path.stem}.onnx"


def _convert(path: Path, log: Path, parent: Connection) -> None:
    """Makes MNN's file."""
    _keep_quiet(log)
    try:
        importlib.import_module("MNN")
        path.parent.mkdir(exist_ok=True)
        words = f"mnnconvert -f ONNX --bizCode vggnet --modelFile {_source(path)} --MNNModel {path}"
        importlib.import_module("_tools").mnnconvert(words.split())
        if not path.exists():
            raise RuntimeError("the converter has written nothing")
        parent.send({})
    except Exception as error:
        parent.send({"error": _said(error)})


def _keep_quiet(log: Path) -> None:
    """What libraries print goes into the log; they send no usage data."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it fails


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes.

    On Linux not `ru_maxrss`: that one counts what the parent had when it started this process.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Process:
    """One that works when it is asked to, and sleeps meanwhile."""

    def __init__(self, target: Callable[..., None], *args: Any, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.log = log
        self.process = context.Process(target=target, args=(*args, log, theirs), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, question: str | None = None) -> dict[str, Any]:
        """Its answer, to a question or to being started.

        Raises:
            RuntimeError: with what went wrong, in it or with it.
        """
        try:
            if question is not None:
                self.connection.send(question)
            if not self.connection.poll(LONGEST):
                raise RuntimeError(f"no answer in {LONGEST:.0f} s")
            answer: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            lines = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            why = f"ended with status {self.process.exitcode}"
            raise RuntimeError(": ".join([why, *lines])[:300]) from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def end(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def ask_once(target: Callable[..., None], *args: Any, log: Path) -> dict[str, Any]:
    """The answer of a process that gives one and ends."""
    process = Process(target, *args, log=log)
    try:
        return process.ask()
    finally:
        process.end()


class Peer:
    """A peer at a task: its process, which begins to prepare at once, and what is known of it."""

    def __init__(self, job: Job) -> None:
        self.job, self.note = job, ""
        self.waited: list[float] = []
        self.peak = 0
        self.ready: dict[str, Any] = {}
        self.process = Process(_serve, job, log=job.folder / f"{job.name}-{job.peer}.log")

    def wait(self) -> None:
        """Until it has prepared."""
        try:
            self.ready = self.process.ask()
        except RuntimeError as error:
            self.note = str(error)

    def turn(self) -> float:
        """Images a second; not a number once something went wrong, which `note` says."""
        if self.note:
            return float("nan")
        time.sleep(PAUSE)
        try:
            answer = self.process.ask("turn")
        except RuntimeError as error:
            self.note = str(error)
            return float("nan")
        self.waited.append(answer["waited"])
        return self.job.task.batch / float(answer["seconds"])

    def end(self) -> None:
        if not self.note:
            with suppress(RuntimeError):
                self.peak = self.process.ask("end")["peak"]
        self.process.end()


def measured(
    jobs: Sequence[Job], notes: Mapping[str, str], rounds: int, together: bool
) -> dict[str, Any]:
    """One task: of each peer its speeds round by round, and what there is to say of it.

    Args:
        jobs: of one task, each of another peer.
        notes: of files that could not be written, why.
        rounds: turns of each.
        together: prepare all at once, not one after the other.
    """
    found: dict[str, Any] = {"notes": {}, "speeds": {}}
    peers: dict[str, Peer] = {}
    try:
        for job in jobs:
            if why := notes.get(str(job.file)):
                found["notes"][job.peer] = why
                continue
            _say(f"{job.name}: {job.peer}")
            peers[job.peer] = Peer(job)
            if not together:
                peers[job.peer].wait()
        if together:
            for peer in peers.values():
                peer.wait()
        _say(f"{jobs[0].name}: {rounds} rounds")
        ways = {name: peer.turn for name, peer in peers.items() if not peer.note}
        speeds = in_turns(ways, rounds) if ways else {}
    finally:
        for peer in peers.values():
            peer.end()
    found["notes"] |= {name: peer.note for name, peer in peers.items() if peer.note}
    well = {name: peer for name, peer in peers.items() if not peer.note}
    found["speeds"] = {name: speeds[name] for name in well}
    found["forms"] = {name: peer.ready["words"] for name, peer in well.items()}
    found["seconds_to_prepare"] = {
        name: round(peer.ready["seconds"], 1) for name, peer in well.items()
    }
    found["waiting_cpu_ms"] = {
        name: round(1e3 * statistics.median(peer.waited), 1) for name, peer in well.items()
    }
    found["peak"] = {name: peer.peak for name, peer in well.items()}
    found["difference"] = differences(
        {name: peer.ready["scores"] for name, peer in well.items() if peer.ready["scores"]}
    )
    return found


def differences(scores: Mapping[str, list[float]]) -> dict[str, float]:
    """Of one image: the largest from torch_eager's over the largest of torch_eager's scores."""
    if "torch_eager" not in scores:
        return {}
    wanted = np.array(scores["torch_eager"])
    return {
        name: float(f"{np.abs(np.array(values) - wanted).max() / np.abs(wanted).max():.1e}")
        for name, values in scores.items()
        if name != "torch_eager"
    }


def milliseconds(
    speeds: Mapping[str, Sequence[float]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Medians and quartiles of milliseconds an image, of images a second."""
    medians, spread = {}, {}
    for name, values in speeds.items():
        times = [1e3 / value for value in values]
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        medians[name] = round(middle, 3)
        spread[name] = [round(low, 3), round(high, 3)]
    return medians, spread


def ratios(speeds: Mapping[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Of each task, each group of peers: the best one's time over vggnet's, round by round.

    Args:
        speeds: images a second, by task, peer and round.

    Returns:
        By task and group: the ratio's median and quartiles, and the peer's name; or a note. Under
        `each`, the same for every peer by itself.
    """
    found: dict[str, dict[str, Any]] = {}
    for task, groups in BARS.items():
        if task not in speeds:
            continue
        ways, found[task] = speeds[task], {}
        for group in groups:
            known = [name for name in RATIOS[group] if name in ways]
            if not known or "vggnet" not in ways:
                found[task][group] = "not measured"
                continue
            best = max(known, key=lambda name: statistics.median(ways[name]))
            found[task][group] = ratio(ways, "vggnet", best) | {"best": best}
        if "vggnet" in ways:
            others = [name for name in ways if name != "vggnet"]
            found[task]["each"] = {name: ratio(ways, "vggnet", name) for name in others}
    return found


def memory(
    peaks: Mapping[str, Mapping[str, int]], bare: Mapping[str, int], weights: int
) -> dict[str, Any]:
    """Megabytes by task and peer; vggnet's forward over the weights' size.

    Args:
        peaks: bytes, by task and peer.
        bare: bytes of Python's process with NumPy (interpreter), and with PyTorch too (torch).
        weights: bytes.
    """
    found: dict[str, Any] = {
        task: {name: round(peak / 1e6, 1) for name, peak in ways.items() if peak}
        for task, ways in peaks.items()
    }
    found |= {name: round(size / 1e6, 1) for name, size in bare.items()}
    found["weights"] = round(weights / 1e6, 1)
    ours = [ways["vggnet"] for task, ways in peaks.items() if _is_forward(task, ways)]
    if ours:
        found["vggnet_forward_over_weights"] = {
            "all": round(max(ours) / weights, 3),
            "less_torch": round((max(ours) - bare["torch"]) / weights, 3),
        }
    return found


def _is_forward(task: str, ways: Mapping[str, int]) -> bool:
    return task.startswith("forward") and bool(ways.get("vggnet"))


def measure(
    names: set[str], rounds: int, width: float, threads: int, quick: bool
) -> dict[str, Any]:
    """All that the JSON holds but for what describes the run.

    Args:
        names: of tasks and of peers to measure; all of those that are not named at all.
        rounds: of each task.
        width: of the net.
        threads: of everybody.
        quick: without torch_compile, unless it is named; prepare several at once.
    """
    tasks = [name for name in TASKS if name in names] or list(TASKS)
    only = [name for name in PEERS if name in names]
    only = only or [name for name in PEERS if name != "torch_compile" or not quick]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        jobs = [
            Job(peer, task, folder, threads)
            for task in tasks
            for peer in TASKS[task].peers
            if peer in only
        ]
        if not jobs:
            raise SystemExit("none of these peers has a part in these tasks")
        start = time.perf_counter()
        notes, weights = _prepared(jobs, width)
        seconds = time.perf_counter() - start
        bare = {
            name: ask_once(_bare, name == "torch", log=folder / "bare.log")["peak"]
            for name in ("interpreter", "torch")
        }
        found = {
            task: measured([job for job in jobs if job.name == task], notes, rounds, quick)
            for task in tasks
            if any(job.name == task for job in jobs)
        }
    speeds = {task: dict(part["speeds"]) for task, part in found.items()}
    for task, ways in speeds.items():
        if task.startswith("int8") and ways:
            ways["vggnet"] = max(ways.values(), key=statistics.median)
    medians: dict[str, Any] = {}
    spread = {}
    for task, part in found.items():
        middle, spread[task] = milliseconds(speeds[task])
        known = middle | part["notes"]
        medians[task] = {name: known[name] for name in PEERS if name in known}
    peaks = {task: part["peak"] for task, part in found.items()}
    result = medians | {"ratios": ratios(speeds), "spread": spread}
    result["peak_memory"] = memory(peaks, bare, weights)
    for key in ("difference", "forms", "waiting_cpu_ms", "seconds_to_prepare"):
        result[key] = {task: part[key] for task, part in found.items()}
    result["seconds_to_export"] = round(seconds, 1)
    return result


def _prepared(jobs: Sequence[Job], width: float) -> tuple[dict[str, str], int]:
    """Writes what the jobs read; of each file that there is not, why, and the weights' bytes."""
    folder, log = jobs[0].folder, jobs[0].folder / "write.log"
    _say("writing the weights and the exported nets")
    weights: int = ask_once(_write_weights, folder, width, log=log)["bytes"]
    notes: dict[str, str]
    try:
        notes = ask_once(_export, jobs, log=log)["failed"]
    except RuntimeError as error:  # what was written is whole
        paths = [path for path in _files(jobs) if path.suffix != ".mnn"]
        notes = {str(path): str(error) for path in paths if not path.exists()}
    for path in _files(jobs):
        if path.suffix == ".mnn":
            if find_spec("MNN") is None:
                notes[str(path)] = "not installed"
            elif why := notes.get(str(_source(path))):
                notes[str(path)] = why
            else:
                _say(f"converting {path.name}")
                try:
                    ask_once(_convert, path, log=folder / "convert.log")
                except RuntimeError as error:
                    notes[str(path)] = str(error)
    return notes, weights


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(what, file=sys.stderr)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("vggnet", "torch", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "ncnn"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(PackageNotFoundError):
        found["MNN"] = version("MNN")
    return found


def table(result: dict[str, Any]) -> str:
    tasks = [task for task in TASKS if task in result]
    lines = [f"{'ms an image':20}" + "".join(f"{task:>12}" for task in tasks)]
    notes = []
    for name in PEERS:
        cells = []
        for task in tasks:
            value = result[task].get(name, "")
            if isinstance(value, str) and value:
                notes.append(f"{task}, {name}: {value}")
                value = "-"
            cells.append(f"{value:>12.1f}" if isinstance(value, float) else f"{value:>12}")
        lines.append(f"{name:20}" + "".join(cells))
    lines += notes
    for task, groups in result["ratios"].items():
        for group, value in groups.items():
            if "best" in value:
                lines.append(
                    f"{task}: {value['best']}'s time (best of {group}) is {value['ratio']} of "
                    f"vggnet's {value['quartiles']}"
                )
    ours = result["peak_memory"].get("vggnet_forward_over_weights")
    if ours:
        lines.append(
            f"vggnet's peak memory in the forward is {ours['all']} of the weights, "
            f"{ours['less_torch']} less what PyTorch takes"
        )
    lines.append(f"{result['machine']}, {result['threads']} threads, {result['date']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="of each task; 9 by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--quick", action="store_true", help="narrow, few rounds: does it run?")
    parser.add_argument("--only", default="", help="peers and tasks, with commas between them")
    parser.add_argument("--with-mnn", action="store_true", help="refuse to begin without MNN")
    args = parser.parse_args()
    names = {name for name in args.only.split(",") if name}
    if unknown := names - {*TASKS, *PEERS}:
        parser.error(f"{', '.join(sorted(unknown))}: take {', '.join((*PEERS, *TASKS))}")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: take 1 or more")
    if args.with_mnn and find_spec("MNN") is None:
        parser.error("MNN cannot be imported: see the top of this file")
    load = [round(value, 2) for value in os.getloadavg()]  # of other work, before ours
    import torch

    from forward import processor

    threads = torch.get_num_threads()
    rounds = args.rounds or (2 if args.quick else 9)
    width = 1 / 8 if args.quick else 1.0
    found = measure(names, rounds, width, threads, args.quick)
    result = found | {
        "net": "D",
        "width": width,
        "rounds": rounds,
        "machine": processor(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": threads,
        "load_average_before": load,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else table(result))


if __name__ == "__main__":
    main()

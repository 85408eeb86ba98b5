"""The fastest forward of a net for the machine at hand, with the net's own call."""

import warnings
from typing import get_args

import torch

from vggnet.errors import InputError
from vggnet.inference.base import Fast, Plain
from vggnet.inference.cpu import OnCPU, Stored
from vggnet.inference.gpu import OnGPU
from vggnet.kernels.library import UnavailableError, library
from vggnet.model import VGG

__all__ = ["Fast", "Plain", "Stored", "engine", "fast"]


def fast(model: VGG, *, fc: Stored = "float32", threads: int | None = None) -> "Fast":
    """The fastest inference for this machine, called as the model is: `fast(model)(images)`.

    On a CPU, for a float32 net, Winograd's minimal filtering in kernels that a C++ compiler makes
    for the processor on first use (some ten seconds, kept in `~/.cache/vggnet`): scores differ from
    float64 by rounding, some 1e-6 of the largest. Without a compiler, in float64 or bfloat16,
    PyTorch computes, and a warning says so. On a GPU, bfloat16 in channels_last: compiled into CUDA
    graphs for shapes that come again; scores differ by some 1e-2 of the largest.

    It is a snapshot: a convolution's weights are transformed at the first call that needs them (all
    of net D's in 0.3 s to 235 MB, besides some 100 MB of buffers; those up to relu3_3 to 28 MB;
    `Fast.bytes`) while the fully connected layers read the model's own. Hooks on the model's layers
    are not called. After the model's weights change, or it is moved, call `fast` again; a call of
    the old one is then an InputError.

    Args:
        model: in evaluation mode or not; dropout is not applied.
        fc: how the fully connected layers' weights are kept on a CPU. bfloat16 and int8 (a scale
            a row) read a half and a quarter of the bytes and round each weight to 8 bits of
            mantissa, or to 1/127 of its row's largest.
        threads: on a CPU; PyTorch's number by default.

    Raises:
        InputError: for a wrong option, or what is no VGG.
    """
    if not isinstance(model, VGG):
        raise InputError(
            f"fast takes a VGG, not a {type(model).__name__}: vggnet.load reads one, vggnet.build "
            "makes one"
        )
    return engine(model, fc=fc, threads=threads, quiet=False)


def engine(
    model: VGG, *, fc: Stored = "float32", threads: int | None = None, quiet: bool = True
) -> "Fast":
    """`fast`, silent where PyTorch computes."""
    if fc not in get_args(Stored):
        raise InputError(f"fc {fc!r} is not known: take {', '.join(get_args(Stored))}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads} is not 1 or more")
    device, dtype = model.mean.device.type, model.mean.dtype
    why = ""
    if not model.config.is_vgg:
        why = f"there are no kernels for net {model.config.net}"
    elif device == "cuda":
        if fc != "float32":
            raise InputError(f"fc {fc}: it is for a CPU; the net is on {model.mean.device}")
        return OnGPU(model)
    elif device != "cpu":
        why = f"there are no kernels for {device}"
    elif dtype != torch.float32:
        why = f"the kernels take float32; the net is in {str(dtype).removeprefix('torch.')}"
    else:
        try:
            library()
            return OnCPU(model, fc, threads or torch.get_num_threads())
        except UnavailableError as error:
            why = str(error)
    if fc != "float32":
        raise InputError(f"fc {fc}: {why}")
    if not quiet:
        warnings.warn(why, stacklevel=3)
    return Plain(model, why)

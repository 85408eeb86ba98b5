"""Inference on a GPU: bfloat16 in channels_last, CUDA graphs for shapes that recur."""

import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from vggnet import gpu_layers
from vggnet.errors import InputError
from vggnet.inference.base import Fast
from vggnet.model import VGG

_TIMES, _SHAPES = 3, 8
"""A shape is compiled when it comes for the third time, as long as fewer than eight are."""

_Key = tuple[torch.Size, torch.dtype, tuple[str, ...]]


class OnGPU(Fast):
    """A net on a GPU, its weights copied once into `dtype` and channels_last.

    The mean is subtracted, fc8 computed and the score map averaged in float32; what comes back is
    float32. `torch.compile` makes a shape that comes for the third time into one CUDA graph, which
    takes tens of seconds; others, such as photographs' own shapes or an evaluation's last batch,
    are computed layer by layer. Where compiling fails, a warning says so and all are.

    Args:
        model: in evaluation mode or not.
        dtype: bfloat16, float16 or float32; by default bfloat16 for a float32 net, and a net's own
            for others.

    Raises:
        InputError: for another dtype.
    """

    def __init__(self, model: VGG, dtype: torch.dtype | None = None) -> None:
        own = model.mean.dtype
        dtype = dtype or (torch.bfloat16 if own == torch.float32 else own)
        if not dtype.is_floating_point:
            raise InputError(f"dtype {dtype}: take torch.bfloat16, torch.float16 or torch.float32")
        super().__init__(model, f"{str(dtype).removeprefix('torch.')} on {model.mean.device}")
        self.dtype = dtype
        # What is computed outside of the copy, in a width that does not round scores.
        self._wide = torch.promote_types(own, torch.float32)
        self._mean = model.mean.to(self._wide).view(1, -1, 1, 1)
        self._net = deepcopy(model).to(dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._net.mean.zero_()
        self._layers = gpu_layers.layers_of(self._net)
        self._compile = model.mean.is_cuda
        self._compiled: Callable[..., dict[str, Tensor]] | None = None
        self._seen: Counter[_Key] = Counter()

    @property
    def bytes(self) -> int:
        """Of the weights' copy; what a CUDA graph keeps of the net's maps is not counted."""
        return sum(x.numel() * x.element_size() for x in self._net.parameters())

    def _run(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        images = images.to(self.mean.device)
        if self._recurs(key := (images.shape, images.dtype, tuple(names))):
            try:
                if self._compiled is None:
                    self._compiled = torch.compile(
                        self._forward, mode="reduce-overhead", dynamic=False
                    )
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                with gpu_layers.searching():
                    found = self._compiled(images, key[2], True)
                # The next call writes into the same memory.
                return {name: value.clone() for name, value in found.items()}
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no Triton, no C compiler, …
                why = f"{type(error).__name__}: {error}".splitlines()[0]
                warnings.warn(f"inference is not compiled: {why}", stacklevel=4)
                self._compile = False
        return self._forward(images, key[2])

    def _recurs(self, key: _Key) -> bool:
        """Counts a shape; whether it is worth a graph."""
        self._seen[key] += 1
        recurring = [known for known, times in self._seen.items() if times >= _TIMES]
        return self._compile and key in recurring[:_SHAPES]

    def _forward(
        self, images: Tensor, names: tuple[str, ...], arranged: bool = False
    ) -> dict[str, Tensor]:
        """Named outputs; `arranged` for a compiler, or layer by layer."""
        x = (images.to(self._wide) - self._mean).to(self.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        scored = "fc8" in names or "scores" in names
        inner = {*names, *["drop7"] * scored} - {"fc8", "scores"}
        given = gpu_layers.run(self._layers, x, inner) if arranged else self._net.run(x, inner)
        found = {name: value.to(self._wide) for name, value in given.items()}
        if scored:
            fc8: Any = self._model.get_submodule("fc8")
            found["fc8"] = fc8(found["drop7"].to(fc8.weight.dtype)).to(self._wide)
            found["scores"] = found["fc8"].mean(dim=(2, 3))
        return {name: found[name] for name in names}

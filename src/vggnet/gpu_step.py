"""A training step for a GPU: bfloat16 products, forward and backward compiled, a fused update."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet import gpu_layers
from vggnet.errors import InputError
from vggnet.model import VGG
from vggnet.rivals import SIDE_WEIGHT

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class CompiledStep:
    """Steps of §3.1's SGD, with convolutions and matrix products in bfloat16 by autocast.

    Weights, their gradients' sums and the momentum stay float32. The function is the net's at the
    size of its crop, as `gpu_layers` arranges it, which changes rounding alone. Hooks on
    convolutions, ReLUs, poolings and fully connected layers are not called. One of Table 7's other
    nets is taken as it is, with the classifiers at its side.

    Batches of `batch_size` go through `torch.compile`; those of another size, such as an epoch's
    last, through the same function as it stands, so that they never compile. Where compiling fails,
    a warning says so and all batches do. cuDNN looks for its fastest kernels once a size.

    Dropout draws from PyTorch's default generators, compiled or not: after the same
    `torch.manual_seed` a step draws the same. A compiled step and one that is not draw differently.

    Args:
        model: float32, on the device that it is to be trained on; put into channels_last. Whether
            batch normalisation and dropout are in training mode is the model's to say.
        batch_size: images of a whole batch.
        learning_rate: of the beginning; set `optimizer.param_groups[0]["lr"]` at any time.
        momentum: of SGD.
        weight_decay: the L2 penalty's factor.
        dtype: of convolutions and matrix products, bfloat16 or float32.
        backend: of `torch.compile`; None compiles nothing.

    Raises:
        InputError: for a net that is not in float32 or without its classifier, or another dtype.
    """

    def __init__(
        self,
        model: VGG,
        *,
        batch_size: int,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.bfloat16,
        backend: str | None = "inductor",
    ) -> None:
        model.config.check_head()
        if model.mean.dtype != torch.float32:
            raise InputError(f"the net is in {model.mean.dtype}: train it in float32")
        if dtype not in (torch.bfloat16, torch.float32):
            raise InputError(f"dtype {dtype}: take torch.bfloat16 or torch.float32")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.batch_size = model, batch_size
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            fused=True,
        )
        self._loss: _Loss = _loss_of(model, dtype)
        self._compiled: _Loss | None = None
        if backend is not None:
            self._compiled = torch.compile(
                self._loss, backend=backend, dynamic=False, fullgraph=True
            )
        self._has_worked = False

    def __call__(self, images: Tensor, shifts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step; nothing waits for the device.

        Args:
            images: N×3×crop×crop, uint8, best in channels_last; on the model's device, as the rest.
            shifts: N×3×1×1, float32, added to the images.
            labels: N, int64.

        Returns:
            The mean loss before the step, and the number of wrong answers; both on the device.
        """
        with gpu_layers.searching():
            loss, wrong = self._backward(images, shifts, labels)
            self.optimizer.step()
        return loss.detach(), wrong

    def _backward(self, images: Tensor, shifts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._compiled is not None and len(labels) == self.batch_size:
            try:
                found = self._gradients(self._compiled, images, shifts, labels)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no Triton, no C compiler, …
                if self._has_worked:
                    raise
                _warn(error)
                self._compiled = None
            else:
                self._has_worked = True
                return found
        return self._gradients(self._loss, images, shifts, labels)

    def _gradients(
        self, function: _Loss, images: Tensor, shifts: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        loss, wrong = function(images, shifts, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, wrong


def compiled_forward(
    model: VGG, name: str, batch_size: int, backend: str = "inductor"
) -> Callable[[Tensor, Tensor], Tensor]:
    """From images and shifts to scores (fc8) or to pool5's map, in bfloat16, with gradients.

    For a step of several processes, which exchange gradients in between. Compiled for batches of
    `batch_size`; where that fails, a warning says so.
    """
    return _compiled(_forward_of(model, name, torch.bfloat16), batch_size, backend)


def compiled_scores(
    model: VGG, batch_size: int, backend: str = "inductor"
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """As `compiled_forward`, to the scores of one of Table 7's other nets and then those of the
    classifiers at its side."""
    return _compiled(_scores_of(model, torch.bfloat16), batch_size, backend)


def _compiled(
    plain: Callable[[Tensor, Tensor], _T], batch_size: int, backend: str
) -> Callable[[Tensor, Tensor], _T]:
    compiled: Callable[[Tensor, Tensor], _T] | None
    compiled = torch.compile(plain, backend=backend, dynamic=False)

    def forward(images: Tensor, shifts: Tensor) -> _T:
        nonlocal compiled
        if compiled is not None and len(images) == batch_size:
            try:
                return compiled(images, shifts)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # no Triton, no C compiler, …
                _warn(error)
                compiled = None
        return plain(images, shifts)

    return forward


def _warn(error: Exception) -> None:
    why = f"{type(error).__name__}: {error}".splitlines()[0]
    warnings.warn(f"the training step is not compiled: {why}", stacklevel=5)


def _forward_of(model: VGG, name: str, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    layers = gpu_layers.layers_of(model)
    device = model.mean.device.type

    def forward(images: Tensor, shifts: Tensor) -> Tensor:
        x = images.float() + shifts - model.mean.view(1, -1, 1, 1)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = gpu_layers.run(layers, x.to(dtype), [name])[name]
        return found.flatten(1) if name == "fc8" else found

    return _by_itself(forward)


def _scores_of(model: VGG, dtype: torch.dtype) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Of a net that `gpu_layers` does not arrange: all scores that its loss is of."""
    device = model.mean.device.type

    def scores_of(images: Tensor, shifts: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model.training_scores(images.float() + shifts)

    return _by_itself(scores_of)


def _loss_of(model: VGG, dtype: torch.dtype) -> _Loss:
    """The mean loss and the number of wrong answers, for `torch.compile` to see as one function."""
    if model.config.is_vgg:
        scores_of = _forward_of(model, "fc8", dtype)

        def loss_of(images: Tensor, shifts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            scores = scores_of(images, shifts)
            return F.cross_entropy(scores.float(), labels), (scores.argmax(dim=1) != labels).sum()

    else:
        all_scores_of = _scores_of(model, dtype)

        def loss_of(images: Tensor, shifts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            scores, *sides = all_scores_of(images, shifts)
            loss = F.cross_entropy(scores.float(), labels)
            for side in sides:
                loss = loss + SIDE_WEIGHT * F.cross_entropy(side.float(), labels)
            return loss, (scores.argmax(dim=1) != labels).sum()

    return _by_itself(loss_of)


def _by_itself(function: _F) -> _F:
    """With code of its own, by which `torch.compile` keeps what it makes: it counts how often one
    is compiled, and gives up after some times."""
    function.__code__ = function.__code__.replace()
    return function

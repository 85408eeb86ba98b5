"""§3.1's update of the weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """`torch.optim.SGD` to the bit: momentum, and the penalty added to the gradient.

    PyTorch's class imports its compiler when it is made, 1 to 2 s at the start of every run; this
    one calls the function beneath. Parameters without a gradient stay as they are.

    Args:
        parameters: what learns, each on its device.
        learning_rate: of the beginning; set `param_groups[0]["lr"]` at any time.
        momentum, weight_decay: as `TrainConfig`'s.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        *,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"lr": learning_rate}]
        self.state: dict[Tensor, dict[str, Any]] = {parameter: {} for parameter in parameters}
        """Of each parameter its `momentum_buffer`, from the first step on."""
        self._momentum, self._weight_decay = momentum, weight_decay

    def zero_grad(self) -> None:
        for parameter in self.state:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        learning = [parameter for parameter in self.state if parameter.grad is not None]
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in learning]
        sgd(
            learning,
            [parameter.grad for parameter in learning if parameter.grad is not None],
            buffers,
            fused=True,  # the same to the bit, in one pass over memory
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self.param_groups[0]["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter, buffer in zip(learning, buffers, strict=True):
            if buffer is not None:
                self.state[parameter]["momentum_buffer"] = buffer

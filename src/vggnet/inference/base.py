"""What the engines of inference share: a `VGG`'s call, the check of what they were made from."""

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.model import VGG, Provenance


class Fast:
    """A net's inference by some engine; it is called as a `VGG` is, and gives no gradients."""

    training = False

    def __init__(self, model: VGG, engine: str) -> None:
        self._model = model
        self.engine = engine
        """What computes, in words."""
        self._state = _state(model)
        self._lock = threading.Lock()

    @property
    def config(self) -> Config:
        return self._model.config

    @property
    def mean(self) -> Tensor:
        return self._model.mean

    @property
    def provenance(self) -> Provenance:
        return self._model.provenance

    @property
    def bytes(self) -> int:
        """Memory besides the model's own: transformed weights, and buffers as large as the calls
        so far needed them."""
        return 0

    def eval(self) -> "Fast":
        return self

    def train(self, mode: bool = True) -> "Fast":
        """There is no other mode than evaluation; here so that it can stand where a `VGG` does."""
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Class scores, averaged over the score map: N×K; as `VGG.forward`."""
        self.config.check_head()
        return self._compute(images, ["scores"])["scores"]

    def score_map(self, images: Tensor) -> Tensor:
        """The map of class scores: N×K×h×w; as `VGG.score_map`."""
        self.config.check_head()
        return self._compute(images, ["fc8"])["fc8"]

    def activations(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Outputs by their `names` of one forward of images, N×C×H×W, which ends at the last of
        them; as `VGG.activations`."""
        return self._compute(images, self._model.known_layers(names))

    def _compute(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        self._model.check_images(images, names)
        if torch.is_grad_enabled() and images.requires_grad:
            raise InputError(
                "images require a gradient, which fast inference has not: call the model"
            )
        if _state(self._model) != self._state:
            raise InputError(
                "the model's weights have changed, or it was moved: call fast(model) again"
            )
        if not names:
            return {}
        with self._lock, torch.no_grad():
            found = self._run(images, names)
        return {name: found[name] for name in names}

    def _run(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"Fast({self.config.title}, {self.engine})"


class Plain(Fast):
    """The model itself in evaluation mode, where there is nothing faster."""

    def __init__(self, model: VGG, why: str) -> None:
        super().__init__(model, f"PyTorch: {why}")

    def _run(self, images: Tensor, names: list[str]) -> dict[str, Tensor]:
        training = self._model.training
        try:
            return self._model.eval().activations(images, names)
        finally:
            self._model.train(training)


def _state(model: VGG) -> list[tuple[Any, ...]]:
    """What changes when the net's weights do."""
    return [
        (tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
        for tensor in (*model.parameters(), *model.buffers())
    ]

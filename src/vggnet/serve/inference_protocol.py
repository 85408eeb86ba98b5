"""The Open Inference Protocol's second version: tensors in, scores out."""

from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from vggnet.configs import Config
from vggnet.serve.bodies import RefusedError
from vggnet.serve.service import Limits


class InferInput(BaseModel):
    """A tensor; `data` flat or nested, in row-major order."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any]


class RequestedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """Images for the net: `images`, UINT8, N×3×H×W, RGB 0–255, of the crop's size or larger."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferInput]
    outputs: list[RequestedOutput] | None = None


class InferOutput(BaseModel):
    """A tensor, flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class InferResponse(BaseModel):
    """Scores, averaged over the score map, or the posteriors that the soft-max makes of them."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]


class TensorMetadata(BaseModel):
    """A tensor's form; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the net takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


OUTPUTS = ("scores", "posteriors")


def metadata(name: str, config: Config) -> ModelMetadata:
    outputs = [
        TensorMetadata(name=output, datatype="FP32", shape=[-1, config.num_classes])
        for output in OUTPUTS
    ]
    images = TensorMetadata(name="images", datatype="UINT8", shape=[-1, 3, -1, -1])
    return ModelMetadata(
        name=name, versions=["1"], platform="vggnet", inputs=[images], outputs=outputs
    )


def tensor(asked: InferRequest, config: Config, limits: Limits) -> torch.Tensor:
    """The images, N×3×H×W of uint8.

    Raises:
        RefusedError: 422 for other inputs or outputs, 413 for too many images or pixels.
    """
    names = [output.name for output in asked.outputs or []]
    for name in names:
        if name not in OUTPUTS:
            raise RefusedError(422, f"output {name[:80]!r}: take {' or '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise RefusedError(422, "outputs: name each once")
    if len(asked.inputs) != 1 or asked.inputs[0].name != "images":
        raise RefusedError(422, "give one input, 'images'")
    (given,) = asked.inputs
    if given.datatype != "UINT8":
        raise RefusedError(422, f"datatype {given.datatype[:80]!r}: images are UINT8, RGB 0–255")
    shape = given.shape
    if len(shape) != 4 or shape[0] < 1 or shape[1] != 3 or min(shape[2:]) < config.crop:
        raise RefusedError(
            422,
            f"shape {shape}: images are N×3×H×W, N 1 or more, H and W {config.crop} or more",
        )
    if shape[0] > limits.pictures:
        raise RefusedError(413, f"{shape[0]} images: at most {limits.pictures} are taken")
    if shape[2] * shape[3] > limits.work:
        raise RefusedError(413, f"shape {shape}: at most {limits.work:,} pixels an image are taken")
    try:
        values = np.array(given.data)
    except (ValueError, OverflowError):
        raise RefusedError(422, "data: rows are not of one length") from None
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() > 255:
        raise RefusedError(422, "data: give whole numbers from 0 to 255")
    if values.size != np.prod(shape, dtype=np.int64):
        raise RefusedError(422, f"data has {values.size:,} values; shape {shape} has others")
    return torch.from_numpy(values.astype(np.uint8).reshape(shape))


def response(name: str, asked: InferRequest, scores: NDArray[np.float32]) -> InferResponse:
    wanted = [output.name for output in asked.outputs or []] or ["scores"]
    found = {"scores": scores}
    if "posteriors" in wanted:
        found["posteriors"] = torch.from_numpy(scores).double().softmax(1).float().numpy()
    outputs = [
        InferOutput(
            name=output,
            shape=list(scores.shape),
            datatype="FP32",
            data=found[output].ravel().tolist(),
        )
        for output in wanted
    ]
    return InferResponse(model_name=name, model_version="1", id=asked.id, outputs=outputs)

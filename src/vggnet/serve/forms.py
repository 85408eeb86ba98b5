"""The forms of answers."""

from typing import Annotated

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """What is wrong, in a sentence."""

    error: str


class Class(BaseModel):
    """A class of an answer."""

    label: int
    """Its index."""
    name: Annotated[str, Field(serialization_alias="class")]
    posterior: float
    """0 to 1."""
    heatmap: str | None = None
    """A grey PNG of the picture's proportions, as a data: URL: 255 is a posterior of 1."""


class Answer(BaseModel):
    """A picture's likeliest classes, the first one first."""

    image: str
    height: int
    width: int
    """In pixels, upright."""
    classes: list[Class]


class Times(BaseModel):
    """Milliseconds of a request."""

    queue: float
    """From the last picture's decoding until its batch began."""
    compute: float
    """Of the batches that its pictures were in, which may hold others' pictures too."""
    total: float


class Prediction(BaseModel):
    """An answer for each picture, and the test protocol that gave it."""

    model: str
    protocol: str
    milliseconds: Times
    predictions: list[Answer]


class ActivationMap(BaseModel):
    """What a channel shows."""

    channel: int
    mean: float
    max: float
    map: str
    """A grey PNG as a data: URL: 255 is the map's maximum."""


class Activations(BaseModel):
    """The channels of a layer whose means are the largest, the first one first."""

    layer: str
    channels: int
    height: int
    width: int
    picture: tuple[int, int]
    maps: list[ActivationMap]

"""Request bodies: read within limits, in three forms, into pictures and options."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vggnet.protocols import Averaging, Method
from vggnet.serve.batching import BusyError
from vggnet.serve.service import Limits

_Model = TypeVar("_Model", bound=BaseModel)

_UPLOADS = 8
"""Bodies of full size that may be in memory together."""


class RefusedError(Exception):
    """A request that cannot be served: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Options(BaseModel):
    """How a picture is to be looked at; what is not given is the net's own."""

    model_config = ConfigDict(extra="forbid")

    top: Annotated[int | None, Field(ge=1, le=1000, description="classes for each picture")] = None
    method: Annotated[Method | None, Field(description="test protocol (§3.2)")] = None
    scales: Annotated[
        list[Annotated[int, Field(ge=1, le=10_000)]] | None,
        Field(
            min_length=1,
            max_length=8,
            description="test scales Q in pixels, separated by commas or given several times",
        ),
    ] = None
    averaging: Annotated[
        Averaging | None, Field(description="of the dense map: before or after the soft-max")
    ] = None
    flips: Annotated[bool | None, Field(description="whether mirrored pictures count too")] = None
    heatmap: Annotated[
        bool | None, Field(description="whether to give, for each class, where the net sees it")
    ] = None

    @field_validator("scales", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        """A query's `scales=256,384`."""
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [part for item in value for part in item.split(",")]
        return value.split(",") if isinstance(value, str) else value


class ImageData(BaseModel):
    """A picture in JSON."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="the file, in base64", examples=["/9j/4AAQSkZJRgABAQ…"])]
    name: Annotated[str | None, Field(max_length=200, description="what to call it")] = None


class PredictBody(Options):
    """Pictures and options in JSON."""

    images: Annotated[list[ImageData], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request holds."""

    pictures: list[tuple[str, bytes]]
    """Names, for messages, and files."""
    options: Options


class Reader:
    """Reads bodies, each within the limits, and all together within a budget."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0
        """Bytes of bodies that are in memory."""

    @contextmanager
    def reading(self) -> Iterator[Callable[[Request], Awaitable[bytes]]]:
        """A function that reads a request's body; its bytes count until the end of the context."""
        own = 0

        async def body(request: Request) -> bytes:
            nonlocal own
            limit = self.limits.body
            length = request.headers.get("content-length", "")
            if length.isdigit() and int(length) > limit:
                raise RefusedError(
                    413, f"the body has {int(length):,} bytes, at most {limit:,} are taken"
                )
            found = bytearray()
            try:
                async with asyncio.timeout(self.limits.seconds):
                    async for chunk in request.stream():
                        if len(found) + len(chunk) > limit:
                            raise RefusedError(413, f"the body has more than {limit:,} bytes")
                        if self.held + len(chunk) > _UPLOADS * limit:
                            raise BusyError
                        own += len(chunk)
                        self.held += len(chunk)
                        found += chunk
            except TimeoutError:
                why = f"the body did not arrive within {self.limits.seconds:g} seconds"
                raise RefusedError(408, why) from None
            return bytes(found)

        try:
            yield body
        finally:
            self.held -= own


def kind_of(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def asked(request: Request, body: bytes, options: Options, limits: Limits) -> Asked:
    """Pictures and options of a request in any of the three forms.

    Raises:
        RefusedError: 415 for another form, 400 for a form that is broken, 413 for too many
            pictures, 422 for no picture or options that cannot be.
    """
    kind = kind_of(request)
    if "content-encoding" in request.headers:
        raise RefusedError(415, "content-encoding is not taken: send the body as it is")
    if kind == "multipart/form-data":
        found = await _form(request, body, options, limits)
    elif kind == "application/json":
        found = await asyncio.to_thread(_json, body, options)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = Asked([("body", body)] if body else [], options)
    else:
        raise RefusedError(
            415,
            f"content type {kind[:80]!r} is not taken: send image/… or application/octet-stream, "
            "multipart/form-data, or application/json",
        )
    if not found.pictures:
        raise RefusedError(422, "there is no picture in the request")
    if len(found.pictures) > limits.pictures:
        raise RefusedError(
            413, f"{len(found.pictures)} pictures: at most {limits.pictures} are taken in a request"
        )
    return found


async def _form(request: Request, body: bytes, options: Options, limits: Limits) -> Asked:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not boundary or b"--" + boundary + b"--" not in body:  # its last part would be left out
        raise RefusedError(400, "the form cannot be read: it ends before its last boundary")
    parser = MultiPartParser(
        request.headers, chunks(), max_files=limits.pictures, max_fields=16, max_part_size=4096
    )
    parser.spool_max_size = limits.body  # it is in memory already: no file is written
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:
        why = getattr(error, "message", None) or "not multipart/form-data"
        raise RefusedError(400, f"the form cannot be read: {why}") from None
    try:
        pictures, fields = [], {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                pictures.append((value.filename or "file", await value.read()))
            elif name in fields:
                raise RefusedError(422, f"{name[:80]!r} is given twice")
            else:
                fields[name] = value
    finally:
        await form.close()
    return Asked(pictures, merged(options, validated(Options, fields)))


def _json(body: bytes, options: Options) -> Asked:
    found = from_json(PredictBody, body)
    pictures = []
    for i, image in enumerate(found.images):
        try:
            content = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError(422, f"images[{i}].data is not base64 of a file") from None
        pictures.append((image.name or f"images[{i}]", content))
    return Asked(pictures, merged(options, found))


def merged(query: Options, other: Options) -> Options:
    """Options of the query and of the body; none may be in both."""
    given = query.model_dump(exclude_none=True)
    more = other.model_dump(exclude_none=True, include=set(Options.model_fields))
    if twice := sorted(given.keys() & more.keys()):
        raise RefusedError(
            422, f"{twice[0]!r} is given in the query and in the body: leave one out"
        )
    return Options.model_construct(**(given | more))


def from_json(model: type[_Model], body: bytes) -> _Model:
    """A body of JSON.

    Raises:
        RefusedError: 400 for what is no JSON, 422 for JSON of another form.
    """
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _refused(error) from None


def validated(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refused(error) from None


def _refused(error: ValidationError) -> RefusedError:
    first = error.errors(include_url=False, include_context=False)[0]
    return RefusedError(400 if first["type"] == "json_invalid" else 422, in_words(first))


def in_words(error: Any) -> str:
    """One of pydantic's errors: where, what is wrong, the value."""
    place = ".".join(str(part) for part in error["loc"] if part not in ("query", "body"))
    value = repr(error.get("input"))
    shown = f" (got {value[:60]}{'…' * (len(value) > 60)})" if len(value) < 2000 else ""
    return f"{place[:120] + ': ' if place else ''}{error['msg']}{shown}"

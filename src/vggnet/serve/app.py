"""The routes: what may be asked over HTTP, and how answers look."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from vggnet import __version__
from vggnet.errors import InputError, RunError
from vggnet.predict import TOP
from vggnet.readers import processors
from vggnet.serve import inference_protocol as v2
from vggnet.serve.batching import Batcher, BusyError, Computed
from vggnet.serve.bodies import (
    Asked,
    Options,
    PredictBody,
    Reader,
    RefusedError,
    asked,
    from_json,
    in_words,
    kind_of,
)
from vggnet.serve.examples import Example
from vggnet.serve.guard import Guard
from vggnet.serve.metrics import Metrics
from vggnet.serve.service import Service, png

PAGE = Path(str(files("vggnet") / "serve" / "page"))
_T = TypeVar("_T")


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


_WHY = {
    400: "the body is broken",
    401: "the key is missing or wrong",
    403: "asked by another origin's page",
    404: "there is no such thing",
    408: "the body came too slowly",
    413: "more than the limits allow",
    415: "a content type that is not taken",
    421: "a host name that this server does not answer to",
    422: "a picture or an option that cannot be",
    503: "busy: nothing was computed; try again after Retry-After seconds",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _WHY[status]} for status in statuses}


_POSTED = _problems(400, 401, 403, 408, 413, 415, 421, 422, 503)
_GOT = _problems(421)
_FILE = {"type": "string", "format": "binary"}
_PICTURES = {
    "required": True,
    "content": {
        "image/*": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": _FILE}},
                "required": ["image"],
            }
        },
        "application/json": {"schema": {"$ref": "#/components/schemas/PredictBody"}},
    },
}
_TENSORS = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
}


def create(
    service: Service,
    batcher: Batcher,
    metrics: Metrics,
    key: str | None,
    examples: Sequence[Example],
) -> ASGIApp:
    """The application: every route behind its guard."""
    app = FastAPI(
        title="vggnet",
        version=__version__,
        description=f"Net {service.name}: {service.model.config.num_classes:,} classes.",
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, batcher),
    )
    routes = _Routes(service, batcher, key, examples)
    get, post = partial(app.get, responses=_GOT), partial(app.post, responses=_POSTED)
    get("/v1/model", summary="What the net is, and what may be asked")(routes.model)
    get("/v1/examples", summary="Pictures to try")(routes.examples_list)
    get(
        "/v1/examples/{number}",
        summary="One of them",
        response_class=Response,
        responses=_GOT | _problems(404, 422),
    )(routes.example)
    post(
        "/v1/predict",
        summary="What is in pictures",
        openapi_extra={"requestBody": _PICTURES},
        response_model_exclude_none=True,
    )(routes.predict)
    post(
        "/v1/activations",
        summary="What a layer shows of a picture",
        openapi_extra={"requestBody": _PICTURES},
    )(routes.activations)
    get("/healthz", summary="Whether the process lives")(routes.health)
    get("/v2", summary="The server")(routes.server_metadata)
    get("/v2/health/live", summary="Whether the process lives")(routes.health)
    get("/v2/health/ready", summary="Whether it answers")(routes.health)
    get(
        "/v2/models/{model_name}",
        summary="What the net takes and gives",
        responses=_GOT | _problems(401, 404),
    )(routes.metadata)
    get(
        "/v2/models/{model_name}/ready",
        summary="Whether the net answers",
        responses=_GOT | _problems(401, 404),
    )(routes.model_ready)
    post(
        "/v2/models/{model_name}/infer",
        summary="Scores of tensors",
        openapi_extra={"requestBody": _TENSORS},
        responses=_problems(404) | _POSTED,
        response_model_exclude_none=True,
    )(routes.infer)

    @get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses=_GOT | _problems(401),
    )
    def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        templates = Environment(loader=PackageLoader("vggnet", "templates"), autoescape=True)
        return HTMLResponse(templates.get_template("api.html.jinja").render(api=app.openapi()))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/static", StaticFiles(directory=PAGE))
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    _explain(app, batcher)
    return Guard(app, key, metrics.request)


@asynccontextmanager
async def _lifespan(batcher: Batcher, _: FastAPI) -> AsyncIterator[None]:
    # Pictures are decoded by as many threads as there are processors: each may hold a large one.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(processors()))
    yield
    await asyncio.to_thread(batcher.close)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """With the bodies that routes read themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, bodies = models_json_schema(
            [(PredictBody, "validation"), (v2.InferRequest, "validation")],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"] |= bodies["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema


def _explain(app: FastAPI, batcher: Batcher) -> None:
    """Every error as a `Problem`."""

    def handler(status: int) -> Callable[[Request, Any], JSONResponse]:
        return lambda _, error: JSONResponse({"error": str(error)}, status)

    app.exception_handler(InputError)(handler(422))
    app.exception_handler(RunError)(handler(500))

    @app.exception_handler(RefusedError)
    def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(BusyError)
    def busy(_: Request, error: BusyError) -> JSONResponse:
        why = f"busy: {batcher.places} pictures are being worked on; try again"
        seconds = max(1, math.ceil(batcher.seconds_to_empty))
        return JSONResponse({"error": why}, 503, {"Retry-After": str(seconds)})

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": in_words(error.errors()[0])}, 422)

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> JSONResponse:
        why = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return JSONResponse({"error": why}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; it is counted

    @app.exception_handler(Exception)
    def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"the server failed ({type(error).__name__})"}, 500)


class _Routes:
    """What the routes do; their docstrings are the documentation's."""

    def __init__(
        self, service: Service, batcher: Batcher, key: str | None, examples: Sequence[Example]
    ) -> None:
        self.service, self.batcher = service, batcher
        self.reader = Reader(service.limits)
        self.key, self.examples = key, examples

    def health(self) -> dict[str, bool]:
        return {"live": True, "ready": True}

    def model(self) -> dict[str, Any]:
        service, limits = self.service, self.service.limits
        protocol = service.default.protocol
        return {
            "name": service.name,
            "net": service.model.config.title,
            "engine": service.engine,
            "version": __version__,
            "classes": service.model.config.num_classes,
            "crop": service.model.config.crop,
            "S": service.model.provenance.S,
            "methods": ["dense", "multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"],
            "default": {
                "method": protocol.method,
                "scales": list(protocol.Q),
                "averaging": protocol.averaging,
                "flips": protocol.flips,
                "top": TOP,
            },
            "protocols": service.protocols(),
            "layers": service.layers(),
            "limits": {
                "bytes": limits.body,
                "pixels": limits.pixels,
                "work": limits.work,
                "images": limits.pictures,
            },
            "key_needed": self.key is not None,
        }

    def examples_list(self) -> dict[str, Any]:
        found = [
            {"name": one.name, "url": f"/v1/examples/{i}"} for i, one in enumerate(self.examples)
        ]
        return {"examples": found}

    def example(self, number: int) -> Response:
        if not 0 <= number < len(self.examples):
            raise RefusedError(404, f"there are {len(self.examples)} examples, counted from 0")
        return Response(self.examples[number].content, media_type=self.examples[number].kind)

    async def predict(self, request: Request, query: Annotated[Options, Query()]) -> Prediction:
        """Pictures in files: one as the body itself (`image/*` or `application/octet-stream`), or
        several as a form's files, or in JSON in base64. Options are in the query, in the form's
        fields or in the JSON. If one picture cannot be read, none is answered."""
        start = time.perf_counter()
        with self.reader.reading() as body:
            found = await self._asked(request, body, query)
            options = found.options
            predictor = self.service.predictor(
                options.method or "dense",
                tuple(options.scales) if options.scales else None,
                options.averaging or "scores",
                options.flips,
            )
            top = min(options.top or TOP, self.service.model.config.num_classes)
            with self.batcher.place(len(found.pictures)):
                open_one = partial(
                    self.service.open, predictor=predictor, heat=bool(options.heatmap)
                )
                opened = [
                    await asyncio.to_thread(open_one, content, name)
                    for name, content in found.pictures
                ]
                names = [name for name, _ in found.pictures]
                work = partial(self.service.answers, predictor, top)
                computed = await _unless_gone(
                    request,
                    asyncio.gather(
                        *(self.batcher.compute((predictor, top), work, one) for one in opened)
                    ),
                )
        answers = []
        for name, one, result in zip(names, opened, computed, strict=True):
            answer, maps = result.value.answer, result.value.heat_maps
            classes = [
                Class(label=label, name=text, posterior=posterior, heatmap=maps and maps[i])
                for i, (label, text, posterior) in enumerate(
                    zip(answer.labels, answer.names, answer.posteriors, strict=True)
                )
            ]
            height, width = one.shape
            answers.append(Answer(image=name, height=height, width=width, classes=classes))
        return Prediction(
            model=self.service.name,
            protocol=str(predictor.protocol),
            milliseconds=_times(computed, time.perf_counter() - start),
            predictions=answers,
        )

    async def activations(
        self,
        request: Request,
        layer: Annotated[str, Query(max_length=40, description="as `/v1/model` lists them")],
        top: Annotated[int, Query(ge=1, le=64, description="channels")] = 12,
    ) -> Activations:
        """The picture rescaled to the net's single scale, whole. A layer that is followed by a ReLU
        is shown after it."""
        with self.reader.reading() as body:
            found = await self._asked(request, body, Options())
            if len(found.pictures) != 1:
                raise RefusedError(422, f"{len(found.pictures)} pictures: give one")
            ((name, content),) = found.pictures
            with self.batcher.place():
                opened = await asyncio.to_thread(self.service.open_for_layer, content, name, layer)
                computed = await _unless_gone(
                    request,
                    self.batcher.compute(
                        ("layer", layer), partial(self.service.activations, layer), opened
                    ),
                )
        maps = computed.value
        means = maps.mean((1, 2))
        shown = []
        for channel in sorted(range(len(maps)), key=lambda i: -means[i])[:top]:
            values = maps[channel].clip(0)
            highest = float(values.max())
            shown.append(
                ActivationMap(
                    channel=channel,
                    mean=float(means[channel]),
                    max=float(maps[channel].max()),
                    map=png(values / highest if highest else values),
                )
            )
        channels, height, width = maps.shape
        return Activations(
            layer=layer,
            channels=channels,
            height=height,
            width=width,
            picture=opened.shape,
            maps=shown,
        )

    def server_metadata(self) -> dict[str, Any]:
        return {"name": "vggnet", "version": __version__, "extensions": []}

    def metadata(self, model_name: str) -> v2.ModelMetadata:
        self._check_name(model_name)
        return v2.metadata(self.service.name, self.service.model.config)

    def model_ready(self, model_name: str) -> dict[str, Any]:
        self._check_name(model_name)
        return {"name": self.service.name, "ready": True}

    async def infer(self, request: Request, model_name: str) -> v2.InferResponse:
        """Images as they are, without rescaling or flips: scores, averaged over the score map."""
        self._check_name(model_name)
        self._check_free()
        with self.reader.reading() as body:
            content = await body(request)
            if kind_of(request) != "application/json":
                raise RefusedError(415, "send application/json")
            asked_for = await asyncio.to_thread(from_json, v2.InferRequest, content)
            config, limits = self.service.model.config, self.service.limits
            images = await asyncio.to_thread(v2.tensor, asked_for, config, limits)
            with self.batcher.place(len(images)):
                computed = await _unless_gone(
                    request,
                    self.batcher.compute(
                        ("scores", *images.shape[2:]), self.service.scores, images
                    ),
                )
        return v2.response(self.service.name, asked_for, computed.value)

    def _check_name(self, name: str) -> None:
        if name != self.service.name:
            raise RefusedError(404, f"there is no model {name[:80]!r}: take {self.service.name!r}")

    def _check_free(self) -> None:
        """Refuses before a body is read that there would be no place for."""
        if self.batcher.taken >= self.batcher.places:
            raise BusyError

    async def _asked(
        self, request: Request, body: Callable[[Request], Awaitable[bytes]], query: Options
    ) -> Asked:
        self._check_free()
        return await asked(request, await body(request), query, self.service.limits)


def _times(computed: Sequence[Computed], total: float) -> Times:
    """From the first batch's begin to the last one's end."""
    first = min(one.waited for one in computed)
    end = max(one.waited + one.computed for one in computed)
    return Times(queue=1000 * first, compute=1000 * (end - first), total=1000 * total)


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """What the work gives; it is cancelled when the client hangs up.

    Raises:
        ClientDisconnect: then.
    """
    wanted = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: only its end can come
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise ClientDisconnect
    finally:
        wanted.cancel()
        gone.cancel()

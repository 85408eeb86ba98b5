"""The application: its routes, their description, how errors look."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from vggnet import __version__
from vggnet.errors import InputError, RunError
from vggnet.readers import processors
from vggnet.serve import inference_protocol as v2
from vggnet.serve.batching import Batcher, BusyError
from vggnet.serve.bodies import PredictBody, RefusedError, in_words
from vggnet.serve.examples import Example
from vggnet.serve.forms import Problem
from vggnet.serve.guard import Guard
from vggnet.serve.metrics import Metrics
from vggnet.serve.routes import Routes
from vggnet.serve.service import Service

PAGE = Path(str(files("vggnet") / "serve" / "page"))
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
    routes = Routes(service, batcher, key, examples)
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

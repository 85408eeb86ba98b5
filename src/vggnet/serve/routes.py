"""What the routes do."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar, get_args

from fastapi import Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from vggnet import __version__
from vggnet.predict import TOP
from vggnet.protocols import Method
from vggnet.serve import inference_protocol as v2
from vggnet.serve.batching import Batcher, BusyError, Computed
from vggnet.serve.bodies import Asked, Options, Reader, RefusedError, asked, from_json, kind_of
from vggnet.serve.examples import Example
from vggnet.serve.forms import ActivationMap, Activations, Answer, Class, Prediction, Times
from vggnet.serve.service import Service, png

_T = TypeVar("_T")


MOST_MAPS = 20
"""Classes of a picture that get a heat map: each takes as long as some views."""


class Routes:
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
            "methods": get_args(Method),
            "default": {
                "method": protocol.method,
                "scales": list(protocol.Q),
                "averaging": protocol.averaging,
                "flips": protocol.flips,
                "top": TOP,
            },
            "protocols": service.protocols(),
            "layers": service.layers,
            "heat_maps": service.model.config.is_vgg,
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
            if options.heatmap and top > MOST_MAPS:
                raise RefusedError(
                    422, f"top {top} with heatmap: at most {MOST_MAPS} classes get a map"
                )
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
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise ClientDisconnect
    finally:
        wanted.cancel()
        gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""What every request passes: who may ask, what every response says, what became of it."""

import asyncio
import hmac
import time
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SAFE = ("GET", "HEAD", "OPTIONS")
_READING = 60
"""Seconds that a client has to take in a part of a response."""
_NEEDS_KEY = ("/v1/predict", "/v1/activations", "/v2/models", "/metrics")


class Guard:
    """Refuses what must not be asked, before anything of the body is read.

    A page of another site can make a browser send requests to this server, also under a name of its
    own that resolves to 127.0.0.1. So a server without a key answers to loopback's names alone, and
    nothing is computed for another origin.

    Args:
        app: what answers.
        key: needed for all that computes or tells of the use, where there is one.
        on_response: gets method, path, status and seconds.
    """

    def __init__(
        self, app: ASGIApp, key: str | None, on_response: Callable[[Scope, int, float], None]
    ) -> None:
        self.app, self.key, self.on_response = app, key, on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            async with asyncio.timeout(_READING):  # who does not read is not waited for
                await send(message)

        try:
            refusal = self._refusal(scope)
            await (refusal or self.app)(scope, receive, sent)
        finally:
            self.on_response(scope, status, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.key is None and not is_loopback(_name(host)):
            return _error(421, "this server answers to localhost, 127.0.0.1 and [::1] alone")
        if scope["method"] not in _SAFE and not _same_origin(headers, host):
            return _error(403, "requests of other origins are not answered")
        if self.key is not None and scope["path"].startswith(_NEEDS_KEY):
            given = headers.get("authorization", "")
            # Compared in a time that does not depend on where they differ.
            if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
                return _error(
                    401,
                    "give the server's key, as the header 'Authorization: Bearer KEY'",
                    {"WWW-Authenticate": "Bearer"},
                )
        return None


def is_loopback(host: str) -> bool:
    """Whether a name or address stands for this machine, to itself alone."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """A Host header without its port and brackets."""
    return host[1 : host.rfind("]")] if host.startswith("[") else host.partition(":")[0]


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether no browser says that another site's page asks."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _error(status: int, why: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": why}, status, headers)

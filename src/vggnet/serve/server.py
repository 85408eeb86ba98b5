"""The server's process: its socket, its patience with clients, its end."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vggnet.errors import InputError
from vggnet.serve.guard import is_loopback

_CONNECTIONS = 512
_DRAIN = 60
"""Seconds that requests have to end after SIGTERM."""
_SHORTEST_KEY = 16
_BUSY, _CLOSING = object(), object()
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def check_key(host: str, key: str | None) -> None:
    """Raises InputError for a key that is none, or an address beyond this machine without one."""
    if key is None and not is_loopback(host):
        raise InputError(
            f"host {host}: other machines could ask: give a key, --api-key or VGGNET_API_KEY"
        )
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or " " in key):
        raise InputError(
            f"the API key has to have {_SHORTEST_KEY} or more ASCII characters and no spaces; take "
            "for example what 'openssl rand -hex 24' prints"
        )


def bound(host: str, port: int) -> socket.socket:
    """A socket with an address of its own; it is `of`'s server that listens, once it can answer.

    Raises:
        InputError: for an address that is not this machine's, or is taken.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port} is not from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise InputError(
            f"{host}, port {port}: {error.strerror}: take another --host or --port"
        ) from None
    return found


def of(
    app: ASGIApp, patience: float, on_start: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """A server; its `run([socket])` serves until SIGINT or SIGTERM.

    Then nothing new is taken, and what was begun is answered. A second signal ends it at once.

    Args:
        app: what answers.
        patience: seconds that a client has to send a request's headers.
        on_start: is called once connections are taken.
    """
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Impatient,), {"patience": patience}),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_DRAIN,
        h11_max_incomplete_event_size=32 << 10,
    )
    return _Server(config, on_start)


class _Server(uvicorn.Server):
    """Ends by returning, not by the signal's own effect."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        except ValueError:  # not the main thread, in tests
            before = {}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


class _Impatient(H11Protocol):
    """Hangs up on who sends a request's headers too slowly, or reads no response.

    uvicorn waits for them without end.
    """

    patience: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(_BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self, before: object) -> None:
        """Looks every so often: who waits for the same at two looks has had its time."""
        now: object = _BUSY
        if self.transport.is_closing():
            now = _CLOSING  # what was written has not been read yet
        elif self.cycle is None or self.cycle.response_complete:
            now = self.cycle
        if now is before and now is not _BUSY:
            if self.conn.their_state is h11.IDLE and now is not _CLOSING:
                self.transport.write(_TOO_SLOW)
                self.transport.close()
                now = _CLOSING
            else:
                self.transport.abort()
                return
        self._timer = self.loop.call_later(self.patience, self._watch, now)

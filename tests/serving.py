"""A server in a thread of the test's process, and requests to it as bytes."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import vggnet
from vggnet.model import VGG, Provenance
from vggnet.serve import examples, server
from vggnet.serve.app import create
from vggnet.serve.batching import Batcher
from vggnet.serve.metrics import Metrics
from vggnet.serve.service import Limits, Service

CLASSES = ("cat", "dog, hound", "owl/bird")


def net() -> VGG:
    model = vggnet.build("A", num_classes=3, crop=32, width=0.0625, init="he")
    model.provenance = Provenance(S=40, class_names=CLASSES)
    return model


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs."""

    port: int
    service: Service
    batcher: Batcher

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, request: bytes, timeout: float = 30) -> Response | None:
        """Sends bytes as they are; None where the connection ends without a response."""
        with self.connect(timeout) as connection:
            # After an early refusal the response is there already.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            return read(connection)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """`content_type` is the header Content-Type, and so on."""
        lines = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            lines.setdefault("content-length", str(len(body)))
        head = f"{method} {path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        found = self.raw(head.encode() + b"\r\n" + body)
        assert found is not None
        return found

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, b"", **headers)

    def post(
        self, path: str, body: bytes, content_type: str = "image/jpeg", **headers: str
    ) -> Response:
        return self.request("POST", path, body, content_type=content_type, **headers)

    def post_json(self, path: str, value: Any, **headers: str) -> Response:
        return self.post(path, json.dumps(value).encode(), "application/json", **headers)


def read(connection: socket.socket) -> Response | None:
    """A response, up to its Content-Length."""
    found = b""
    try:
        while b"\r\n\r\n" not in found:
            chunk = connection.recv(1 << 16)
            if not chunk:
                return None
            found += chunk
        head, _, body = found.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(body) < length and (chunk := connection.recv(1 << 16)):
            body += chunk
    except ConnectionResetError:
        return None
    status = re.match(r"HTTP/1\.1 (\d{3})", first)
    assert status is not None, first
    return Response(int(status[1]), headers, body)


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xyz") -> tuple[bytes, str]:
    """A multipart body of (field, file name, content), and its content type."""
    body = b""
    for field, name, content in parts:
        of_file = "" if name is None else f'; filename="{name}"'
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"'.encode()
        body += of_file.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def until(condition: Callable[[], bool]) -> None:
    """Waits until it holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def serving(
    model: VGG | None = None,
    *,
    limits: Limits | None = None,
    places: int = 12,
    batch: int = 8,
    key: str | None = None,
    patience: float = 20,
) -> Iterator[Serving]:
    """A server until the end of the context, which must end by itself."""
    service = Service(model or net(), limits or Limits(pictures=places))
    metrics = Metrics()
    batcher = Batcher(places, batch, metrics.batch)
    metrics.watch(lambda: batcher.taken)
    shown = examples.embedded(service.default.class_names)
    listening = server.bound("127.0.0.1", 0)
    running = server.of(create(service, batcher, metrics, key, shown), patience)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    until(lambda: running.started)
    try:
        yield Serving(listening.getsockname()[1], service, batcher)
    finally:
        running.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()

"""A server for the page's tests: the API's forms and headers, and answers that no net gave.

Layers are net D's. Posteriors, score maps and activations follow from the picture's pixels, so that
another picture has others.
"""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, UnidentifiedImageError

import vggnet
from vggnet.accounting import account
from vggnet.configs import Config

PAGE = Path(vggnet.__file__).parent / "serve" / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CLASSES = {
    "temple": [
        (832, "stupa, tope"),
        (668, "mosque"),
        (663, "monastery"),
        (698, "palace"),
        (538, "dome"),
    ],
    "flower": [
        (985, "daisy"),
        (883, "vase"),
        (990, "buckeye, horse chestnut, conker"),
        (309, "bee"),
        (947, "mushroom"),
    ],
}
COSTS = {"centre-crop": 46.0, "dense": 61.0, "multi-crop+dense": 2700.0}
"""Milliseconds a scale."""


def model() -> dict[str, Any]:
    kept = (
        "name",
        "kind",
        "output",
        "parameters",
        "multiply_adds",
        "receptive_field",
        "stride",
    )
    three = [224, 256, 288]
    return {
        "name": "D",
        "net": "D",
        "engine": "Winograd kernels, AVX-512",
        "version": vggnet.__version__,
        "classes": 1000,
        "crop": 224,
        "S": 256,
        "methods": ["dense", "multi-crop", "multi-crop+dense", "centre-crop", "ten-crop"],
        "default": {
            "method": "dense",
            "scales": [256],
            "averaging": "scores",
            "flips": True,
            "top": 5,
        },
        "protocols": [
            {"title": "centre crop", "method": "centre-crop", "scales": [256]},
            {"title": "dense", "method": "dense", "scales": [256]},
            {"title": "dense, three scales", "method": "dense", "scales": three},
            {
                "title": "multi-crop & dense, three scales",
                "method": "multi-crop+dense",
                "scales": three,
            },
        ],
        "layers": [{key: row[key] for key in kept} for row in account(Config("D")).layers_json()],
        "limits": {"bytes": 33554432, "pixels": 50000000, "images": 16},
        "key_needed": False,
    }


def photographs() -> list[tuple[str, Image.Image]]:
    """Those of the package: one above the other in a single file."""
    with Image.open(Path(vggnet.__file__).parent / "data" / "photos.png") as image:
        both = image.convert("RGB")
    return [("a temple", both.crop((0, 0, 360, 240))), ("a flower", both.crop((0, 240, 360, 480)))]


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form, quality=90)
    return file.getvalue()


def grey(values: NDArray[np.float64]) -> str:
    image = Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))
    return "data:image/png;base64," + base64.b64encode(encoded(image)).decode()


def predict(image: Image.Image, method: str, scales: list[int], heat: bool) -> dict[str, Any]:
    pixels = np.asarray(image, dtype=float) / 255
    blue = pixels[..., 2].mean() > pixels[..., 0].mean() * 0.9
    names = CLASSES["temple" if blue and pixels.mean() > 0.4 else "flower"]
    first = 0.47 + 0.05 * len(scales) + 0.1 * pixels.mean() - 0.08 * (method == "centre-crop")
    posteriors = [first, *(0.82 * (1 - first) * np.array([0.55, 0.25, 0.0123, 0.0003])).tolist()]
    reddish = Image.fromarray((255 * (pixels[..., 0] - pixels[..., 2] / 2).clip(0, 1)).astype("u1"))
    spread = np.asarray(reddish.filter(ImageFilter.GaussianBlur(min(image.size) / 12)), dtype=float)
    spread = (spread - spread.min()) / max(float(np.ptp(spread)), 1.0)
    classes = []
    for i, ((label, name), posterior) in enumerate(zip(names, posteriors, strict=True)):
        entry: dict[str, Any] = {"label": label, "class": name, "posterior": posterior}
        if heat:
            place = spread if i % 2 == 0 else 1 - spread
            entry["heatmap"] = grey(place * posterior**0.5)
        classes.append(entry)
    compute = COSTS.get(method, 60.0) * len(scales)
    sides = ", ".join(map(str, scales))
    return {
        "model": "D",
        "protocol": f"net D, S=256, Q={sides}, {method}, scores averaged over the map, with flips",
        "milliseconds": {"queue": 0.4, "compute": compute, "total": compute + 3.1},
        "predictions": [
            {"image": "body", "height": image.height, "width": image.width, "classes": classes}
        ],
    }


def activations(image: Image.Image, layer: str, top: int) -> dict[str, Any]:
    row = next(row for row in account(Config("D")).layers if row.name == layer)
    scale = 256 / min(image.size) / row.stride
    height, width = (max(1, int(side * scale)) for side in (image.height, image.width))
    if row.kind == "fc":
        height, width = max(1, height - 6), max(1, width - 6)
        if layer == "fc8":
            height = width = 1
    small = image.convert("L").resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=float) / 255
    maps = []
    for i in range(top):
        angle = np.pi * i / 6
        shifted = np.roll(
            pixels, (round(1.4 * np.sin(angle)), round(1.4 * np.cos(angle))), axis=(0, 1)
        )
        found = (pixels - shifted if i % 3 else pixels - 0.3).clip(0, None)
        if found.max() > 0:
            found /= found.max()
        mean = 31.2 / (1 + i / 4)
        maps.append(
            {
                "channel": (37 * i + 17) % row.output[0],
                "mean": mean,
                "max": 402.0,
                "map": grey(found),
            }
        )
    return {
        "layer": layer,
        "height": height,
        "width": width,
        "channels": row.output[0],
        "picture": [image.height, image.width],
        "maps": maps,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # The page ends requests whose answer it no longer needs.
        with suppress(ConnectionError):
            self.wfile.write(content)

    def json(self, value: dict[str, Any], status: int = 200) -> None:
        self.answer(status, "application/json", json.dumps(value).encode())

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        file = PAGE / ("index.html" if path == "/" else path.removeprefix("/static/"))
        if path == "/v1/model":
            self.json(model())
        elif path == "/v1/examples":
            rows = [
                {"name": name, "url": f"/v1/examples/{i}"}
                for i, (name, _) in enumerate(photographs())
            ]
            self.json({"examples": rows})
        elif path.startswith("/v1/examples/"):
            _, image = photographs()[int(path.rpartition("/")[2])]
            self.answer(200, "image/jpeg", encoded(image, "JPEG"))
        elif file.parent == PAGE and file.is_file():
            self.answer(200, TYPES[file.suffix], file.read_bytes())
        else:
            self.json({"error": f"there is nothing at {path}"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        try:
            image = Image.open(io.BytesIO(body)).convert("RGB")
        except UnidentifiedImageError:
            self.json({"error": "the body is not an image: send a JPEG or a PNG"}, 422)
            return
        if address.path == "/v1/predict":
            scales = [int(side) for side in query["scales"].split(",")]
            heat = query.get("heatmap") == "true"
            self.json(predict(image, query["method"], scales, heat))
        else:
            self.json(activations(image, query["layer"], int(query["top"])))


@contextmanager
def running(port: int = 0) -> Iterator[str]:
    """The address of a server that ends with the context."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

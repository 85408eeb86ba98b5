"""`vggnet serve`: answers are predict's and evaluate's; limits; who may ask; how it ends."""

import asyncio
import base64
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from encoding import encoded
from photos import photo, write_photos
from serving import CLASSES, Response, Serving, form, net, read, serving, until
from vggnet.cli import main
from vggnet.images import EncodedImage
from vggnet.predict import Pictures, Predictor
from vggnet.serve.batching import Batcher, BusyError
from vggnet.serve.service import Limits

PICTURE = encoded(photo(np.random.default_rng(0), 75, 100), "JPEG", quality=90)
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def classes(response: Response) -> list[tuple[int, str, float]]:
    assert response.status == 200, response.body
    (answer,) = response.json["predictions"]
    return [(one["label"], one["class"], one["posterior"]) for one in answer["classes"]]


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({}, ""),
        ({"method": "centre-crop"}, "?method=centre-crop"),
        ({"scales": [40, 50]}, "?scales=40,50"),
        (
            {"method": "multi-crop+dense", "scales": [33, 45]},
            "?method=multi-crop%2Bdense&scales=33&scales=45",
        ),
        ({"averaging": "posteriors", "flips": False}, "?averaging=posteriors&flips=false"),
    ],
)
def test_answers_are_predicts_and_evaluates(
    server: Serving, options: dict[str, Any], query: str
) -> None:
    model = server.service.model
    predictor = Predictor(model, **options)
    pictures = Pictures([PICTURE], ["a"])
    posteriors, _ = predictor.posteriors(pictures)
    evaluated = vggnet.posteriors(
        model, pictures, scales=predictor.protocol.Q, method=predictor.protocol.method,
        averaging=predictor.protocol.averaging, flips=predictor.protocol.flips,
    )  # fmt: skip
    np.testing.assert_array_equal(posteriors, evaluated)
    order = sorted(range(3), key=lambda k: -posteriors[0, k])
    wanted = [(k, CLASSES[k], posteriors[0, k]) for k in order]

    raw = server.post(f"/v1/predict{query}", PICTURE)
    assert classes(raw) == wanted
    assert raw.json["protocol"] == str(predictor.protocol)
    times = raw.json["milliseconds"]
    assert 0 < times["compute"] <= times["total"]
    body, kind = form(
        ("image", "a.jpg", PICTURE),
        *(
            (k, None, ",".join(map(str, v)).encode() if isinstance(v, list) else str(v).encode())
            for k, v in options.items()
        ),
    )
    assert classes(server.post("/v1/predict", body, kind)) == wanted
    data = base64.b64encode(PICTURE).decode()
    asked = {"images": [{"data": data, "name": "a"}], **options}
    assert classes(server.post_json("/v1/predict", asked)) == wanted


def test_several_pictures(server: Serving) -> None:
    rng = np.random.default_rng(1)
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
    files = [encoded(photo(rng, 40 + 9 * i, 60), kind) for i, kind in enumerate(kinds)]
    body, kind = form(*(("f", f"{i}.x", file) for i, file in enumerate(files)))
    response = server.post("/v1/predict?top=1", body, kind)
    found = response.json["predictions"]
    assert [one["image"] for one in found] == [f"{i}.x" for i in range(5)]
    assert [(one["height"], one["width"]) for one in found] == [(40 + 9 * i, 60) for i in range(5)]
    for one, file in zip(found, files, strict=True):
        (alone,) = server.post("/v1/predict?top=1", file).json["predictions"]
        assert one["classes"] == alone["classes"]


def test_heat_maps_are_predicts(server: Serving) -> None:
    response = server.post("/v1/predict?heatmap=true&top=2", PICTURE)
    (answer,) = response.json["predictions"]
    predictor = server.service.default
    view = EncodedImage(PICTURE, "").rescaled(predictor.heat_map_scale())
    labels = [one["label"] for one in answer["classes"]]
    wanted = predictor.heat_maps(view, labels, (192, 256))  # 75×100 enlarged
    for one, values in zip(answer["classes"], wanted, strict=True):
        np.testing.assert_array_equal(png(one["heatmap"]), np.rint(values * 255))
    assert b"heatmap" not in server.post("/v1/predict", PICTURE).body


def test_heat_maps_are_so_many(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggnet.serve.routes.MOST_MAPS", 1)
    refused = server.post("/v1/predict?heatmap=true&top=2", PICTURE)
    assert refused.status == 422
    assert "top 2 with heatmap: at most 1 classes" in refused.json["error"]
    assert server.post("/v1/predict?heatmap=true&top=1", PICTURE).status == 200
    assert server.post("/v1/predict?top=2", PICTURE).status == 200


def png(url: str) -> np.ndarray:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("layer", ["conv2_1", "pool5", "fc6", "fc8"])
def test_activations_are_the_nets(server: Serving, layer: str) -> None:
    found = server.post(f"/v1/activations?layer={layer}&top=3", PICTURE).json
    model = server.service.model.eval()
    view = torch.from_numpy(EncodedImage(PICTURE, "").rescaled(40)).permute(2, 0, 1)[None]
    maps = model.activations(view, [layer])[layer].detach()[0]
    if layer in ("conv2_1", "fc6"):
        maps = maps.relu()
    assert (found["channels"], found["height"], found["width"]) == tuple(maps.shape)
    means = maps.mean((1, 2))
    strongest = means.argsort(descending=True, stable=True)[:3]
    assert [one["channel"] for one in found["maps"]] == strongest.tolist()
    for one in found["maps"]:
        values = maps[one["channel"]]
        assert one["mean"] == pytest.approx(float(means[one["channel"]]), rel=1e-4)
        assert one["max"] == pytest.approx(float(values.max()), rel=1e-4)
        shown = values.clamp(min=0) / values.max().clamp(min=1e-30) * 255
        np.testing.assert_allclose(png(one["map"]), shown.numpy(), atol=0.6)


def test_the_open_inference_protocol(server: Serving) -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 3, 40, 50), dtype=np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 3, 40, 50]}
    outputs = [{"name": "posteriors"}, {"name": "scores"}]
    for data in (images.ravel().tolist(), images.tolist()):
        response = server.post_json(
            "/v2/models/A/infer",
            {"id": "7", "inputs": [tensor | {"data": data}], "outputs": outputs},
        )
        assert response.status == 200, response.body
        found = response.json
        assert (found["model_name"], found["id"]) == ("A", "7")
        posteriors, scores = found["outputs"]
        wanted = server.service.model.eval()(torch.from_numpy(images)).detach()
        np.testing.assert_allclose(
            np.reshape(scores["data"], scores["shape"]), wanted, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            np.reshape(posteriors["data"], (2, 3)), wanted.softmax(1), rtol=1e-3, atol=1e-6
        )
    metadata = server.get("/v2/models/A").json
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    assert [one["name"] for one in metadata["outputs"]] == ["scores", "posteriors"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/A/ready", "/healthz", "/v2"):
        assert server.get(path).status == 200, path
    assert server.get("/v2/models/other/ready").status == 404


TENSOR = {"name": "images", "datatype": "UINT8", "shape": [1, 3, 32, 32], "data": [0] * 3072}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"name": "x"}, 422, "'images'"),
        ({"datatype": "FP32"}, 422, "UINT8"),
        ({"shape": [1, 3, 31, 32]}, 422, "32 or more"),
        ({"shape": [1, 1, 32, 32]}, 422, "N×3×H×W"),
        ({"shape": [2, 3, 32, 32]}, 422, "3,072 values"),
        ({"shape": [1, 3, 1 << 62, 1 << 62]}, 413, "pixels"),
        ({"shape": [99, 3, 32, 32]}, 413, "99 images"),
        ({"data": [0.5] * 3072}, 422, "whole numbers"),
        ({"data": [256] * 3072}, 422, "0 to 255"),
        ({"data": [1 << 80] * 3072}, 422, "0 to 255"),
        ({"data": [-1] * 3072}, 422, "0 to 255"),
        ({"data": [[1, 2], [3]]}, 422, "one length"),
        ({"data": []}, 422, "whole numbers"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be(
    server: Serving, change: dict[str, Any], status: int, words: str
) -> None:
    response = server.post_json("/v2/models/A/infer", {"inputs": [TENSOR | change]})
    assert response.status == status
    assert words in response.json["error"]


def test_an_output_is_named_once(server: Serving) -> None:
    """However often it is asked for, a list of numbers would be made each time."""
    asked = {"inputs": [TENSOR], "outputs": [{"name": "scores"}] * 2}
    response = server.post_json("/v2/models/A/infer", asked)
    assert (response.status, response.json["error"]) == (422, "outputs: name each once")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top=0", "top: "),
        ("top=x", "'x'"),
        ("method=best", "method: "),
        ("method=dense&scales=31", "31 is smaller than the net's crop 32"),
        ("scales=40,40", "given twice"),
        ("scales=", "scales"),
        ("scales=40,x", "'x'"),
        ("scales=9999", "more than 32 times"),
        ("flips=maybe", "flips: "),
        ("size=3", "size: "),
        ("method=multi-crop&scales=1000,1001,1002,1003,1004,1005", None),
    ],
)
def test_options_that_cannot_be(server: Serving, query: str, words: str | None) -> None:
    response = server.post(f"/v1/predict?{query}", PICTURE)
    assert response.status == (200 if words is None else 422), response.body
    if words is not None:
        assert words in response.json["error"]


def test_an_option_that_is_given_twice(server: Serving) -> None:
    body, kind = form(("f", "a.jpg", PICTURE), ("top", None, b"1"))
    response = server.post("/v1/predict?top=2", body, kind)
    assert (response.status, "top" in response.json["error"]) == (422, True)


def test_work_is_limited() -> None:
    with serving(limits=Limits(work=200_000, pixels=50_000)) as server:
        long = encoded(photo(np.random.default_rng(0), 10, 1000), "PNG")
        response = server.post("/v1/predict?scales=40", long)  # 40×4000, and its mirror image
        assert response.status == 422
        assert "1000×10 pixels by dense" in response.json["error"]
        assert "320,000 pixels through the net" in response.json["error"]
        assert server.post("/v1/activations?layer=pool1", long).status == 200
        large = encoded(photo(np.random.default_rng(0), 300, 200), "PNG")
        response = server.post("/v1/predict?method=centre-crop", large)
        assert response.status == 422
        assert "200×300 pixels; at most 50,000" in response.json["error"]


def test_bodies_are_limited() -> None:
    with serving(limits=Limits(body=100_000)) as server:
        response = server.post("/v1/predict", b"x" * 100_001)
        assert response.status == 413
        assert "100,001 bytes" in response.json["error"]
        # Its length not said before: refused while it comes, without an end.
        with server.connect() as connection:
            head = (
                "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            )
            connection.sendall(head.encode())
            for _ in range(20):
                try:
                    connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
                except (BrokenPipeError, ConnectionResetError):
                    break
            found = read(connection)
            assert found is not None
            assert found.status == 413
        assert server.post("/v1/predict", PICTURE).status == 200


def test_slow_clients_are_hung_up_on() -> None:
    with serving(limits=Limits(seconds=0.5), patience=0.5) as server:
        with server.connect(10) as silent, server.connect(10) as slow, server.connect(10) as body:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            body.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n"
                b"Content-Type: image/png\r\n\r\nsome"
            )
            for connection in (silent, slow, body):
                response = read(connection)
                assert response is not None
                assert response.status == 408
        assert server.post("/v1/predict", PICTURE).status == 200


class Blocked:
    """Holds the computing thread up."""

    def __init__(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.computed: list[int] = []
        answers = server.service.answers

        def blocked(*args: Any) -> Sequence[Any]:
            self.begun.set()
            assert self.go.wait(30)
            self.computed.append(len(args[-1]))
            return answers(*args)

        monkeypatch.setattr(server.service, "answers", blocked)


def test_what_has_no_place_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(places=3, batch=2) as server:
        block = Blocked(server, monkeypatch)
        found: list[Response] = []
        threads = [
            threading.Thread(target=lambda: found.append(server.post("/v1/predict", PICTURE)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.batcher.taken == 3)
        # While nothing is computed, and before the body has come.
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n"
                b"Content-Type: image/png\r\n\r\n"
            )
            response = read(connection)
        assert response is not None
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
        assert server.get("/healthz").status == 200
        block.go.set()
        for thread in threads:
            thread.join()
        assert [one.status for one in found] == [200] * 3
        assert server.batcher.taken == 0
        # More pictures than there can ever be places for are another matter.
        body, kind = form(*(("f", "a", PICTURE) for _ in range(4)))
        assert server.post("/v1/predict", body, kind).status in (400, 413)
    assert block.computed in ([1, 2], [2, 1])


def test_who_hangs_up_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        block = Blocked(server, monkeypatch)
        first = threading.Thread(target=server.post, args=("/v1/predict", PICTURE))
        first.start()
        assert block.begun.wait(20)
        with server.connect() as connection:
            connection.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
                + f"Content-Length: {len(PICTURE)}\r\n\r\n".encode()
                + PICTURE
            )
            until(lambda: server.batcher.taken == 2)
        until(lambda: server.batcher.taken == 1)
        block.go.set()
        first.join()
        until(lambda: server.batcher.taken == 0)
        assert server.post("/v1/predict", PICTURE).status == 200
    assert block.computed == [1, 1]


def test_batches() -> None:
    async def run() -> None:
        go, sizes = threading.Event(), []
        batcher = Batcher(20, 3, lambda size, _: sizes.append(size))

        def work(values: Sequence[int]) -> list[int]:
            assert go.wait(20)
            if 13 in values:
                raise ValueError("13")
            return [value * value for value in values]

        tasks = [asyncio.create_task(batcher.compute("a", work, 0))]
        await asyncio.sleep(0.1)  # it is alone in its batch
        tasks += [asyncio.create_task(batcher.compute("a", work, i)) for i in range(1, 6)]
        tasks += [asyncio.create_task(batcher.compute("b", work, i)) for i in (13, 7)]
        dropped = asyncio.create_task(batcher.compute("a", work, 99))
        await asyncio.sleep(0.1)
        dropped.cancel()
        await asyncio.sleep(0.1)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        values = [one.value if not isinstance(one, BaseException) else None for one in found]
        assert values == [0, 1, 4, 9, 16, 25, None, None]
        assert sizes == [1, 3, 2]
        with batcher.place(20), pytest.raises(BusyError), batcher.place():
            pass
        assert batcher.taken == 0
        batcher.close()
        with pytest.raises(BusyError):
            await batcher.compute("a", work, 1)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]"}, 200),
        ({"host": "vggnet.example"}, 421),  # a name that resolves to 127.0.0.1 (DNS rebinding)
        ({"host": "127.0.0.1.example"}, 421),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"origin": "http://example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"content_encoding": "gzip"}, 415),
    ],
)
def test_who_may_ask(server: Serving, headers: dict[str, str], status: int) -> None:
    response = server.post("/v1/predict", PICTURE, **headers)
    assert response.status == status, response.body
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_preflight_gets_no_leave(server: Serving) -> None:
    response = server.request(
        "OPTIONS", "/v1/predict", origin="http://example.com", access_control_request_method="POST"
    )
    assert response.status == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_key() -> None:
    with serving(key=KEY) as server:
        for path in ("/metrics", "/v2/models/A"):
            assert server.get(path).status == 401
            assert server.get(path, authorization=f"Bearer {KEY}").status == 200
        for given in ("", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Bearer ü"):
            response = server.post("/v1/predict", PICTURE, authorization=given)
            assert response.status == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.body.decode()
        ok = server.post("/v1/predict", PICTURE, authorization=f"Bearer {KEY}", host="a.example")
        assert ok.status == 200
        for path in ("/", "/docs", "/healthz", "/v2/health/ready", "/v1/model"):
            assert server.get(path).status == 200
        assert server.get("/v1/model").json["key_needed"] is True


def test_names_of_files_stay_words(server: Serving, tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a\\b", "<b>x", "ü\u202e.jpg", "a" * 3000):
        body, kind = form(("f", name, PICTURE))
        response = server.post("/v1/predict?top=1", body, kind)
        assert response.status == 200, response.body
        (found,) = response.json["predictions"]
        assert found["image"]
        assert all("passwd" not in value for value in response.headers.values())
    body, kind = form(("f", "../x", b"no picture"))
    assert server.post("/v1/predict", body, kind).json["error"].startswith("../x: not an image")


def test_the_description_and_the_documentation(server: Serving) -> None:
    api = server.get("/openapi.json").json
    paths = set(api["paths"])
    assert {"/v1/predict", "/v1/model", "/v2/health/ready", "/metrics", "/healthz"} <= paths
    assert "/v2/models/{model_name}/infer" in paths
    page = server.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in paths:
        assert path in page.body.decode()
    for name in api["components"]["schemas"]:
        assert f'id="{name}"' in page.body.decode()


def test_the_page_and_its_examples(server: Serving) -> None:
    page = server.get("/").body.decode()
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        assert server.get(path).status == 200
    assert server.get("/static/../app.py").status == 404
    assert server.get("/static/%2e%2e/app.py").status == 404
    examples = server.get("/v1/examples").json["examples"]
    assert len(examples) == 2
    for one in examples:
        file = server.get(one["url"])
        assert file.headers["content-type"] == "image/png"
        assert classes(server.post("/v1/predict", file.body))
    assert server.get("/v1/examples/2").status == 404


def test_the_model(server: Serving) -> None:
    found = server.get("/v1/model").json
    assert (found["name"], found["classes"], found["crop"], found["S"]) == ("A", 3, 32, 40)
    assert found["default"]["scales"] == [40]
    assert [row["name"] for row in found["layers"]][:3] == ["conv1_1", "pool1", "conv2_1"]
    for one in found["protocols"]:
        scales = ",".join(map(str, one["scales"]))
        method = one["method"].replace("+", "%2B")
        assert server.post(f"/v1/predict?method={method}&scales={scales}", PICTURE).status == 200


def test_metrics() -> None:
    with serving() as server:
        server.post("/v1/predict", PICTURE)
        server.post("/v1/predict", b"")
        server.get("/some/where")
        text = server.get("/metrics").body.decode()
    assert 'vggnet_requests_total{route="/v1/predict",status="200"} 1.0' in text
    assert 'vggnet_requests_total{route="/v1/predict",status="422"} 1.0' in text
    assert 'vggnet_requests_total{route="other",status="404"} 1.0' in text
    assert "vggnet_batch_pictures_count 1.0" in text
    assert "vggnet_pictures_taken 0.0" in text
    assert "where" not in text


def test_damaged_weights_are_an_error_of_the_server() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("fc8.bias").fill_(float("nan"))
    with serving(model) as server:
        response = server.post("/v1/predict", PICTURE)
        assert response.status == 500
        assert "not finite" in response.json["error"]


# The command.


@pytest.fixture
def weights(tmp_path: Path) -> str:
    vggnet.save(net(), tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


def test_sigterm_drains(weights: str) -> None:
    command = [sys.executable, "-m", "vggnet", "serve", weights, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(60, process.kill)
        killer.start()
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        found = re.match(r"http://127\.0\.0\.1:(\d+) answers", lines[1])
        assert found is not None, lines
        address = ("127.0.0.1", int(found[1]))
        with socket.create_connection(address, 30) as connection:
            connection.sendall(
                b"POST /v1/predict?method=multi-crop&scales=900,901,902,903,904 HTTP/1.1\r\n"
                b"Host: localhost\r\nContent-Type: image/jpeg\r\n"
                + f"Content-Length: {len(PICTURE)}\r\n\r\n".encode()
                + PICTURE[:-1]
            )
            time.sleep(0.3)  # it is being read
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(PICTURE[-1:])
            response = read(connection)
            assert response is not None
            assert response.status == 200
        assert process.wait() == 0
        killer.cancel()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--host", "0.0.0.0"], "give a key"),
        (["--host", "::"], "give a key"),
        (["--host", "0.0.0.0", "--api-key", "short"], "16 or more"),
        (["--host", "no.such.host.invalid", "--api-key", KEY], "take another --host"),
        (["--port", "70000"], "port 70000"),
        (["--queue", "0"], "queue 0"),
        (["--patience", "0"], "patience 0"),
        (["--examples", "/no/such/folder"], "no such folder"),
    ],
)
def test_mistakes(
    weights: str, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", weights, "--port", "0", *more]) == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", weights, "--port", port]) == 2
    assert "take another --host or --port" in capsys.readouterr().err


def test_without_the_extra(
    weights: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("vggnet.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", weights]) == 2
    assert "pip install 'vggnet[serve]'" in capsys.readouterr().err


def test_own_examples(tmp_path: Path) -> None:
    from vggnet.serve.examples import from_folder

    folder = write_photos(tmp_path, {"a": 7})
    found = from_folder(folder)
    assert len(found) == 12
    assert {one.kind for one in found} == {"image/jpeg"}
    broken = folder / "a" / "class0" / "000.jpg"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(vggnet.InputError, match=r"000\.jpg"):
        from_folder(folder)


def test_weights_of_other_software(tmp_path: Path) -> None:
    """They do not say their S: the paper's proportion is taken."""
    from vggnet.formats import torchvision
    from vggnet.serve.service import Service

    model = vggnet.build("D", num_classes=4, crop=224, width=1 / 32)
    torch.save(torchvision.state_dict(model), tmp_path / "net.pth")
    loaded = vggnet.load(tmp_path / "net.pth")
    assert loaded.provenance.S is None
    assert Service(loaded, Limits()).default.protocol.Q == (256,)

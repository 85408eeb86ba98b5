"""The page in a browser: what it shows is what the server answered."""

import base64
import io
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import (
    Browser,
    FileChooser,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

import vggnet
from serving import serving
from vggnet.model import Provenance
from vggnet.rivals import Rival
from vggnet.serve import examples

PREDICT = "**/v1/predict*"
PICTURES = [example.content for example in examples.embedded(())]
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server. Its net has random weights, and doubts."""
    model = vggnet.build("D", num_classes=10, crop=64, width=0.25, init="he")
    with torch.no_grad():
        model.get_parameter("fc8.weight").mul_(0.02)
    names = tuple(f"class {i}, <b>{i}</b>" for i in range(10))
    model.provenance = Provenance(S=(73, 146), class_names=names)
    with serving(model) as running:
        yield running.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium or Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server_of_spp() -> Iterator[str]:
    """Of a net that is not VGG's: its layers are called otherwise, and there are no score maps."""
    model = vggnet.VGG(Rival("SPP", 10, crop=64, width=1 / 16)).eval()
    model.provenance = Provenance(S=73)
    with serving(model) as running:
        yield running.url


@dataclass
class Watched:
    """A page with all that it asks for and complains of."""

    page: Page
    server: str
    refusals: bool = False
    """Whether the server is meant to refuse something in this test."""
    complaints: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def posts(self, path: str = "/v1/predict") -> list[Request]:
        return [
            sent
            for sent in self.requests
            if sent.method == "POST" and urlsplit(sent.url).path == path
        ]

    def body(self) -> bytes:
        """What was sent last."""
        return bytes(
            self.page.evaluate("sent.at(-1).bytes().then((content) => Array.from(content))")
        )

    def open(self) -> dict[str, Any]:
        """What the server says of its model."""
        with self.page.expect_response("**/v1/model") as got:
            self.page.goto(self.server)
        model: dict[str, Any] = got.value.json()
        expect(self.page.locator(".layer")).to_have_count(len(model["layers"]))
        return model

    def upload(self, content: bytes = PICTURES[0], name: str = "photo.png") -> dict[str, Any]:
        """The server's answer to a picture from the file input."""
        return self.answer(
            lambda: self.page.set_input_files(
                "#file", {"name": name, "mimeType": "image/png", "buffer": content}
            )
        )

    def answer(self, act: Callable[[], object]) -> dict[str, Any]:
        """What the server predicts after something was done on the page, shown by then."""
        with self.page.expect_response(PREDICT) as got:
            act()
        answer: dict[str, Any] = got.value.json()
        if got.value.ok:
            expect(self.page.locator("#classes")).to_be_visible()
            expect(self.page.locator("#protocol")).to_contain_text(answer["protocol"])
        return answer


@pytest.fixture
def watched(browser: Browser, server: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(8000)
    # Playwright does not see bodies that are files.
    context.add_init_script(
        """globalThis.sent = [];
        const real = fetch;
        globalThis.fetch = (address, options) => {
            if (options?.body) sent.push(options.body);
            return real(address, options);
        };"""
    )
    page = context.new_page()
    it = Watched(page, server)
    page.on("console", lambda said: it.complaints.append(said.text) if said.type != "log" else None)
    page.on("pageerror", lambda error: it.complaints.append(str(error)))
    page.on("request", lambda sent: it.requests.append(sent))
    yield it
    context.close()
    # Violations of the Content-Security-Policy are among the complaints.
    if it.refusals:
        it.complaints = [
            text for text in it.complaints if not text.startswith("Failed to load resource")
        ]
    assert not it.complaints
    for sent in it.requests:
        assert sent.url.startswith((it.server + "/", "data:", "blob:")), sent.url


def query(sent: Request) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(urlsplit(sent.url).query).items()}


def percent(share: float) -> str:
    value = 100 * share
    if 0 < value < 0.005:
        return "< 0.01 %"
    return f"{value:.2f} %" if value < 1 else f"{value:.1f} %"


def box(locator: Locator) -> tuple[float, float, float, float]:
    found = locator.bounding_box()
    assert found is not None
    return found["x"], found["y"], found["width"], found["height"]


def shown_as(page: Page, answer: dict[str, Any]) -> None:
    """The bars are the answer's classes, in its order and in proportion."""
    [prediction] = answer["predictions"]
    rows = page.locator(".class")
    expect(rows).to_have_count(len(prediction["classes"]))
    expect(rows.locator(".class-name")).to_have_text([c["class"] for c in prediction["classes"]])
    expect(rows.locator(".value")).to_have_text(
        [percent(c["posterior"]) for c in prediction["classes"]]
    )
    for row, found in zip(rows.all(), prediction["classes"], strict=True):
        whole, part = box(row.locator(".bar"))[2], box(row.locator(".bar > span"))[2]
        assert part / whole == pytest.approx(found["posterior"], abs=0.005)


def test_another_papers_net(watched: Watched, server_of_spp: str) -> None:
    watched.server = server_of_spp
    watched.open()
    shown_as(watched.page, watched.upload())
    expect(watched.page.locator("#heat")).to_be_hidden()
    expect(watched.page.locator('[data-layer="spp"]')).to_have_attribute(
        "aria-label", re.compile("^spp, spatial pyramid pooling, output")
    )
    assert len(watched.posts()) == 1  # no map was asked for


SEND = """([kind, bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
    const more = kind === "paste" ? {clipboardData: data} : {dataTransfer: data};
    const made = kind === "paste" ? ClipboardEvent : DragEvent;
    document.body.dispatchEvent(new made(kind, {bubbles: true, cancelable: true, ...more}));
}"""


@pytest.mark.parametrize("way", ["choose", "paste", "drop"])
def test_a_picture_is_answered(watched: Watched, way: str) -> None:
    page, name = watched.page, "<i>a</i> &amp; b.png"
    model = watched.open()
    if way == "choose":
        answer = watched.upload(PICTURES[0], name)
    else:
        answer = watched.answer(lambda: page.evaluate(SEND, [way, list(PICTURES[0]), name]))
    shown_as(page, answer)
    expect(page.locator("#name")).to_have_text(name)
    assert page.get_attribute("#picture", "alt") == name
    [sent] = watched.posts()
    assert watched.body() == PICTURES[0]
    assert sent.headers["content-type"] == "application/octet-stream"
    usual = model["default"]
    scales = ",".join(map(str, usual["scales"]))
    assert query(sent) == {"method": usual["method"], "scales": scales, "top": str(usual["top"])}
    first = answer["predictions"][0]["classes"][0]
    expect(page.locator("#status")).to_have_text(
        f"{first['class']}, {percent(first['posterior'])}."
    )


def test_an_example_is_answered(watched: Watched) -> None:
    watched.open()
    examples = watched.page.locator("#examples button")
    shown_as(watched.page, watched.answer(examples.nth(1).click))
    with Image.open(io.BytesIO(watched.body())) as image:
        size = [image.width, image.height]
    seen = "[document.images[0].naturalWidth, document.images[0].naturalHeight]"
    assert watched.page.evaluate(seen) == size


def test_a_server_without_examples(watched: Watched) -> None:
    watched.page.route("**/v1/examples", lambda route: route.fulfill(json={"examples": []}))
    with watched.page.expect_response("**/v1/examples"):
        watched.open()
    expect(watched.page.locator("#examples")).to_be_hidden()


def test_names_are_text(watched: Watched) -> None:
    """Of classes too: whoever trained the net wrote them."""

    def rename(route: Route) -> None:
        answer = route.fetch().json()
        answer["predictions"][0]["classes"][0]["class"] = "<img src=x onerror=alert(1)>"
        route.fulfill(json=answer)

    watched.page.route(PREDICT, rename)
    watched.open()
    shown_as(watched.page, watched.upload())


def test_score_maps(watched: Watched) -> None:
    page = watched.page
    watched.open()
    plain = watched.upload()["predictions"][0]
    overlay, frame = page.locator("#overlay"), page.locator("#frame")
    expect(overlay).to_be_hidden()
    bare = frame.screenshot(animations="disabled")
    answer = watched.answer(lambda: page.locator(".class").nth(1).click())
    expect(overlay).to_be_visible()
    sent = query(watched.posts()[1])
    assert sent.pop("heatmap") == "true"
    assert sent == query(watched.posts()[0])

    # It covers the picture, in the colours of the scale below it.
    assert box(overlay) == pytest.approx(box(frame), abs=0.5)
    found = answer["predictions"][0]["classes"]
    assert [c["posterior"] for c in found] == [c["posterior"] for c in plain["classes"]]
    values = grey(found[1]["heatmap"])
    lightness = painted(page, "#overlay")
    assert lightness.shape == values.shape
    scale = painted(page, "#scale")[0]
    np.testing.assert_allclose(lightness, scale[values], atol=1e-6)
    largest = values.max() / 255
    expect(page.locator("#legend-text")).to_contain_text(f"{largest:.3f}")
    expect(page.locator("#legend-text")).to_contain_text(found[1]["class"])
    expect(page.locator("#high")).to_have_text("1")

    # Its own scale ends at its own largest value.
    page.get_by_label("Each class on its own scale").check()
    expect(page.locator("#high")).to_have_text(f"{largest:.3f}")
    assert painted(page, "#overlay").max() == pytest.approx(scale[-1])

    # The slider goes from the bare picture to the map alone.
    slider = page.get_by_label("Opacity")
    slider.fill("0")
    expect(page.locator("#opacity-value")).to_have_text("0 %")
    assert difference(bare, frame.screenshot()) < 1
    slider.fill("50")
    half = difference(bare, frame.screenshot())
    slider.fill("100")
    assert 1 < half < difference(bare, frame.screenshot())

    # All classes came at once.
    page.locator(".class").nth(3).click()
    expect(page.locator("#legend-text")).to_contain_text(found[3]["class"])
    page.get_by_label("Score map of the chosen").uncheck()
    expect(overlay).to_be_hidden()
    assert len(watched.posts()) == 2

    # Another picture has other maps, and asks for none until they are wanted.
    watched.upload(PICTURES[1])
    assert len(watched.posts()) == 3
    page.get_by_label("Score map of the chosen").check()
    expect(overlay).to_be_visible()
    assert len(watched.posts()) == 4


def grey(url: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.mode == "L"
        return np.asarray(image)


def painted(page: Page, canvas: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The lightness L of OKLab of a canvas' pixels (Ottosson 2020), 0 to 1."""
    url = page.evaluate("(at) => document.querySelector(at).toDataURL()", canvas)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGB"), float) / 255
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lightness: np.ndarray[Any, np.dtype[np.float64]] = np.cbrt(cones) @ [
        0.2104542553,
        0.7936177850,
        -0.0040720468,
    ]
    return lightness


def difference(one: bytes, other: bytes) -> float:
    """The mean over pixels, 0 to 255."""
    first, second = (
        np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), float) for x in (one, other)
    )
    return float(np.abs(first - second).mean())


def test_the_colours_rise_evenly(watched: Watched) -> None:
    watched.open()
    lightness = painted(watched.page, "#scale").ravel()
    assert np.corrcoef(lightness, np.arange(256))[0, 1] > 0.998
    assert lightness[0] < 0.15
    assert lightness[-1] > 0.95


def test_protocols(watched: Watched) -> None:
    page = watched.page
    model = watched.open()
    usual = (model["default"]["method"], model["default"]["scales"])
    rows = page.locator(".choice")
    expect(rows.locator("span:not(.cost)")).to_have_text(
        [row["title"] for row in model["protocols"]]
    )
    [at] = [
        i for i, row in enumerate(model["protocols"]) if (row["method"], row["scales"]) == usual
    ]
    expect(rows.nth(at).locator("input")).to_be_checked()
    costs = {at: watched.upload()["milliseconds"]["compute"]}
    for i, protocol in enumerate(model["protocols"]):
        if i == at:
            continue
        answer = watched.answer(rows.nth(i).click)
        costs[i] = answer["milliseconds"]["compute"]
        shown_as(page, answer)
        asked = query(watched.posts()[-1])
        assert asked["method"] == protocol["method"]
        assert asked["scales"] == ",".join(map(str, protocol["scales"]))
    for i, cost in costs.items():
        written = f"{cost:.1f}" if cost < 10 else f"{round(cost):,}"
        expect(rows.nth(i).locator(".cost")).to_have_text(f"{written} ms")
    # What is known is not asked for again, until the picture is another.
    before = len(watched.posts())
    rows.nth(at).click()
    expect(page.locator("#shell")).to_contain_text(f"method={usual[0]}&scales={usual[1][0]}")
    page.wait_for_timeout(300)
    assert len(watched.posts()) == before
    watched.upload(PICTURES[1])
    texts = rows.locator(".cost").all_text_contents()
    assert [bool(text) for text in texts] == [i == at for i in range(len(texts))]


def test_the_net(watched: Watched) -> None:
    """Receptive fields in true proportion: half of Q is half of the picture's smaller side."""
    page = watched.page
    model = watched.open()
    prediction = watched.upload()["predictions"][0]
    height, width = prediction["height"], prediction["width"]
    scale = model["default"]["scales"][0]
    page.add_style_tag(url="/static/style.css")  # loaded: else the first transition may still run
    page.emulate_media(reduced_motion="reduce")
    left, top, shown_width, shown_height = box(page.locator("#frame"))
    middle = (left + shown_width / 2, top + shown_height / 2)
    mark = page.locator("#field")
    larger = 0
    for layer in model["layers"]:
        page.locator(f"[data-layer={layer['name']}]").focus()
        assert page.locator("#layer-name").inner_text().startswith(layer["name"])
        x, y, w, h = box(mark)
        left, top, shown_width, shown_height = box(page.locator("#frame"))
        middle = (left + shown_width / 2, top + shown_height / 2)
        side = layer["receptive_field"] * min(height, width) / scale * shown_width / width
        assert (w, h) == pytest.approx((side, side), abs=0.3)
        assert (x + w / 2, y + h / 2) == pytest.approx(middle, abs=0.3)
        facts = page.locator("#facts dd").all_inner_texts()
        channels, tall, wide = layer["output"]
        assert facts[0] == f"{channels:,} × {tall} × {wide}"
        assert facts[1] == f"{layer['parameters']:,}"
        assert facts[3].startswith(str(layer["receptive_field"]))
        assert facts[4] == str(layer["stride"])
        above = layer["receptive_field"] > scale
        assert ("larger than" in page.locator("#layer-text").inner_text()) == above
        larger += above
    assert 0 < larger < len(model["layers"])
    page.locator("#choose").focus()
    expect(mark).to_be_hidden()
    slabs = page.locator(".slab").evaluate_all("all => all.map((one) => one.offsetHeight)")
    sides = [layer["output"][1] for layer in model["layers"]]
    for tall, side in zip(slabs, sides, strict=True):
        assert tall == pytest.approx(slabs[0] * math.sqrt(side / sides[0]), abs=1)


def test_activation_maps(watched: Watched) -> None:
    page = watched.page
    model = watched.open()
    block = page.locator(f"[data-layer={model['layers'][3]['name']}]")
    block.click()
    expect(page.locator("#maps-text")).to_have_text("Choose a picture first.")
    with page.expect_response("**/v1/activations*") as got:
        watched.upload()
    answer = got.value.json()
    maps = page.locator("#maps figure")
    expect(maps).to_have_count(len(answer["maps"]))
    expect(block).to_have_attribute("aria-pressed", "true")
    for figure, found in zip(maps.all(), answer["maps"], strict=True):
        expect(figure.locator("b")).to_have_text(f"channel {found['channel']}")
    sizes = maps.locator("canvas").evaluate_all("all => all.map((one) => [one.height, one.width])")
    assert sizes == [[answer["height"], answer["width"]]] * len(sizes)
    # The lightest is the largest.
    values = grey(answer["maps"][0]["map"])
    assert painted(page, "#maps canvas").argmax() == values.argmax()
    # One value a channel is a bar.
    with page.expect_response("**/v1/activations*") as got:
        page.locator("[data-layer=fc8]").click()
    answer = got.value.json()
    if answer["height"] * answer["width"] == 1:
        expect(page.locator("#maps .bar")).to_have_count(len(answer["maps"]))
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#activations")).to_be_hidden()
    expect(page.locator("[data-layer=fc8]")).to_be_focused()


def test_not_an_image(watched: Watched) -> None:
    watched.refusals = True
    watched.open()
    answer = watched.upload(b"no picture", "notes.txt")
    expect(watched.page.get_by_role("alert")).to_have_text(answer["error"])
    expect(watched.page.get_by_role("button", name="Try again")).to_be_hidden()
    # The next picture ends it.
    shown_as(watched.page, watched.upload())
    expect(watched.page.get_by_role("alert")).to_be_empty()


def test_what_is_not_sent(watched: Watched) -> None:
    def small(route: Route) -> None:
        model = route.fetch().json()
        model["limits"] |= {"bytes": 2**20, "pixels": 10000}
        route.fulfill(json=model)

    page = watched.page
    page.route("**/v1/model", small)
    watched.open()
    files: dict[str, tuple[bytes, str]] = {
        "large.png": (
            b"x" * (2**20 + 2**19),
            "large.png has 1.5 MB; the server takes 1 MB at most",
        ),
        "empty.png": (b"", "empty.png is empty"),
        "wide.png": (PICTURES[0], "wide.png has 86,400 pixels; the server takes 10,000 at most"),
    }
    for name, (content, message) in files.items():
        page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        expect(page.get_by_role("alert")).to_contain_text(message)
    page.evaluate(
        """document.body.dispatchEvent(
            new DragEvent("drop", {bubbles: true, dataTransfer: new DataTransfer()}))"""
    )
    expect(page.get_by_role("alert")).to_contain_text("no file")
    assert not watched.posts()


def test_a_busy_server(watched: Watched) -> None:
    busy = {"times": 1}

    def handle(route: Route) -> None:
        if busy["times"] == 0:
            route.continue_()
            return
        busy["times"] -= 1
        error = {"error": "busy: 8 pictures wait already"}
        route.fulfill(status=503, headers={"Retry-After": "1"}, json=error)

    page = watched.page
    watched.refusals = True
    page.route(PREDICT, handle)
    watched.open()
    file: Any = {"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]}
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_have_text("The server is busy.")
    expect(page.locator("#countdown")).to_have_text("Try 1 of 3 in 1 s.")
    expect(page.locator("#classes")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
    assert len(watched.posts()) == 2
    # It gives up after three tries, says what the server says, and offers another.
    busy["times"] = 4
    page.set_input_files("#file", file)
    expect(page.get_by_role("alert")).to_have_text("busy: 8 pictures wait already")
    assert len(watched.posts()) == 6
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#classes")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_lost_connection(watched: Watched) -> None:
    page = watched.page
    watched.refusals = True
    page.route("**/v1/model", lambda route: route.abort("connectionrefused"))
    page.goto(watched.server)
    expect(page.get_by_role("alert")).to_contain_text("No connection to the server")
    page.unroute("**/v1/model")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#net")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
    page.route(PREDICT, lambda route: route.abort("connectionrefused"))
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]})
    expect(page.get_by_role("alert")).to_contain_text("No connection to the server")
    page.unroute(PREDICT)
    shown_as(page, watched.answer(page.get_by_role("button", name="Try again").click))


def test_a_proxy_in_between(watched: Watched) -> None:
    watched.refusals = True
    page = watched.page
    page.route(PREDICT, lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    watched.open()
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]})
    expect(page.get_by_role("alert")).to_have_text("The server answered 502 Bad Gateway.")


def test_a_key(watched: Watched) -> None:
    key = "s3cret&?#"

    def locked(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {key}":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "a key is needed"})

    page = watched.page
    watched.refusals = True
    page.route(PREDICT, locked)
    watched.open()
    watched.upload()
    prompt = page.get_by_label("a key is needed")
    expect(prompt).to_be_focused()
    page.keyboard.type("wrong")
    watched.answer(lambda: page.keyboard.press("Enter"))
    expect(prompt).to_be_focused()
    expect(prompt).to_have_value("")
    page.keyboard.type(key)
    shown_as(page, watched.answer(lambda: page.keyboard.press("Enter")))
    expect(page.locator("#key")).to_be_hidden()
    assert not [sent.url for sent in watched.requests if "s3cret" in sent.url]
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]


def test_a_new_picture_ends_the_old_request(watched: Watched) -> None:
    page = watched.page
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(PREDICT, hold_first)
    watched.open()
    ended: list[Request] = []
    page.on("requestfailed", lambda sent: ended.append(sent))
    with page.expect_request(PREDICT):
        page.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]}
        )
    shown_as(page, watched.upload(PICTURES[1]))
    assert [sent.failure for sent in ended] == ["net::ERR_ABORTED"]
    assert ended == watched.posts()[:1]
    expect(page.get_by_role("alert")).to_be_empty()


def everything(watched: Watched) -> None:
    """All parts of the page open."""
    watched.open()
    watched.upload()
    watched.page.locator(".class").first.click()
    expect(watched.page.locator("#overlay")).to_be_visible()
    watched.page.locator("[data-layer=conv3_1]").click()
    expect(watched.page.locator("#maps canvas").first).to_be_visible()


SMALL = """all => all.filter((one) => {
    const {width, height} = (one.closest("label") ?? one).getBoundingClientRect();
    return one.checkVisibility() && (width < 43.9 || height < 43.9);
}).map((one) => one.outerHTML)"""


def test_on_a_phone(watched: Watched) -> None:
    page = watched.page
    page.set_viewport_size({"width": 360, "height": 740})
    narrow = "document.scrollingElement.scrollWidth <= innerWidth"
    watched.open()
    assert page.evaluate(narrow)
    everything(watched)
    assert page.evaluate(narrow)
    assert page.locator("button, input, a").evaluate_all(SMALL) == []
    # The picture stays in view above the net.
    page.locator("[data-layer=conv5_1]").scroll_into_view_if_needed()
    assert box(page.locator("#frame"))[1] >= 0
    assert box(page.locator("#field"))[1] >= 0
    page.set_input_files("#file", {"name": "long " * 40, "mimeType": "image/png", "buffer": b""})
    expect(page.get_by_role("alert")).to_contain_text("is empty")
    assert page.evaluate(narrow)


FAINT = """() => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (one) => {
        const colour = channels(getComputedStyle(one).backgroundColor);
        return colour.length === 4 && colour[3] === 0 ? ground(one.parentElement) : colour;
    };
    const contrast = (one) => {
        const [a, b] = [channels(getComputedStyle(one).color), ground(one)].map(luminance);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const speaks = (one) => [...one.childNodes]
        .some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")]
        .filter((one) => one.checkVisibility() && speaks(one) && contrast(one) < 4.5)
        .map((one) => one.outerHTML);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(watched: Watched, scheme: Any) -> None:
    """4.5 and more between text and ground (WCAG 2.2, AA)."""
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    everything(watched)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b""})
    expect(page.get_by_role("alert")).to_contain_text("is empty")
    assert page.evaluate(FAINT) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, ground[4:-1].split(","))) < 128) == (scheme == "dark")


def test_everything_has_a_name(watched: Watched) -> None:
    everything(watched)
    nameless = """all => all.filter((one) => one.checkVisibility() && !(one.labels?.length
        || one.getAttribute("aria-label") || one.innerText || one.querySelector("img[alt]")))"""
    assert watched.page.locator("button, input, a").evaluate_all(nameless) == []
    assert watched.page.locator("img:not([alt])").count() == 0


def test_by_keyboard_alone(watched: Watched) -> None:
    page = watched.page
    dialogs: list[FileChooser] = []
    page.on("filechooser", lambda dialog: dialogs.append(dialog))
    watched.open()

    def tab_to(selector: str) -> Locator:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("(at) => document.activeElement.matches(at)", selector):
                ringed = """() => [document.activeElement, document.activeElement.closest("label")]
                    .some((one) => one && getComputedStyle(one).outlineStyle !== "none")"""
                assert page.evaluate(ringed), f"no ring at {selector}"
                return page.locator(selector).first
        raise AssertionError(f"{selector} is not reached")

    tab_to("#choose")
    page.keyboard.press("Enter")
    for _ in range(100):
        page.wait_for_timeout(20)
        if dialogs:
            break
    [dialog] = dialogs
    answer = watched.answer(
        lambda: dialog.set_files({"name": "a.png", "mimeType": "image/png", "buffer": PICTURES[0]})
    )
    names = [c["class"] for c in answer["predictions"][0]["classes"]]
    tab_to("#bars input")
    page.keyboard.press("Space")
    expect(page.locator("#overlay")).to_be_visible()
    expect(page.locator("#legend-text")).to_contain_text(names[0])
    page.keyboard.press("ArrowDown")
    expect(page.locator("#legend-text")).to_contain_text(names[1])
    tab_to("#protocol-list input")
    watched.answer(lambda: page.keyboard.press("ArrowDown"))
    tab_to("#heat-on")
    opacity = tab_to("#opacity")
    before = float(opacity.input_value())
    page.keyboard.press("ArrowLeft")
    assert float(opacity.input_value()) == before - 1
    tab_to("#own-scale")
    # One stop of the tab key for the whole net.
    tab_to(".layer")
    for key, name in {
        "ArrowRight": "conv1_2",
        "End": "fc8",
        "ArrowLeft": "fc7",
        "Home": "conv1_1",
    }.items():
        page.keyboard.press(key)
        expect(page.locator(f"[data-layer={name}]")).to_be_focused()
        expect(page.locator("#layer-name")).to_contain_text(name)
        expect(page.locator("#field")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#maps canvas").first).to_be_visible()
    tab_to("#close-maps")
    page.keyboard.press("Escape")
    expect(page.locator("#activations")).to_be_hidden()
    expect(page.locator("[data-layer=conv1_1]")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "own-scale"

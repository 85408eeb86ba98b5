"""Requests of who means no good, or whose program is broken, and what must come back."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from encoding import encoded
from photos import photo
from serving import form

Hostile = tuple[str, bytes, frozenset[int | None]]
"""A name, the whole request, and the statuses that are right; None: hung up without one."""

_BAD = frozenset({422})
_EITHER = frozenset({200, 422})
_BROKEN = frozenset({400})
_KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


def head(path: str, length: int | None, kind: str = "image/jpeg", more: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    if kind:
        lines += f"Content-Type: {kind}\r\n"
    if length is not None:
        lines += f"Content-Length: {length}\r\n"
    return (lines + more + "\r\n").encode()


def posted(
    body: bytes, kind: str = "image/jpeg", path: str = "/v1/predict", more: str = ""
) -> bytes:
    return head(path, len(body), kind, more) + body


def corpus() -> Iterator[Hostile]:
    """Two hundred and more."""
    yield from _damaged()
    yield from _bombs()
    yield from _others()
    yield from _json()
    yield from _forms()
    yield from _http()


def _damaged() -> Iterator[Hostile]:
    rng = np.random.default_rng(0)
    for kind in _KINDS:
        whole = encoded(photo(rng, 60, 80), kind)
        for share in (0.05, 0.2, 0.4, 0.6, 0.8):
            yield f"{kind} cut at {share}", posted(whole[: int(len(whole) * share)]), _BAD
        for i in range(10):
            changed = np.frombuffer(whole, np.uint8).copy()
            where = rng.integers(8, len(whole), 12)
            changed[where] = rng.integers(0, 256, len(where))
            yield f"{kind} with noise {i}", posted(changed.tobytes()), _EITHER
    jpeg = encoded(photo(rng, 60, 80), "JPEG")
    yield "a picture and a program", posted(jpeg + b"MZ" + bytes(1000)), frozenset({200})


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *before: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), *before, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _bombs() -> Iterator[Hostile]:
    zeros = zlib.compress(bytes(10_000_000), 9)
    for width, height in ((30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (200_000, 300)):
        yield f"a PNG of {width}×{height}", posted(png(width, height, zeros)), _BAD
    yield "a PNG of no size", posted(png(0, 0, zeros)), _BAD
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    yield "a PNG whose text is a bomb", posted(png(8, 8, zeros, text)), _EITHER
    profile = _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    yield "a PNG whose profile is a bomb", posted(png(8, 8, zeros, profile)), _EITHER
    row = encoded(np.zeros((1, 20_000, 3), np.uint8), "PNG")
    yield "a line of 20,000 pixels", posted(row), _BAD
    column = encoded(np.zeros((20_000, 1, 3), np.uint8), "PNG")
    yield "a column of 20,000 pixels", posted(column), _BAD
    jpeg = bytearray(encoded(np.zeros((64, 64, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    yield "a JPEG that says 65,000×65,000", posted(bytes(jpeg)), _BAD
    bmp = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
    yield "a BMP that says 2^30×2^30", posted(bytes(bmp)), _BAD
    gif = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield "a GIF that says 65,535×65,535", posted(bytes(gif)), _BAD
    tiff = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "TIFF"))
    yield "a TIFF whose directory points to itself", posted(bytes(tiff[:4]) + b"\4\0\0\0" * 9), _BAD
    more = "Content-Encoding: gzip\r\n"
    yield "a body that says gzip", posted(zeros, more=more), frozenset({415})


def _others() -> Iterator[Hostile]:
    kinds = {
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "PDF": b"%PDF-1.7\n1 0 obj<<>>endobj\n",
        "ZIP": b"PK\x03\x04" + bytes(200),
        "ELF": b"\x7fELF" + bytes(200),
        "MP4": b"\0\0\0\x18ftypmp42" + bytes(200),
        "pickle": b"\x80\x04cposix\nsystem\n\x8c\x04true\x85R.",
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "XBM": b"#define a_width 8\n#define a_height 8\nstatic char a[] = {1};",
        "FLI": bytes(4) + b"\x11\xaf" + bytes(122),
        "PPM": b"P6 8 8 255\n" + bytes(192),
        "ICNS": b"icns" + bytes(60),
        "PSD": b"8BPS\0\1" + bytes(60),
        "text": b"https://example.com/cat.jpg",
        "zeros": bytes(5000),
        "nothing": b"",
    }
    for name, body in kinds.items():
        yield name, posted(body), _BAD
    rng = np.random.default_rng(1)
    for i in range(5):
        yield f"noise {i}", posted(rng.bytes(1000)), _BAD
    for i, start in enumerate(
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0")
    ):
        yield f"noise that begins well {i}", posted(start + rng.bytes(1000)), _BAD


def _json() -> Iterator[Hostile]:
    jpeg = base64.b64encode(encoded(np.zeros((40, 40, 3), np.uint8), "JPEG")).decode()
    picture = '{"images":[{"data":"' + jpeg + '"}]'
    texts: dict[str, tuple[str | bytes, set[int]]] = {
        "deep": ("[" * 100_000, {400}),
        "deep in its place": ('{"images":' + "[" * 50_000 + "]" * 50_000 + "}", {400, 422}),
        "deep objects": ('{"a":' * 50_000, {400}),
        "a long number": ('{"top":' + "9" * 100_000 + "}", {400, 422}),
        "NaN": (picture + ',"top":NaN}', {400, 422}),
        "a number beyond floats": (picture + ',"top":1e999}', {400, 422}),
        "no UTF-8": (b'{"images":"\xff\xfe"}', {400}),
        "half of a surrogate": ('{"images":[{"data":"a","name":"\\ud800"}]}', {400, 422}),
        "UTF-16": ('{"images":[]}'.encode("utf-16"), {400}),
        "not closed": ('{"images":[{"data":"', {400}),
        "an empty body": ("", {400}),
        "null": ("null", {422}),
        "a word": ('"images"', {422}),
        "a number": ("7", {422}),
        "a list": ("[]", {422}),
        "no images": ("{}", {422}),
        "no image": ('{"images":[]}', {422}),
        "a URL": ('{"images":[{"url":"http://127.0.0.1/"}]}', {422}),
        "a path": ('{"images":[{"data":"/etc/passwd"}]}', {422}),
        "base64 of nothing": ('{"images":[{"data":""}]}', {422}),
        "base64 with spaces": ('{"images":[{"data":"aa aa"}]}', {422}),
        "base64 of another kind": ('{"images":[{"data":"__--"}]}', {422}),
        "a data: URL": ('{"images":[{"data":"data:image/png;base64,' + jpeg + '"}]}', {422}),
        "many images": (json.dumps({"images": [{"data": jpeg}] * 500}), {413}),
        "top of true": (picture + ',"top":true}', {422}),
        "top of a float": (picture + ',"top":2.5}', {422}),
        "a long name": (picture[:-2] + ',"name":"' + "x" * 10_000 + '"}]}', {422}),
        "another key": (picture + ',"__proto__":{}}', {422}),
        "scales without end": (picture + ',"scales":[' + "40," * 9999 + "40]}", {422}),
        "a comment": (picture + '} // x', {400}),
    }  # fmt: skip
    for name, (text, statuses) in texts.items():
        body = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        yield f"JSON: {name}", posted(body, "application/json"), frozenset(statuses)
    tensor = '{"inputs":[{"name":"images","datatype":"UINT8","shape":%s,"data":%s}]}'
    tensors = {
        "no values": tensor % ("[1,3,32,32]", "[]"),
        "a large shape": tensor % ("[1,3,99999999,99999999]", "[0]"),
        "a shape beyond 64 bits": tensor % (f"[1,3,{'9' * 30},32]", "[0]"),
        "a negative shape": tensor % ("[-1,3,32,32]", "[0]"),
        "words": tensor % ("[1,3,32,32]", '["a"]'),
        "deep data": tensor % ("[1,3,32,32]", "[" * 5000 + "]" * 5000),
        "objects": tensor % ("[1,3,32,32]", "[{}]"),
        "null": tensor % ("[1,3,32,32]", "[null]"),
    }
    for name, text in tensors.items():
        request = posted(text.encode(), "application/json", "/v2/models/A/infer")
        yield f"tensor: {name}", request, frozenset({400, 413, 422})


def _forms() -> Iterator[Hostile]:
    jpeg = encoded(np.zeros((40, 40, 3), np.uint8), "JPEG")
    whole, kind = form(("image", "a.jpg", jpeg))
    yield "form: no boundary", posted(whole, "multipart/form-data"), _BROKEN
    yield (
        "form: another boundary",
        posted(whole, "multipart/form-data; boundary=no"),
        _BROKEN | _BAD,
    )
    yield (
        "form: a long boundary",
        posted(whole, f"multipart/form-data; boundary={'x' * 5000}"),
        (_BROKEN | _BAD),
    )
    yield "form: cut", posted(whole[:-30], kind), _BROKEN | _EITHER
    yield "form: empty", posted(b"", kind), _BROKEN | _BAD
    yield "form: no JPEG", posted(b"x" * 5000, kind), _BROKEN
    many, _ = form(*(("image", "a.jpg", jpeg) for _ in range(300)))
    yield "form: many files", posted(many, kind), frozenset({400, 413})
    fields, _ = form(*((f"f{i}", None, b"1") for i in range(1000)))
    yield "form: many fields", posted(fields, kind), frozenset({400, 413})
    large, _ = form(("top", None, b"1" * 1_000_000))
    yield "form: a large field", posted(large, kind), frozenset({400, 413})
    field, _ = form(("image", None, b"not a file"))
    yield "form: no file", posted(field, kind), _BAD
    lines = (
        b'--xyz\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n' + b"X: y\r\n" * 9999
    )
    yield "form: many headers", posted(lines + b"\r\n" + jpeg, kind), _BROKEN
    line = b'--xyz\r\nContent-Disposition: form-data; name="' + b"a" * 500_000
    yield "form: a long header", posted(line, kind), _BROKEN
    nested = b"--xyz\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\nx\r\n--q--\r\n"
    nested += b"--xyz--"
    yield "form: nested", posted(nested, kind), _BROKEN
    for name in ("../../etc/passwd", "a\\r\\nSet-Cookie: a=b", "%0d%0aX: y", '\\"', "a;b=c", "\0"):
        named, _ = form(("image", name, b"no picture"))
        yield f"form: a file called {name!r}", posted(named, kind), _BAD | _BROKEN
    utf = b'--xyz\r\nContent-Disposition: form-data; name="a"; filename="\xff\xfe"\r\n\r\nx'
    utf += b"\r\n--xyz--\r\n"
    yield "form: a name that is no UTF-8", posted(utf, kind), _BAD | _BROKEN
    charset = b'--xyz\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nnone\r\n' + whole
    yield "form: an unknown charset", posted(charset, kind), _BAD | _BROKEN


def _http() -> Iterator[Hostile]:
    jpeg = encoded(np.zeros((40, 40, 3), np.uint8), "JPEG")
    get = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    broken: dict[str, tuple[bytes, set[int | None]]] = {
        "no request": (b"\r\n\r\n\r\n", {400}),
        "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(300), {400}),
        "SSH": (b"SSH-2.0-OpenSSH_9.0\r\n\r\n", {400}),
        "HTTP/0.9": (b"GET /\r\n\r\n", {400}),
        "HTTP/9": (b"GET / HTTP/9.0\r\n\r\n", {400, 421}),
        "no host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
        "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: example.com\r\n\r\n", {400}),
        "a folded header": (get + b"A: b\r\n c\r\n\r\n", {200, 400}),
        "a header without a colon": (get + b"nonsense\r\n\r\n", {400}),
        "a zero in a header": (get + b"A: \0\r\n\r\n", {400}),
        "a space before a colon": (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", {400}),
        "large headers": (get + b"A: " + b"a" * 200_000 + b"\r\n\r\n",
                          {400, 431, None}),
        "many headers": (get + b"A: b\r\n" * 50_000 + b"\r\n",
                         {400, 431, None}),
        "a long path": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                        {400, 404, 414, None}),
        "a path that climbs": (head("/static/../../etc/passwd", 0), {404, 405}),
        "a path that climbs, in code": (head("/static/%2e%2e/%2e%2e/etc/passwd", 0), {404, 405}),
        "a path with a zero": (b"GET /static/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
        "a whole URL": (b"GET http://example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
                        {400, 404, 421}),
        "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    {400, 404, 405}),
        "TRACE": (b"TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", {405}),
        "an own method": (b"BREW /v1/predict HTTP/1.1\r\nHost: localhost\r\n\r\n", {405}),
        "an upgrade": (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n"
                       b"Upgrade: websocket\r\n\r\n", {200, 400}),
        "a negative length": (head("/v1/predict", -1) + jpeg, {400}),
        "a length in words": (head("/v1/predict", None, more="Content-Length: many\r\n"), {400}),
        "two lengths": (head("/v1/predict", 5, more="Content-Length: 6\r\n") + b"abcde", {400}),
        "a length of 10^30": (head("/v1/predict", 10**30), {400, 413}),
        "length and chunks": (head("/v1/predict", 5, more="Transfer-Encoding: chunked\r\n")
                              + b"0\r\n\r\n", {400, 422}),
        "chunks of no size": (head("/v1/predict", None, more="Transfer-Encoding: chunked\r\n")
                              + b"zz\r\n", {400, None}),
        "a chunk of 2^64": (head("/v1/predict", None, more="Transfer-Encoding: chunked\r\n")
                            + b"ffffffffffffffff\r\n", {400, 408, 413, None}),
        "another encoding": (head("/v1/predict", None, more="Transfer-Encoding: gzip\r\n"),
                             {400, 501}),
        "no content type": (posted(jpeg, ""), {415}),
        "a strange content type": (posted(jpeg, "a/b;" * 999), {415}),
        "XML": (posted(b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
                       "application/xml"), {415}),
        "a form of the other kind": (posted(b"top=3", "application/x-www-form-urlencoded"), {415}),
        "a large body": (head("/v1/predict", 3_000_000) + bytes(3_000_000), {413}),
        "options of the query without end": (posted(jpeg, path="/v1/predict?" + "top=3&" * 3000),
                                             {422, 200}),
        "a query that is no UTF-8": (posted(jpeg, path="/v1/predict?method=%ff%fe"), {422}),
        "a layer with markup": (posted(jpeg, path="/v1/activations?layer=%3Cscript%3E"), {422}),
        "a model of another folder": (posted(b"{}", "application/json",
                                             "/v2/models/..%2f..%2fetc/infer"), {404}),
    }  # fmt: skip
    for name, (request, statuses) in broken.items():
        yield f"HTTP: {name}", request, frozenset(statuses)

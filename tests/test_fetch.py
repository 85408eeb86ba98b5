"""Downloads, from a server on this machine that breaks off, changes its file, and so on."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

import vggnet
from vggnet import InputError, RunError, fetch, published
from vggnet.cli import main
from vggnet.formats import torchvision
from vggnet.formats.foreign import TORCHVISION
from vggnet.published import Checksum

CONTENT = np.random.default_rng(0).bytes(3 << 20)
SHA = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest()[:8], "here")


@dataclass
class Site:
    """What the server has, how it behaves, and what it was asked and sent."""

    url: str = ""
    content: bytes = CONTENT
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    """Whether it gives parts of files."""
    heeds: bool = True
    """Whether it heeds If-Range."""
    breaks_after: int | None = None
    """Bytes of a body after which it hangs up."""
    status: int = 200
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            site.asked.append((wanted, condition))
            if site.status != 200:
                self.send_error(site.status)
                return
            start = 0
            if (
                wanted
                and site.ranges
                and (not site.heeds or condition in (site.etag, site.modified))
            ):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(site.content):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(site.content) - start))
            if start:
                last = len(site.content)
                self.send_header("Content-Range", f"bytes {start}-{last - 1}/{last}")
            for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            body = site.content[start:]
            body = body if site.breaks_after is None else body[: site.breaks_after]
            site.sent.append(len(body))
            for at in range(0, len(body), 1 << 18):
                self.wfile.write(body[at : at + (1 << 18)])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/file-{SHA.digits}.pth"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers proxies
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def broken(site: Site, path: Path, after: int = 1_000_000) -> None:
    """Downloads until the server hangs up."""
    site.breaks_after = after
    with pytest.raises(RunError, match=f"ended after {after:,} of {len(site.content):,} bytes"):
        fetch.download(site.url, path, SHA)
    assert not path.exists()
    assert path.with_name("w.pth.part").stat().st_size == after
    site.breaks_after = None


def finished(path: Path, content: bytes = CONTENT) -> None:
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_download(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "w.pth"
    fetch.download(site.url, path, SHA)
    finished(path)
    assert site.asked == [(None, None)]


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_a_broken_download_goes_on(site: Site, tmp_path: Path, etag: str | None) -> None:
    """By a strong ETag, else by the date; what was there is not sent again, but for one byte."""
    site.etag, site.modified = etag, "Mon, 06 Jan 2025 10:00:00 GMT"
    condition = etag if etag == '"one"' else site.modified
    path = tmp_path / "w.pth"
    broken(site, path)
    fetch.download(site.url, path, SHA)
    finished(path)
    assert site.asked == [(None, None), ("bytes=999999-", condition)]
    assert site.sent == [1_000_000, len(CONTENT) - 999_999]


def test_a_download_broken_at_its_very_end(site: Site, tmp_path: Path) -> None:
    """All bytes came, and the machine went down before the file got its name."""
    path = tmp_path / "w.pth"
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.part.tag").write_text('"one"')
    fetch.download(site.url, path, SHA)
    finished(path)
    assert site.sent == [1]


def test_a_changed_file_is_not_glued(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    other = CONTENT[::-1]
    for heeds in (True, False):  # a server that ignores If-Range sends the rest of another file
        site.content, site.etag, site.heeds = CONTENT, '"one"', True
        broken(site, path)
        site.content, site.etag, site.heeds = other, '"two"', heeds
        fetch.download(site.url, path)
        finished(path, other)
        path.unlink()
        assert site.sent[-1] == len(other)


def test_a_file_that_became_shorter(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    broken(site, path)
    site.content, site.etag, site.heeds = CONTENT[:1000], '"two"', False
    fetch.download(site.url, path)
    finished(path, CONTENT[:1000])


@pytest.mark.parametrize("version", [True, False])
def test_without_ranges_or_versions_it_starts_again(
    site: Site, tmp_path: Path, version: bool
) -> None:
    site.ranges, site.etag = not version, '"one"' if version else None
    path = tmp_path / "w.pth"
    broken(site, path)
    fetch.download(site.url, path, SHA)
    finished(path)
    assert site.sent[-1] == len(CONTENT)


def test_a_wrong_file_is_deleted(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    wrong = replace(SHA, digits="01234567")
    with pytest.raises(RunError) as error:
        fetch.download(site.url, path, wrong)
    assert f"(sha256 {SHA.digits}, published 01234567) and was deleted" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_hashes(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")  # the standards' own examples
    digits = {
        "sha256": "ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 96177a9c b410ff61 f20015ad",
        "sha1": "a9993e36 4706816a ba3e2571 7850c26c 9cd0d89d",
        "md5": "900150983cd24fb0 d6963f7d28e17f72",
    }[kind].replace(" ", "")
    assert fetch.mismatch(path, Checksum(kind, digits, "")) is None
    assert fetch.mismatch(path, Checksum(kind, digits[:8], "")) is None
    assert fetch.mismatch(path, Checksum(kind, "0" + digits[1:], "")) is not None


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, InputError, "the server says 404 Not Found"),
        (403, InputError, "the server says 403 Forbidden"),
        (503, RunError, "the server says 503 Service Unavailable"),
    ],
)
def test_what_servers_refuse(
    site: Site, tmp_path: Path, status: int, kind: type[Exception], words: str
) -> None:
    site.status = status
    path = tmp_path / "w.pth"
    with pytest.raises(kind) as error:
        fetch.download(site.url, path, SHA)
    for part in (site.url, words, f"download it elsewhere, put it at {path}, then the same"):
        assert part in str(error.value)


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,name.invalid")
    path = tmp_path / "w.pth"
    with pytest.raises(RunError, match=r"cannot be reached \(Connection refused\): try the same"):
        fetch.download("http://127.0.0.1:9/w.pth", path)

    def unknown(*_: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(RunError, match=r"\(Name or service not known\).* put it at .*w.pth, then"):
        fetch.download("http://name.invalid/w.pth", path)


def test_a_proxy_that_refuses(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.status = 403
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", site.url.rpartition("/")[0])
    with pytest.raises(InputError, match=r"^http://name.invalid/w.pth: the server says 403"):
        fetch.download("http://name.invalid/w.pth", tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, RunError, "No space left on device"),
        (errno.EROFS, InputError, "cannot be written"),
    ],
)
def test_disks(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
    words: str,
) -> None:
    def sync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "w.pth"
    monkeypatch.setattr("vggnet.fetch.os.fsync", sync)
    with pytest.raises(kind, match=words):
        fetch.download(site.url, path, SHA)
    monkeypatch.undo()
    assert not path.exists()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch.download(site.url, path, SHA)
    finished(path)
    assert site.sent[-1] == 1


def row(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    monkeypatch.setitem(published.PUBLISHED, name, replace(published.PUBLISHED[name], **changes))


def test_the_command(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From nothing to a file of vggnet's, by what the command prints."""
    mean = [255 * value for value in TORCHVISION.mean]
    net = vggnet.build("A", crop=32, width=1 / 64, mean=mean)
    torch.save(torchvision.state_dict(net), tmp_path / "small.pth")
    site.content = (tmp_path / "small.pth").read_bytes()
    digits = hashlib.sha256(site.content).hexdigest()[:8]
    row(
        monkeypatch,
        "torchvision/vgg11",
        url=site.url.rpartition("/")[0] + f"/vgg11-{digits}.pth",
        checksum=Checksum("sha256", digits, "here"),
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    site.breaks_after = 5000
    assert main(["weights", "fetch", "torchvision/vgg11"]) == 1
    error = capsys.readouterr().err
    path = tmp_path / "torch" / "hub" / "checkpoints" / f"vgg11-{digits}.pth"
    assert error.count("\n") == 1
    assert f"put it at {path}, then the same command checks it" in error
    site.breaks_after = None
    for state in ("downloaded", "is there already"):
        assert main(["weights", "fetch", "torchvision/vgg11"]) == 0
        first, licence, command = capsys.readouterr().out.splitlines()
        assert first == f"{path}: {state}, its sha256 is right"
        assert licence.startswith("licence: not stated")
        assert command == f"next: vggnet convert {path} torchvision-vgg11.safetensors"
    assert len(site.sent) == 2
    # Where torchvision itself looks for it, and finds nothing to download.
    state_dict = torch.hub.load_state_dict_from_url(
        published.find("torchvision/vgg11").url, check_hash=True, weights_only=True
    )
    assert len(state_dict) == 22
    assert len(site.sent) == 2
    monkeypatch.chdir(tmp_path)
    assert main(command.split()[2:]) == 0
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    found = vggnet.load("torchvision-vgg11.safetensors", net="A")(images)
    torch.testing.assert_close(found, net(images), rtol=1e-4, atol=1e-6)
    path.write_bytes(b"other")
    capsys.readouterr()
    assert main(["weights", "fetch", "torchvision/vgg11"]) == 2
    assert f"{path}: is there, but is not the published file" in capsys.readouterr().err
    assert path.read_bytes() == b"other"


def test_interrupted(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row(monkeypatch, "authors/vgg16", url=site.url, checksum=SHA)
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    chunks = fetch._chunks

    def interrupted(response: Any) -> Iterator[bytes]:
        yield next(chunks(response))
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_chunks", interrupted)
    assert main(["weights", "fetch", "authors/vgg16"]) == 130
    error = capsys.readouterr().err
    assert "what came is kept: vggnet weights fetch authors/vgg16 goes on" in error
    monkeypatch.setattr(fetch, "_chunks", chunks)
    assert main(["weights", "fetch", "authors/vgg16"]) == 0
    finished(tmp_path / "weights" / "authors" / site.url.rpartition("/")[2])
    assert site.asked[1] == (f"bytes={(1 << 20) - 1}-", '"one"')


def test_interrupted_where_no_part_is(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row(monkeypatch, "authors/vgg16", url=site.url, checksum=SHA)
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("_answer", "mismatch"):  # before the first byte; while a file is only hashed
        with monkeypatch.context() as patch:
            patch.setattr(fetch, name, interrupted)
            assert main(["weights", "fetch", "authors/vgg16"]) == 130
        assert "kept" not in capsys.readouterr().err
        path = fetch.place(published.find("authors/vgg16"))
        path.write_bytes(CONTENT)
    finished(path)


def test_two_at_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused, and does no harm to the first; so with one of another process."""
    pytest.importorskip("fcntl")
    path = tmp_path / "w.pth"
    receive = fetch._receive

    def second(*arguments: Any) -> None:
        monkeypatch.setattr(fetch, "_receive", receive)
        with pytest.raises(InputError, match=f"^{path}: another process is downloading this"):
            fetch.download(site.url, path, SHA)
        code = (
            "import sys; from pathlib import Path; from vggnet.fetch import download\n"
            "from vggnet import InputError\n"
            "try: download(sys.argv[1], Path(sys.argv[2]))\n"
            "except InputError as error: print(error)"
        )
        command = [sys.executable, "-c", code, site.url, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "another process is downloading" in done.stdout
        assert site.asked == []
        receive(*arguments)

    monkeypatch.setattr(fetch, "_receive", second)
    fetch.download(site.url, path, SHA)
    finished(path)


def test_a_lock_that_a_killed_process_left(site: Site, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part.lock").touch()
    fetch.download(site.url, tmp_path / "w.pth", SHA)
    finished(tmp_path / "w.pth")


def test_a_lock_that_was_removed_meanwhile(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended between our opening and our locking took the lock's file with it."""
    fcntl = pytest.importorskip("fcntl")
    path, lock, locked = tmp_path / "w.pth", tmp_path / "w.pth.part.lock", fcntl.flock
    tried: list[int] = []

    def flock(handle: int, how: int) -> None:
        if not tried:
            lock.unlink()
        tried.append(handle)
        locked(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    fetch.download(site.url, path, SHA)
    assert len(tried) == 2
    finished(path)


@pytest.mark.parametrize("name", ["mismatch", "Path.unlink"])
def test_a_part_that_cannot_be_read_or_removed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(f"vggnet.fetch.{name}", fail)
    with pytest.raises(RunError, match=r"w.pth.part: could not be written \(Input/output error"):
        fetch.download(site.url, tmp_path / "w.pth", replace(SHA, digits="01234567"))


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    keras = published.find("keras/vgg16-notop")
    assert fetch.place(keras) == tmp_path / ".keras" / "models" / name
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "k"))
    assert fetch.place(keras) == tmp_path / "k" / "models" / name


def test_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached: list[Path] = []
    asked: list[str] = []
    answer = SimpleNamespace(headers={}, request=None, status_code=404)

    def download(repo: str, name: str, *, local_files_only: bool, **_: object) -> str:
        assert repo == "timm/vgg16.tv_in1k"
        asked.append(name)
        if name == "config.json":
            raise RemoteEntryNotFoundError("404", response=answer)  # type: ignore[arg-type]
        if not cached and local_files_only:
            raise LocalEntryNotFoundError("not there")
        cached.append(tmp_path / "model.safetensors")
        return str(cached[0])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for state in ("downloaded", "is there already"):
        assert main(["weights", "fetch", "timm/vgg16.tv_in1k"]) == 0
        first, licence, command = capsys.readouterr().out.splitlines()
        assert first == f"{tmp_path / 'model.safetensors'}: {state}"
        assert licence.startswith("licence: bsd-3-clause")
        assert command.endswith("/model.safetensors timm-vgg16.tv_in1k.safetensors")
    weights = "model.safetensors"
    assert asked == [weights, weights, "config.json", weights]


def test_the_hub_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = [LocalEntryNotFoundError("no answer, and not there")]

    def download(*_: object, **__: object) -> str:
        raise errors[0]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    url = "https://huggingface.co/timm/vgg16.tv_in1k/resolve/main/model.safetensors"
    assert main(["weights", "fetch", "timm/vgg16.tv_in1k"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the Hub cannot be reached" in error
    assert f"or download {url} elsewhere, then: vggnet convert model.safetensors" in error
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    errors[0] = RemoteEntryNotFoundError("404", response=response)  # type: ignore[arg-type]
    assert main(["weights", "fetch", "timm/vgg16.tv_in1k"]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["weights", "fetch", "timm/vgg16.tv_in1k"]) == 2
    assert "needs huggingface_hub: pip install 'vggnet[hub]'" in capsys.readouterr().err

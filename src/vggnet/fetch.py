"""Downloads of public weights, resumed where they broke, checked before they get their name."""

import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from vggnet.errors import InputError, RunError
from vggnet.files import check_writable, write_error
from vggnet.home import cache_home
from vggnet.hub import config_of, file_of
from vggnet.published import Checksum, Published

_CHUNK = 1 << 20
_SECONDS = 60
"""Without a byte from the server."""


def fetch(row: Published, *, progress: bool = False) -> tuple[Path, bool]:
    """The file of a row of the table, downloaded into its publisher's own cache.

    Args:
        row: of `published.PUBLISHED`.
        progress: show a bar, on a terminal.

    Returns:
        The file, and whether it was there already. torchvision, Keras and timm find theirs there.

    Raises:
        InputError: for a file that the server does not have or give, a place that cannot be
            written, or another file in that place.
        RunError: when the download broke, or what came is not what was published.
    """
    if row.repo is not None:
        return _from_hub(row)
    path = place(row)
    if path.exists():
        _check_present(path, row)
        return path, True
    check_writable(path)
    download(row.url, path, row.checksum, progress=progress)
    return path, False


def place(row: Published) -> Path:
    """Where the file of a plain URL belongs: its publisher's own cache, or else ours."""
    if row.publisher == "torchvision":
        import torch

        return Path(torch.hub.get_dir()) / "checkpoints" / row.file
    if row.publisher == "keras":
        home = os.environ.get("KERAS_HOME") or "~/.keras"
        return Path(os.path.expanduser(home)) / "models" / row.file  # noqa: PTH111, as in home
    return cache_home() / "weights" / row.publisher / row.file


def next_command(row: Published, path: Path) -> str:
    """What makes a file of vggnet's of it."""
    return f"vggnet convert {shlex.quote(str(path))} {row.name.replace('/', '-')}.safetensors"


def has_begun(row: Published) -> bool:
    """Whether a part of the file is there, which the next download goes on with."""
    return row.repo is None and _begun(*_parts(place(row)))[0] > 0


def download(
    url: str, path: Path, checksum: Checksum | None = None, *, progress: bool = False
) -> None:
    """Downloads a file; what is there of it as `….part` is not fetched again.

    The part goes on only where the server says that the file is still the same (If-Range, ETag).

    Args:
        url: http or https.
        path: of the finished file. Its folder is made.
        checksum: what is compared before the file gets its name; a wrong file is deleted.
        progress: show a bar, on a terminal.

    Raises:
        InputError: when the server has or gives no such file, the place cannot be written, or
            another process is downloading the file.
        RunError: when the server cannot be reached, the body ends early, the checksum is wrong or
            the disk is full.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        _download(url, path, checksum, progress)


def _download(url: str, path: Path, checksum: Checksum | None, progress: bool) -> None:
    part, tag = _parts(path)
    elsewhere = f"download it elsewhere, put it at {path}, then the same command checks it"
    try:
        _receive(url, part, tag, path.name, progress)
    except _RefusedError as error:
        raise InputError(f"{url}: {error}: {elsewhere}") from None
    except _BrokenError as error:
        raise RunError(f"{url}: {error}: try the same command again, or {elsewhere}") from None
    with _writing(part):
        wrong = mismatch(part, checksum)
        if wrong:
            part.unlink()
            tag.unlink(missing_ok=True)
    if wrong:
        raise RunError(
            f"{url}: what came is not the published file ({wrong}) and was deleted: try once more; "
            "if it stays so, the publisher has changed the file, or something on the way did"
        )
    with _writing(path):
        part.replace(path)
        tag.unlink(missing_ok=True)


def _parts(path: Path) -> tuple[Path, Path]:
    """What came of a file so far, and the name of the version that it is of."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from downloading the same file. The lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    lock = path.with_name(f"{path.name}.part.lock")
    while True:
        with _writing(lock):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{path}: another process is downloading this file: wait for it, then the same "
                    "command finds it there"
                ) from None
            except OSError:  # a file system without locks
                pass
            if not _is_same(lock, handle):  # the process before has just removed it
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # while it is ours
                    lock.unlink()
            return
        finally:
            os.close(handle)


def _is_same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


class _RefusedError(Exception):
    """The server answered, and has or gives no such file."""


class _BrokenError(Exception):
    """There was no answer, or not all of it."""


def _receive(url: str, part: Path, tag: Path, title: str, progress: bool) -> None:
    response, have = _answer(url, *_begun(part, tag))
    length = response.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    bar = tqdm(
        desc=title,
        initial=have,
        total=total,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
        leave=False,
    )
    with response, bar:
        with _writing(part):
            file = part.open("r+b" if have else "wb")
        with file:
            with _writing(part):  # after the old content is gone
                tag.write_text(_version(response), encoding="utf-8")
            file.seek(have)
            for chunk in _chunks(response):
                with _writing(part):
                    file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
            with _writing(part):
                file.flush()
                os.fsync(file.fileno())
    if total is not None and have < total:
        raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes (kept)")


def _begun(part: Path, tag: Path) -> tuple[int, str]:
    """How much of the file is there, and of which version; 0 where that is not known.

    Less the last byte: of a file that is all there, a server has no rest to give.
    """
    try:
        version = tag.read_text(encoding="utf-8")
        return (max(0, part.stat().st_size - 1), version) if version else (0, "")
    except (OSError, UnicodeDecodeError):
        return 0, ""


def _answer(url: str, have: int, version: str) -> tuple[HTTPResponse, int]:
    """The server's answer, and after how many bytes it goes on."""
    if have:
        response = _open(url, {"Range": f"bytes={have}-", "If-Range": version})
        if response is not None and response.status != 206:
            return response, 0
        if response is not None:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start and int(start[1]) == have and _version(response) == version:
                return response, have
            response.close()
    response = _open(url, {})
    assert response is not None
    return response, 0


def _version(response: HTTPResponse) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    etag: str = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return str(response.headers.get("Last-Modified", ""))


def _open(url: str, headers: dict[str, str]) -> HTTPResponse | None:
    """The answer; None where the server has no such range."""
    request = Request(url, headers={"User-Agent": "vggnet", **headers})
    try:
        response: HTTPResponse = urlopen(request, timeout=_SECONDS)
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416 and headers:
            return None
        text = f"the server says {error.code} {error.reason}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _BrokenError(text) from None
        raise _RefusedError(text) from None
    except (HTTPException, OSError) as error:  # URLError is an OSError
        raise _BrokenError(f"cannot be reached ({_why(error)})") from None


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (HTTPException, OSError) as error:
            raise _BrokenError(f"the connection broke ({_why(error)}); what came is kept") from None
        if not chunk:
            return
        yield chunk


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from None


def mismatch(path: Path, checksum: Checksum | None) -> str | None:
    """In words, how a file differs from its published hash; None where it does not."""
    if checksum is None:
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(
            file,
            lambda: hashlib.new(checksum.kind, usedforsecurity=False),
        ).hexdigest()
    if found.startswith(checksum.digits):
        return None
    return f"{checksum.kind} {found[: len(checksum.digits)]}, published {checksum.digits}"


def _check_present(path: Path, row: Published) -> None:
    try:
        wrong = mismatch(path, row.checksum)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if wrong:
        raise InputError(
            f"{path}: is there, but is not the published file ({wrong}): remove it, then the same "
            "command downloads it"
        )


def _from_hub(row: Published) -> tuple[Path, bool]:
    assert row.repo is not None
    with suppress(InputError, RunError):
        return file_of(row.repo, [row.file], local_files_only=True), True
    try:
        found = file_of(row.repo, [row.file])
    except (InputError, RunError) as error:
        if isinstance(error, InputError) and "pip install" in str(error):
            raise
        raise type(error)(
            f"{error}: or download {row.url} elsewhere, then: vggnet convert {row.file} "
            f"{row.name.replace('/', '-')}.safetensors"
        ) from None
    with suppress(InputError, RunError):
        config_of(row.repo)  # which `VGG.from_pretrained` asks for, then perhaps without the Hub
    return found, False

"""Files and folders by URL, through fsspec: in object stores, on servers, in archives."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from vggnet.errors import InputError

Answer = TypeVar("Answer")

_PACKAGES = {"smbclient": "smbprotocol"}
"""Of modules that their packages are not called after."""
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "CRC", "created")
"""What file systems call that by which a changed file is known; the surest first."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder by its URL: what `Path` is for local ones.

    The URL of a data set and the path below it are kept apart: they cannot be joined in a chained
    URL, and in some systems a URL names the server too, which is to be asked for all files.
    """

    url: str
    """As fsspec takes it: s3://bucket/images, simplecache::s3://bucket/images or
    zip://images::s3://bucket/all.zip."""
    path: str = ""
    """Below it, with forward slashes."""

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.url, f"{self.path}/{name}".strip("/"))

    def __str__(self) -> str:
        if not self.path:
            return self.url
        first, chain = self._links()
        return f"{first}{'' if first.endswith('/') else '/'}{self.path}{chain}"

    @property
    def name(self) -> str:
        """The last part of the path; of a whole archive its file's."""
        inside = self.path or self._links()[0].partition("://")[2].rstrip("/")
        return (inside or self.url.rstrip("/")).rpartition("/")[2]

    def _links(self) -> tuple[str, str]:
        """The URL up to where its path ends, and the files that this path is in."""
        end = self.url.find("::", self.url.find("://") + 3)
        return (self.url, "") if end < 0 else (self.url[:end], self.url[end:])


def listed(folder: Remote) -> dict[str, dict[str, Any]]:
    """What a folder holds: fsspec's facts by name.

    Raises:
        InputError: as `ask`.
    """

    def question(system: Any, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = system.ls(path, detail=True)
        # What it remembers would hide changes, and a million entries would fill the memory.
        system.invalidate_cache(path)
        # Some systems list the folder itself among what it holds.
        return [facts for facts in found if facts["name"].strip("/") != path.strip("/")]

    return {facts["name"].rstrip("/").rpartition("/")[2]: facts for facts in ask(folder, question)}


def facts_of(place: Remote) -> dict[str, Any] | None:
    """What fsspec knows of a file or folder; None where there is none.

    Raises:
        InputError: as `ask`.
    """

    def question(system: Any, path: str) -> dict[str, Any] | None:
        try:
            facts: dict[str, Any] = system.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return facts

    return ask(place, question)


def stamp_of(facts: dict[str, Any]) -> tuple[int, int]:
    """A file's size in bytes, and a number that changes with it; 0 where nothing tells."""
    version = next((facts[key] for key in _VERSIONS if facts.get(key) is not None), None)
    if version is None:
        return int(facts.get("size") or 0), 0
    if isinstance(version, datetime):  # listed by some systems as a number
        version = version.timestamp()
    digest = hashlib.sha256(str(version).encode()).digest()
    return int(facts.get("size") or 0), int.from_bytes(digest[:8]) >> 1  # as an int64


def ask(place: Remote, question: Callable[[Any, str], Answer]) -> Answer:
    """Asks the file system of a place.

    Args:
        place: in whose file system.
        question: is given fsspec's file system and the path in it.

    Raises:
        InputError: for whatever goes wrong, in one line.
    """
    try:
        system, base = _system(place.url, os.getpid())
        path = f"{base.rstrip('/')}/{place.path}" if base and place.path else base or place.path
        return question(system, path)
    except FileNotFoundError:
        raise InputError(f"{place}: no such file or folder") from None
    except PermissionError:
        raise InputError(f"{place}: cannot be read (permission denied): may you read it?") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each file system has exceptions of its own
        why = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{place}: cannot be read ({type(error).__name__}{': ' * bool(why)}{why}): is the URL "
            "right, and may you read it?"
        ) from None


def forget() -> None:
    """Forgets the file systems that were asked: an archive may have changed since."""
    _system.cache_clear()


@lru_cache
def _system(url: str, process: int) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Its connections and open archives do not survive a fork: each process makes its own.
    """
    from fsspec.core import url_to_fs

    try:
        system, base = url_to_fs(url, skip_instance_cache=True)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None)
        if not missing:
            raise InputError(f"{url}: {error}") from None
        module = missing.partition(".")[0]
        package = _PACKAGES.get(module, module)
        raise InputError(f"{url}: reading it needs {package}: pip install {package}") from None
    except ValueError as error:
        if not str(error).startswith("Protocol not known"):
            raise
        raise InputError(
            f"{url}: fsspec knows no such protocol: give a path, or a URL such as "
            "s3://bucket/images"
        ) from None
    return system, str(base)

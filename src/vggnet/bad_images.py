"""`bad-images.jsonl`: the images that could not be read, a line each."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from vggnet.errors import InputError


class BadImages:
    """Writes each image that cannot be read once, with the reason, as a line of JSON.

    The file comes into being with the first of them; what an earlier run wrote there stays, and is
    not written twice. A file that cannot be written does not end the work: the count still holds.

    Args:
        path: the file.
        anew: what an earlier run wrote there is replaced, with the first of this one's.

    Raises:
        InputError: for a file to be replaced that no run wrote.
    """

    def __init__(self, path: str | Path, *, anew: bool = False) -> None:
        self.path = Path(path)
        self._seen: set[str] = set()
        before = _text(self.path)
        if anew:
            lines = [line for line in before.split("\n") if line.strip()]
            if lines and not _listed(lines[0]):
                raise InputError(
                    f"{self.path}: would be replaced by the list of bad images, and is none: "
                    "give it another name"
                )
            before = ""
        self._written = _listed(before)
        self._mode = "w" if anew else "a"
        # A crash may have cut its last line off.
        self._break = "" if before.endswith("\n") or not before else "\n"

    @property
    def count(self) -> int:
        """Different images that were added."""
        return len(self._seen)

    @property
    def total(self) -> int:
        """Different images that were added, now or by an earlier run that the file is from."""
        return len(self._seen | self._written)

    def add(self, path: str | Path, reason: str, **where: Any) -> None:
        """Notes an image.

        Args:
            path: its path or name.
            reason: why it cannot be read.
            where: further keys of its line, such as `epoch` and `step`; values as JSON has them.
        """
        name = str(path)
        if name in self._seen:
            return
        self._seen.add(name)
        if name in self._written:
            return
        line = json.dumps({"path": name, "reason": reason, **where}, ensure_ascii=False)
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(self._mode, encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{self._break}{line}\n")
            self._mode, self._break = "a", ""


def _text(path: Path) -> str:
    """What a file holds; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _listed(text: str) -> set[str]:
    """The images of its lines; one that is no such line is passed over."""
    found = set()
    for line in text.split("\n"):
        with suppress(ValueError, KeyError, TypeError):
            found.add(str(json.loads(line)["path"]))
    return found

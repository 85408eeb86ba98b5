"""Files on disk: looked at before there is work for them, and written whole or not at all."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from vggnet.errors import InputError, RunError

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""Of a place where files could be made before."""


def check_writable(path: Path) -> None:
    """Whether a file of this name can be made, before the work for it is done.

    Raises:
        InputError: where a folder has the name, or where something that is no folder, or may not
            be written, is in the way.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give the name of a file")
    for folder in path.absolute().parents:
        if folder.exists():
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                why = "may not be written" if folder.is_dir() else "is not a folder"
                raise InputError(f"{path}: cannot be written ({folder} {why})")
            return


def existing(path: Path) -> Path:
    """The path, if it is a regular file that may be read.

    Raises:
        InputError: when it is not. A pipe would be waited for, a device never end.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return path
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({why})") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder, not a weight file")
    raise InputError(f"{path}: is no regular file (a pipe or a device): copy it to one first")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then moves it there.

    A reader finds the old file or the new one, whole, also after a crash of the machine.

    Raises:
        InputError: for a place where nothing can be written.
        RunError: when writing fails there: the disk is full, for example, or broken.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise write_error(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private; a plain open would not
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            temporary.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    except (OSError, SafetensorError) as error:
        raise _failed(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "nt":  # Windows opens no folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        raise _failed(path, error) from None
    finally:
        os.close(folder)


def write_error(path: Path, error: OSError) -> InputError | RunError:
    """What to raise when a file or folder cannot be written.

    A RunError where it could be at another time (the disk is full, or broken), else an InputError.
    """
    if error.errno in _FAILURES:
        return _failed(path, error)
    return InputError(f"{path}: cannot be written ({error.strerror})")


def _failed(path: Path, error: Exception) -> RunError:
    why = getattr(error, "strerror", None) or error
    return RunError(
        f"{path}: could not be written ({why}); what was there before is intact: when there is "
        "space again, the same command goes on"
    )

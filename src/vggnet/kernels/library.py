"""The kernels' library: compiled once for this processor, kept in the cache, opened by ctypes.

There is no binary to install: `c++`, `g++` or `clang++` compiles the sources beside this file when
they are first needed, for the very processor. Where that cannot be, `library` says why.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from ctypes import c_float, c_int, c_long, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vggnet.errors import InputError
from vggnet.home import cache_home

OFF = "VGGNET_FAST"
"""Environment variable; 0 turns the kernels off."""
COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    "-Wno-psabi",
)
_SOURCES = Path(__file__).parent
_SECONDS_TO_COMPILE = 600


class UnavailableError(InputError):
    """The kernels cannot be had on this machine; the message says why and what helps."""


@dataclass(frozen=True, slots=True)
class Library:
    """The opened library, and what decides its layouts."""

    functions: ctypes.CDLL
    lanes: int
    """Floats in a vector register."""
    columns: int
    """Channels are padded to a multiple of this."""
    group: int
    """Output channels that a Winograd layer computes together."""


_LONG = {"vggnet_winograd_weights", "vggnet_winograd_memory", "vggnet_weight_gradient_memory"}
# The arguments of each function in kernels.cpp, a letter each.
_ARGUMENTS = {
    "vggnet_winograd_weights": "iii",
    "vggnet_transform_weights": "iipllllii" + "p",
    "vggnet_winograd_memory": "iiiii",
    "vggnet_winograd": "iip" + "iiiii" + "pppiiii" + "iip",
    "vggnet_weight_gradient_memory": "iiii",
    "vggnet_weight_gradient": "iip" + "iiiii" + "pii" + "pllll" + "ip",
    "vggnet_direct": "ip" + "iiii" + "pppiii",
    "vggnet_prepare": "ipi" + "llll" + "iiii" + "pip",
    "vggnet_relu": "ippil",
    "vggnet_pool": "ipiiiip",
    "vggnet_lrn": "ipiiiiifffp",
    "vggnet_windows": "ipiiiiiip",
    "vggnet_connected": "ipipppliii" + "pli",
    "vggnet_rectified": "ipiiiipip",
    "vggnet_connected_gradients": "ipppiiipp",
}
_TYPES = {"p": c_void_p, "i": c_int, "l": c_long, "f": c_float}


def available() -> bool:
    """Whether the kernels can be had; compiles them where they are not there yet."""
    try:
        library()
    except UnavailableError:
        return False
    return True


def library() -> Library:
    """The kernels, compiled if they are not in the cache.

    Raises:
        UnavailableError: without a compiler, where compiling fails, or where they are turned off.
    """
    if os.environ.get(OFF) == "0":
        raise UnavailableError(f"the kernels are turned off ({OFF}=0)")
    found = _opened()
    if isinstance(found, str):
        raise UnavailableError(found)
    return found


@cache
def _opened() -> Library | str:
    if sys.platform == "win32":
        return "the kernels are not written for Windows: PyTorch computes"
    try:
        return open_library(_built())
    except UnavailableError as error:
        return str(error)


def open_library(path: Path) -> Library:
    """Opens a compiled library.

    Raises:
        UnavailableError: when it cannot be opened.
    """
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        raise UnavailableError(f"the kernels cannot be opened: {error}") from None
    for name, letters in _ARGUMENTS.items():
        function = getattr(functions, name)
        function.argtypes = [_TYPES[letter] for letter in letters]
        function.restype = c_long if name in _LONG else None
    lanes, columns, group = c_int(), c_int(), c_int()
    functions.vggnet_sizes(ctypes.byref(lanes), ctypes.byref(columns), ctypes.byref(group))
    return Library(functions, lanes.value, columns.value, group.value)


def _built() -> Path:
    """The compiled library's file, which is made where it is not there."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise UnavailableError(
            "no C++ compiler, so PyTorch computes, at a fraction of the speed: install g++ or "
            "clang (Debian, Ubuntu: apt install g++; macOS: xcode-select --install)"
        )
    flags = (*_FLAGS, _native())
    folder = _private(cache_home() / "kernels")
    path = folder / f"{_key(compiler, flags)}.so"
    if not path.exists():
        with _alone(folder):
            if not path.exists():  # another process may have made it meanwhile
                compile_to(path, compiler, flags)
    return path


def compile_to(path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Compiles the sources into `path`, whole or not at all.

    Raises:
        UnavailableError: with what the compiler says.
    """
    if sys.stderr and sys.stderr.isatty():
        print("vggnet: compiling for this processor, once …", file=sys.stderr)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.so")
    command = [compiler, *flags, str(_SOURCES / "kernels.cpp"), "-o", str(temporary)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_SECONDS_TO_COMPILE
        )
        temporary.replace(path)
    except subprocess.CalledProcessError as error:
        wrong = [line for line in str(error.stderr).splitlines() if "error" in line]
        said = (wrong or str(error.stderr).splitlines() or ["no reason given"])[0]
        raise UnavailableError(f"{compiler} cannot compile the kernels: {said}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"the kernels cannot be compiled: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def compiler_and_flags() -> tuple[str, tuple[str, ...]]:
    """The compiler that is there, and what it is told."""
    return next(found for name in COMPILERS if (found := shutil.which(name))), (*_FLAGS, _native())


def _native() -> str:
    return "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """Names a library by all that it is made from: a home may be shared by several machines."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    found = hashlib.sha256(version)
    found.update(" ".join((compiler, *flags, processor())).encode())
    for source in sorted(_SOURCES.glob("*.[ch]pp")):
        found.update(source.read_bytes())
    return found.hexdigest()[:32]


def processor() -> str:
    """The processor's name and what instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {line.split(":")[0].strip(): line for line in lines if ":" in line}
    names = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    return "\n".join(told.get(name, "") for name in names)


def _private(folder: Path) -> Path:
    """The folder, made; another one where others could put a library of theirs into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        own = status.st_uid == os.getuid() and not status.st_mode & 0o022
        if own and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="vggnet-kernels-"))


class _alone:  # noqa: N801, a context manager
    """One process compiles; others wait for it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"

    def __enter__(self) -> None:
        import fcntl

        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()

"""Where vggnet keeps what it has found out about a user's data, and can find out again."""

import os
import tempfile
from pathlib import Path


def cache_home() -> Path:
    """The folder for such files: $VGGNET_CACHE, else vggnet/ in $XDG_CACHE_HOME or in ~/.cache.

    It need not exist, nor be writable: who cannot write there goes on without.
    """
    own = os.environ.get("VGGNET_CACHE")
    if own:
        return Path(os.path.expanduser(own))  # noqa: PTH111, Path's raises where there is no home
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if Path(shared).is_absolute():  # a relative one is to be ignored, as its specification says
        return Path(shared) / "vggnet"
    try:
        return Path.home() / ".cache" / "vggnet"
    except RuntimeError:  # a user whom the machine does not know, as in containers
        return Path(tempfile.gettempdir()) / "vggnet"

"""Memory in large pages, where the system has them: fewer addresses to look up."""

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

_PAGE = 4096
_WORTH_IT = 4 << 20
"""Bytes; below, a page of two megabytes is mostly waste."""


def in_large_pages(tensor: Tensor) -> Tensor:
    """The tensor, on a CPU, whose memory has been asked for but not written yet: Linux is told to
    give it pages of 2 MiB. Elsewhere, and where that is turned off, nothing happens."""
    bytes_of = tensor.numel() * tensor.element_size()
    advise = _advise()
    if advise is not None and tensor.device.type == "cpu" and bytes_of >= _WORTH_IT:
        start = -(-tensor.data_ptr() // _PAGE) * _PAGE
        end = (tensor.data_ptr() + bytes_of) // _PAGE * _PAGE
        advise(start, end - start, mmap.MADV_HUGEPAGE)
    return tensor


@cache
def _advise() -> Any:
    """The system's madvise."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function

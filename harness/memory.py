"""Memory: what was taken once is used again, instead of going back to the system.

Columns of millions of rows come and go all the time. The C library maps and unmaps each
by itself, and the kernel has to clear every page anew: a fifth of a validation.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools

# malloc.h of glibc; its limit for what is mapped apart is 32 MB
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
_NEVER = 2**31 - 1


@functools.cache
def keep() -> None:
    """Keep freed memory for what comes next; without glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)

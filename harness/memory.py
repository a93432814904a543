"""Memory: what was taken once is used again, instead of going back to the system.

Columns of millions of rows come and go all the time. The C library maps and unmaps each
by itself, and the kernel has to clear every page anew: a fifth of a validation. Nor do
they make cycles, or modules, which Python looks for among all objects again and again.
"""

from __future__ import annotations

import contextlib
import functools
import gc

# malloc.h of glibc; its limit for what is mapped apart is 32 MB
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
_NEVER = 2**31 - 1
_OBJECTS = 100_000  # made before cycles are looked for


def few_cycles() -> None:
    """Look for cycles seldom: there are few."""
    gc.set_threshold(_OBJECTS)


def no_more_cycles() -> None:
    """Look for no more of them: the process ends, and all goes with it."""
    gc.freeze()


@functools.cache
def keep() -> None:
    """Keep freed memory for what comes next; without glibc it goes back as ever."""
    import ctypes  # not where nothing is validated

    few_cycles()
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)

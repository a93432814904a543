"""Its: thunks that a kernel allocates for indirect branches at unsafe addresses.

On CPUs with ITS an indirect branch in the lower half of a cache line goes to a thunk in
the upper half of one. The kernel lays them one behind the other into pages, in the order
of the sites. How they lie in a page follows from that order; where the pages are, only
the machine knows: the first branch into each tells, and all others must go by it.

Source: its_allocate_thunk() and cpu_wants_indirect_its_thunk_at() of
arch/x86/kernel/alternative.c.
"""

from __future__ import annotations

from collections.abc import Callable

PAGE = 4096
_LINE, _HALF = 64, 32


def is_unsafe(branch: int, register: int) -> bool:
    """Whether an indirect branch at ``branch`` ends in the lower half of a line."""
    return not (branch + 1 + register // 8) & _HALF


class Thunks:
    """The thunks in the order in which they are made."""

    def __init__(self) -> None:
        self._bases: list[int | None] = []
        self._offset = PAGE

    def next(self, register: int, told: Callable[[], int]) -> int | None:
        """Return the address of the next thunk, for ``register``.

        ``told`` is where the site's branch goes in the machine's memory. None if the
        page that it is in is no page by what was told.
        """
        size = 3 + register // 8
        if self._offset + size - 1 >= PAGE:
            self._bases.append(None)
            self._offset = _HALF
            first = True
        else:
            first = False
        if (self._offset + size - 1) % _LINE < _HALF:
            self._offset = ((self._offset - 1) | (_LINE - 1)) + 1 + _HALF
        offset = self._offset
        self._offset += size
        if first:
            base = told() - offset
            self._bases[-1] = None if base % PAGE else base
        base_of = self._bases[-1]
        return None if base_of is None else base_of + offset

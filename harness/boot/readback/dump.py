"""Dump: the memory of a kernel in a dump of its machine.

Where page tables were walked (``paging`` of dump-guest-memory, /proc/vmcore) the kernel
is at its own addresses. Else it lies somewhere in physical memory, in one piece, at a
multiple of 2 MiB from where it is linked (phys_base): where its banner says that it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.elf.core import Core
from harness.elf.program import Program
from harness.errors import FormatError

_BANNER = "linux_banner"
_BANNER_BYTES = 128
_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map
_STEP = 2 << 20
RUNNING = 2  # enum system_states: from here on init memory may be free


class DumpMemory:
    """The memory of the kernel ``program`` in ``core``; writes stay in this object."""

    def __init__(self, core: Core, program: Program) -> None:
        """Find the kernel.

        Raises:
            FormatError: it is not in the dump.
        """
        self._core = core
        self._written: dict[int, int] = {}
        self._base = _find(core, program)
        at = program.symbols.find(_BANNER)
        assert at is not None  # it was found by it
        here = core.physical_of(at) if self._base is None else at + self._base
        self._phys_base = here - (at - _MAP)

    @property
    def phys_base(self) -> int:
        """How much further on it lies in physical memory than it is linked for."""
        return self._phys_base

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes, see :class:`harness.boot.readback.memory.Memory`."""
        data = self._raw(address, size)
        for at, byte in self._written.items():
            if address <= at < address + size:
                data[at - address] = byte
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Change it, in this object only."""
        self._written.update(enumerate(data, address))

    def _raw(self, address: int, size: int) -> bytearray:
        if self._base is None:
            data = self._core.read(address, size, physical=False)
        else:
            data = self._core.read(address + self._base, size, physical=True)
        if data is None:
            raise FormatError(
                f"{self._core.name} has not all of the {size} bytes at {address:#x}"
            )
        return bytearray(data)


def init_is_there(memory: DumpMemory, program: Program) -> bool:
    """Tell whether the kernel's init memory cannot have been freed yet."""
    state = program.symbols.find("system_state")
    return state is not None and memory.read(state, 4)[0] < RUNNING


def _find(core: Core, program: Program) -> int | None:
    """Return what to add to a virtual address for a physical one; None for nothing."""
    at = program.symbols.find(_BANNER)
    if at is None:
        raise FormatError(f"{program.name} has no symbol {_BANNER}")
    wanted = program.read(at, _BANNER_BYTES).tobytes()
    if core.read(at, _BANNER_BYTES, physical=False) == wanted:
        return None
    for base in _bases(core):
        if core.read(at - _MAP + base, _BANNER_BYTES, physical=True) == wanted:
            return base - _MAP
    raise FormatError(
        f"{core.name} has no kernel of {program.name} at the address it is linked at",
        hint="is this the vmlinux that ran, and ran it with nokaslr? A Xen domain's "
        "memory is scattered: dump it by its page tables (paging)",
    )


def _bases(core: Core) -> Iterator[int]:
    """Yield the values that phys_base may have in ``core``, the usual one first."""
    last = max((core.physical + core.size).tolist(), default=0)
    yield from range(0, last, _STEP)
    yield from range(-_STEP, -(16 << 20) - 1, -_STEP)  # linked at 16 MiB, loaded below

"""Registers: a stopped x86-64 vCPU's, as QEMU's gdbstub transfers them."""

from __future__ import annotations

import struct

from msgspec import Struct

from harness.errors import InfraError

_CORE = struct.Struct("<17QI6I9Q")
_CALLER_BYTES = 17 * 8 + 7 * 4 + 3 * 8  # up to k_gs_base


class Registers(Struct, frozen=True):
    """A stopped vCPU's registers, in the order of QEMU's i386-64bit.xml.

    ``rest`` is what follows them (FPU, SSE): it is sent back as it came.
    """

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rbp: int
    rsp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    eflags: int
    cs: int
    ss: int
    ds: int
    es: int
    fs: int
    gs: int
    fs_base: int
    gs_base: int
    k_gs_base: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int
    rest: bytes = b""

    @classmethod
    def parse(cls, blob: bytes) -> Registers:
        """Read the answer to ``g``.

        Raises:
            InfraError: it is too short to be an x86-64 vCPU's.
        """
        if len(blob) < _CORE.size:
            raise InfraError(
                f"gdbstub sent {len(blob)} bytes of registers, expected at least "
                f"{_CORE.size} (x86-64)"
            )
        return cls(*(*_CORE.unpack_from(blob), blob[_CORE.size :]))

    def pack(self) -> bytes:
        """Return what ``G`` takes: the inverse of :meth:`parse`."""
        return _CORE.pack(*(getattr(self, name) for name in _CORE_NAMES)) + self.rest

    def pack_without_control(self) -> bytes:
        """Return what ``G`` takes, up to the last segment base.

        QEMU leaves the rest alone; writing %cr3, even unchanged, empties its TLB.
        """
        return self.pack()[:_CALLER_BYTES]


_CORE_NAMES = Registers.__struct_fields__[:-1]

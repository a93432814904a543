"""Kaslr: how far from its linked address a running kernel is.

The guest is stopped again and again until it is in text whose banner is the kernel's;
the slide is a multiple of 2 MiB (CONFIG_PHYSICAL_ALIGN) below 1 GiB.
"""

from __future__ import annotations

import time

from harness.boot.gdb import Gdb
from harness.elf.program import Program
from harness.errors import FormatError, InfraError

POLL_S = 0.02
STEP, LIMIT = 2 << 20, 1 << 30
BANNER_BYTES = 128


def find_slide(gdb: Gdb, program: Program, timeout_s: float) -> int:
    """Let the guest run from reset until its kernel is seen; return its slide.

    It is left stopped.

    Raises:
        InfraError: it was not seen within ``timeout_s``.
    """
    names = ("linux_banner", "_stext", "_etext")
    banner, first, last = (_required(program, name) for name in names)
    wanted = program.read(banner, BANNER_BYTES).tobytes()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        gdb.run_for(POLL_S)
        rip = gdb.registers().rip
        for slide in range(0, LIMIT, STEP):
            if not first <= rip - slide < last:
                continue
            if gdb.read_or_none(banner + slide, BANNER_BYTES) == wanted:
                return slide
    raise InfraError(f"no kernel of {program.name} was seen within {timeout_s:g} s")


def _required(program: Program, name: str) -> int:
    address = program.symbols.find(name)
    if address is None:
        raise FormatError(f"{program.name} has no symbol {name}")
    return address

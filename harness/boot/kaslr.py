"""Kaslr: how far from its linked address a running kernel is.

Its banner lies as far behind its linked address as its text does: a multiple of 2 MiB
(CONFIG_PHYSICAL_ALIGN).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from harness.boot.gdb import Gdb
from harness.elf.program import Program
from harness.errors import FormatError, InfraError

STEP = 2 << 20
IMAGE_SIZE = 1 << 30  # KERNEL_IMAGE_SIZE, all that it can move in
BANNER_BYTES = 128  # release, compiler and build number


def slides(begin: int, end: int, rip: int) -> Iterator[int]:
    """Yield by how much text at [begin, end) may have moved to have ``rip`` in it."""
    least = max(rip - end + 1, 0)
    yield from range(-(-least // STEP) * STEP, rip - begin + 1, STEP)


def moved_by(gdb: Gdb, linked: Program, begin: int, end: int, rip: int) -> int | None:
    """Return the slide of a kernel stopped at ``rip``; None if it is not this one.

    It is looked for where its text is linked to, [begin, end).
    """
    banner = required(linked, "linux_banner")
    wanted = linked.read(banner, BANNER_BYTES).tobytes()
    for slide in slides(begin, end, rip):
        if gdb.read_or_none(banner + slide, BANNER_BYTES) == wanted:
            return slide
    return None


def run_to_start(gdb: Gdb, program: Program, timeout_s: float) -> int:
    """Let the guest run from reset to start_kernel(), wherever it is; return its slide.

    It is left stopped, without breakpoints. With one for each slide it runs slowly, but
    goes no further, however busy the host is.

    Raises:
        GdbTimeout: it did not get there within ``timeout_s``.
    """
    start = required(program, "start_kernel")
    places = range(start, start + IMAGE_SIZE - start % IMAGE_SIZE, STEP)
    gdb.insert_breakpoints(places)
    gdb.cont()
    gdb.wait(timeout_s)
    gdb.remove_breakpoints(places)
    return gdb.registers().rip - start


def find_slide(gdb: Gdb, program: Program, timeout_s: float) -> int:
    """Let the guest run from reset until its kernel is seen; return its slide.

    It is left stopped.

    Raises:
        InfraError: it was not seen within ``timeout_s``.
    """
    # init text, too: early on little else is executed
    begin, end = (required(program, name) for name in ("_stext", "_einittext"))
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        gdb.run_for(gdb.poll_s)
        for number, registers in enumerate(gdb.vcpus()):
            gdb.select(number)  # the others wait to be started
            slide = moved_by(gdb, program, begin, end, registers.rip)
            if slide is not None:
                return slide
    raise InfraError(f"no kernel of {program.name} was seen within {timeout_s:g} s")


def required(program: Program, name: str) -> int:
    """Return where ``name`` is linked to.

    Raises:
        FormatError: the program has no such symbol.
    """
    if (address := program.symbols.find(name)) is None:
        raise FormatError(
            f"{program.name} has no symbol {name}",
            hint="the probe needs a vmlinux with its symbols",
        )
    return address

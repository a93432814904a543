"""The memory of a kernel in a dump of its machine."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from harness.boot.readback.dump import DumpMemory, init_is_there
from harness.elf.core import Core, parse_core
from harness.elf.program import Program
from harness.errors import FormatError
from tests.builders.corefile import corefile
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, OBJECT, ElfWriter

TEXT = 0xFFFFFFFF81000000
LINKED = 0x1000000  # physical address that TEXT is linked for
BANNER = b"Linux version 6.12.0-test (x@y)\n\0".ljust(128, b"\0")


def a_kernel(state: int = 0) -> Program:
    """A page: the banner, system_state, and a byte of text."""
    writer = ElfWriter(ET_EXEC)
    data = BANNER + struct.pack("<I", state) + b"\x90" * 16
    text = writer.section(".text", data, flags=ALLOC | EXEC, address=TEXT)
    writer.symbol("linux_banner", text, TEXT, 128, OBJECT)
    writer.symbol("system_state", text, TEXT + 128, 4, OBJECT)
    return writer.program("vmlinux")


def core_of(*segments: tuple[int, int, bytes]) -> Core:
    """A dump of ``segments``."""
    return parse_core(np.frombuffer(corefile(segments), np.uint8), "vmcore")


def dumped(kernel: Program) -> bytes:
    """What ``kernel`` has in memory."""
    return kernel.sections[0].data.tobytes()


@pytest.mark.parametrize("physical", [LINKED, LINKED + (6 << 20), LINKED - (2 << 20)])
def test_a_kernel_is_found_wherever_it_was_loaded(physical: int) -> None:
    """At a multiple of 2 MiB, below where it is linked for, too."""
    kernel = a_kernel()
    memory = DumpMemory(core_of((0, physical, dumped(kernel))), kernel)
    assert memory.read(TEXT + 132, 2) == b"\x90\x90"
    assert memory.phys_base == physical - LINKED


def test_a_dump_by_page_tables_has_the_kernels_own_addresses() -> None:
    """Physical addresses do not matter then: a Xen domain's are scattered."""
    kernel = a_kernel()
    memory = DumpMemory(core_of((TEXT, 0x123000, dumped(kernel))), kernel)
    assert memory.read(TEXT, 5) == b"Linux"
    assert memory.phys_base == 0x123000 - LINKED


def test_writes_stay_in_the_reader() -> None:
    """A dump is an input: it is never changed."""
    kernel = a_kernel()
    core = core_of((TEXT, 0, dumped(kernel)))
    memory = DumpMemory(core, kernel)
    memory.write(TEXT + 1, b"O")
    assert memory.read(TEXT, 4) == b"LOnu"
    assert DumpMemory(core, kernel).read(TEXT, 4) == b"Linu"


def test_another_kernel_is_a_clear_error() -> None:
    """Not hundreds of thousands of findings."""
    other = b"Linux version 5.10".ljust(256, b"\0")
    with pytest.raises(FormatError, match="no kernel of vmlinux") as caught:
        DumpMemory(core_of((0, LINKED, other)), a_kernel())
    assert "nokaslr" in (caught.value.hint or "")


def test_memory_that_was_left_out_is_a_clear_error() -> None:
    """makedumpfile can leave pages out."""
    kernel = a_kernel()
    memory = DumpMemory(core_of((TEXT, 0, dumped(kernel)[:140])), kernel)
    with pytest.raises(FormatError, match="has not all of the 16 bytes"):
        memory.read(TEXT + 132, 16)


@pytest.mark.parametrize(("state", "there"), [(0, True), (1, True), (2, False)])
def test_init_memory_is_there_until_it_may_be_freed(state: int, there: bool) -> None:
    """enum system_states."""
    kernel = a_kernel(state)
    memory = DumpMemory(core_of((TEXT, 0, dumped(kernel))), kernel)
    assert init_is_there(memory, kernel) == there

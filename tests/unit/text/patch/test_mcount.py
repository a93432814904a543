"""Calls of __fentry__."""

from __future__ import annotations

import struct

from harness.text.patch.mcount import mcount_nops
from harness.text.patch.nops import NOPS
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter
from tests.builders.running import TEXT, Kernel


def test_become_the_nop_of_five_bytes() -> None:
    """What objtool has made a NOP already stays one."""
    writer = ElfWriter(ET_EXEC)
    code = b"\xe8\x00\x00\x00\x00\xc3\xcc\xcc" + NOPS[5] + b"\xc3"
    writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    places = struct.pack("<QQQ", TEXT, TEXT + 8, 0)
    writer.section("__mcount_loc", places, address=TEXT + 0x1000)
    edits = mcount_nops(writer.program("vmlinux"), Kernel().said())
    assert edits is not None
    assert edits.address.tolist() == [TEXT, TEXT + 8]
    assert [row.tobytes() for row in edits.code] == [NOPS[5], NOPS[5]]


def test_a_kernel_without_ftrace_has_no_such_step() -> None:
    """No table, no edit."""
    kernel = Kernel()
    assert mcount_nops(kernel.linked(), kernel.said()) is None

"""Where a kernel keeps its CPU's features."""

from __future__ import annotations

import struct

import pytest

from harness.elf.alternative import parse_alternatives
from harness.elf.program import Program
from harness.errors import FormatError
from harness.text.patch.capability import find_capability
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    Alternative,
    ElfWriter,
)
from tests.builders.running import TABLES, TEXT, near
from tests.builders.site import ALWAYS

AUX, CAPABILITY = TEXT + 0x8000, TEXT + 0x9000


def kernel_testing(bits: list[tuple[int, int]], *, absolute: bool = False) -> Program:
    """A kernel with a test of each (bit, where its array begins)."""
    writer = ElfWriter(ET_EXEC)
    text, aux, table = b"", b"", b""
    for bit, base in bits:
        site, test = TEXT + len(text), AUX + len(aux)
        text += near(b"\xe9", site, test) + b"\xc3"
        byte, mask = base + bit // 8, 1 << bit % 8
        if absolute:
            aux += b"\xf6\x04\x25" + struct.pack("<i", byte - (1 << 64)) + bytes([mask])
        else:
            aux += b"\xf6\x05" + struct.pack("<i", byte - test - 7) + bytes([mask])
        for cpuid in (ALWAYS, bit):
            at = TABLES + len(table)
            row = Alternative(0, 0, cpuid, 5, 0)
            table += struct.pack("<ii", site - at, 0) + row.pack(14)[8:]
    writer.section(".text", text, flags=ALLOC | EXEC, address=TEXT)
    writer.section(".altinstr_aux", aux, flags=ALLOC | EXEC, address=AUX)
    writer.section(".altinstructions", table, address=TABLES)
    return writer.program("vmlinux")


def found(program: Program) -> int:
    """What is found there."""
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    return find_capability(program, alternatives)


@pytest.mark.parametrize("absolute", [False, True])
def test_is_told_by_the_tests_of_single_bits(absolute: bool) -> None:
    """Each test names a byte and a bit of it: both say where the array begins."""
    bits = [(9 * 32 + 20, CAPABILITY), (4 * 32 + 31, CAPABILITY), (5, CAPABILITY)]
    assert found(kernel_testing(bits, absolute=absolute)) == CAPABILITY


def test_tests_must_agree() -> None:
    """One test that names another array is no kernel that we know."""
    with pytest.raises(FormatError, match="do not agree"):
        found(kernel_testing([(40, CAPABILITY), (41, CAPABILITY + 64)]))


def test_a_kernel_without_tests_does_not_tell() -> None:
    """Nothing is guessed."""
    with pytest.raises(FormatError, match="tests none"):
        found(kernel_testing([(ALWAYS, CAPABILITY)]))

"""Flow: small linked kernels whose text is right or wrong in one place."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.edges.doubt import Rule
from harness.verify.edges.flow import check_flow
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter, add_orc, call

TEXT = 0xFFFF_FFFF_8100_0000
TABLE = TEXT + 0x10_0000  # where side tables are
RODATA = TEXT + 0x20_0000
_ORC = TEXT + 0x30_0000

ONE = [("f", 0, 0x20)]  # the symbols of a kernel that is one function
IN, PUSHED = call(8), call(16)
FRAME = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)

Rows = Sequence[tuple[int, OrcEntry]]


def kernel(
    code: str,
    rows: Rows,
    symbols: Sequence[tuple[str, int, int]],
    sections: Sequence[tuple[str, bytes, int]] = (),
) -> Program:
    """Return a kernel with ``code``, ORC entries and functions (name, offset, size).

    ``sections`` are (name, bytes, address) of side tables and data.
    """
    writer = ElfWriter(ET_EXEC)
    data = bytes.fromhex(code)
    text = writer.section(".text", data, flags=ALLOC | EXEC, address=TEXT)
    for name, at, size in symbols:
        writer.symbol(name, text, TEXT + at, size)
    for name, content, address in sections:
        writer.section(name, content, address=address)
    add_orc(writer, text, rows, address=_ORC)
    return writer.program("vmlinux")


def columns_of(program: Program) -> Columns:
    """Return the columns of a program that carries ORC."""
    columns = read_columns(program, Features({}, 0, "test"))
    assert columns is not None
    return columns


def flow(program: Program) -> Part:
    """Check the edges of ``program`` and nothing else."""
    return check_flow(columns_of(program))


def rules(program: Program) -> list[str]:
    """Return rule and place of each finding about edges."""
    found = (f for f in flow(program).findings if f.rule != Rule.ORPHAN)
    return sorted(f"{f.rule} {f.location}" for f in found)


def orphans(program: Program) -> list[str]:
    """Return each place to which no edge leads."""
    found = (f for f in flow(program).findings if f.rule == Rule.ORPHAN)
    return sorted(str(f.location) for f in found)


def relative(at: int, *targets: int) -> bytes:
    """Return s32 offsets in .text as fields of a table at address ``at``."""
    return b"".join(
        struct.pack("<i", TEXT + target - (at + 4 * n))
        for n, target in enumerate(targets)
    )


def ex_table(*pairs: tuple[int, int]) -> tuple[str, bytes, int]:
    """Exceptions, (instruction, fixup) offsets."""
    data = b""
    for insn, fixup in pairs:
        data += relative(TABLE + len(data), insn, fixup) + bytes(4)
    return "__ex_table", data, TABLE

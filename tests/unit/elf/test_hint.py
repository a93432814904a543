"""Unwind hints of assembly code."""

from __future__ import annotations

import struct

import pytest

from harness.elf.hint import HintType, UnwindHints, parse_hints
from harness.elf.orc import OrcFormat, OrcReg, parse_orc
from harness.errors import FormatError
from tests.builders.elfwriter import ALLOC, EXEC, R_PC32, ElfWriter, add_orc, call

SP = {OrcFormat.V1A: 5, OrcFormat.V1B: 5, OrcFormat.V3: 5, OrcFormat.V4: 3}


def _hints(
    orc_format: OrcFormat, types: list[int], size: int = 12, relocate: bool = True
) -> UnwindHints | None:
    writer = ElfWriter()
    text = writer.section(".text", bytes(64), flags=ALLOC | EXEC)
    add_orc(writer, text, [(i, call(8 + 8 * i, -16)) for i in range(8)], orc_format)
    data = b"".join(
        struct.pack("<ihBB", 0, 8 * i, SP[orc_format], kind) + b"\1\0\0\0"[: size - 8]
        for i, kind in enumerate(types)
    )
    section = writer.section(".discard.unwind_hints", data, flags=0)
    symbol = writer.symbol("text", text)
    for i in range(len(types) if relocate else 0):
        writer.relocation(section, i * size, R_PC32, symbol, 4 * i)
    program = writer.program()
    table = parse_orc(program)
    assert table is not None
    return parse_hints(program, table)


@pytest.mark.parametrize("orc_format", [OrcFormat.V3, OrcFormat.V4])
def test_hints_are_read_in_canonical_numbers(orc_format: OrcFormat) -> None:
    """Registers follow the object's ORC format."""
    hints = _hints(orc_format, [2, 5, 4])
    assert hints is not None
    assert (hints.ip - hints.ip[0]).tolist() == [0, 4, 8]
    assert hints.sp_offset.tolist() == [0, 8, 16]
    assert hints.sp_reg.tolist() == [OrcReg.SP] * 3
    assert hints.type.tolist() == [
        HintType.CALL,
        HintType.FUNC,
        HintType.REGS_PARTIAL,
    ]
    assert hints.signal.tolist() == [True] * 3


def test_old_hints_tell_less() -> None:
    """Up to 4.18 entries have 8 bytes; numbers from 3 up changed meaning."""
    hints = _hints(OrcFormat.V1B, [0, 1, 2, 3], size=8)
    assert hints is not None
    assert hints.type.tolist() == [
        HintType.CALL,
        HintType.REGS,
        HintType.REGS_PARTIAL,
        HintType.OTHER,
    ]
    assert hints.raw_type.tolist() == [0, 1, 2, 3]
    assert not hints.signal.any()


def test_an_object_without_hints_is_none() -> None:
    """C code has none."""
    assert _hints(OrcFormat.V3, []) is None


def test_nonsense_is_refused() -> None:
    """Hints for places that are not code are damage."""
    with pytest.raises(FormatError, match="entries of 8 or 12 make no sense"):
        _hints(OrcFormat.V3, [2, 2], relocate=False)

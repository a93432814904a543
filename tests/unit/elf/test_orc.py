"""ORC tables of every layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.elf.orc import (
    ILLEGAL,
    OrcEntry,
    OrcFormat,
    OrcReg,
    OrcTable,
    OrcType,
    canonical_registers,
    describe,
    pack,
    parse_orc,
    unpack,
)
from harness.elf.program import Program
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    END,
    ET_EXEC,
    EXEC,
    ORC_HEADERS,
    UND,
    ElfWriter,
    add_orc,
    call,
    regs,
)

TEXT = 0xFFFF_FFFF_8100_0000
BP_BASED = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
DRAP = OrcEntry(-8, 0, OrcReg.BP_INDIRECT, OrcReg.BP, OrcType.CALL, False)
ON_STACK = OrcEntry(0, 0, OrcReg.SP_INDIRECT, OrcReg.UNDEFINED, OrcType.CALL, False)
NMI = OrcEntry(8, 0, OrcReg.DX, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, True)

# What a piece of real code looks like: mostly calls with RBP saved.
ROWS = [
    (0, END),
    (2, regs()),
    (4, regs(8, partial=True)),
    (6, NMI),
    (8, UND),
    *((10 + i, call(16 + 8 * i, -16)) for i in range(20)),
    (40, BP_BASED),
    (42, DRAP),
    (44, ON_STACK),
    (46, call()),
    (60, UND),
]


def _program(
    orc_format: OrcFormat,
    rows: list[tuple[int, OrcEntry]] = ROWS,
    header: bytes | None = None,
    linked: bool = False,
) -> Program:
    writer = ElfWriter(ET_EXEC if linked else 1)
    code = writer.section(
        ".text", b"\x90" * 64, flags=ALLOC | EXEC, address=TEXT if linked else 0
    )
    address = TEXT + 0x1000 if linked else 0
    add_orc(writer, code, rows, orc_format, header=header, address=address)
    return writer.program()


def _table(program: Program) -> OrcTable:
    table = parse_orc(program)
    assert table is not None
    return table


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("orc_format", sorted(OrcFormat))
def test_every_layout_reads_the_same(orc_format: OrcFormat, linked: bool) -> None:
    """One table, written in five layouts, gives equal columns."""
    table = _table(_program(orc_format, linked=linked))
    assert table.format is (
        # An object without ends of stacks may be either, and reads the same.
        OrcFormat.V1B if orc_format is OrcFormat.V1A and not linked else orc_format
    )
    assert table.from_header == (orc_format in ORC_HEADERS)
    expected = [entry for _, entry in ROWS]
    if orc_format is OrcFormat.V1A:  # which had no end of stack
        expected[0] = UND
    assert [unpack(state) for state in table.state.tolist()] == expected
    text = _program(orc_format, linked=linked).section(".text")
    assert text is not None
    assert (table.ip - np.uint64(text.address)).tolist() == [at for at, _ in ROWS]
    assert not table.illegal.any()


@pytest.mark.parametrize("orc_format", [OrcFormat.V3, OrcFormat.V4])
def test_without_a_header_the_entries_tell(orc_format: OrcFormat) -> None:
    """A vendor kernel may have the new layout and no .orc_header."""
    table = _table(_program(orc_format, header=b""))
    assert (table.format, table.from_header) == (orc_format, False)


@pytest.mark.parametrize("orc_format", [OrcFormat.V2, OrcFormat.V3, OrcFormat.V4])
def test_assembly_without_calls_is_told_apart_too(orc_format: OrcFormat) -> None:
    """Register frames only: type codes and registers still decide."""
    rows = [(i, regs(8 * i)) for i in range(20)]
    table = _table(_program(orc_format, rows, header=b""))
    assert table.format is orc_format
    assert [unpack(state) for state in table.state.tolist()] == [e for _, e in rows]


REAL = st.sampled_from([call(8), call(16), call(24, -16), call(64, -24), regs(), UND])


@pytest.mark.parametrize("orc_format", sorted(OrcFormat))
@given(entries=st.lists(REAL, max_size=30))
def test_entries_of_real_code_always_tell(
    orc_format: OrcFormat, entries: list[OrcEntry]
) -> None:
    """However few there are, they read as what was written, without a header."""
    rows = list(enumerate([call(), *entries]))
    table = _table(_program(orc_format, rows, header=b""))
    assert [unpack(state) for state in table.state.tolist()] == [e for _, e in rows]


def test_an_object_without_orc_is_none() -> None:
    """No sections, or empty ones, are no error."""
    writer = ElfWriter()
    writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    assert parse_orc(writer.program()) is None
    assert parse_orc(_program(OrcFormat.V3, [])) is None


@pytest.mark.parametrize(
    ("ips", "entries", "header", "message"),
    [
        (b"", None, None, "has .orc_unwind_ip but no .orc_unwind"),
        (None, bytes(6), None, "has .orc_unwind but no .orc_unwind_ip"),
        (bytes(8), bytes(6), None, "1 entries, .orc_unwind_ip has 2"),
        (bytes(4), bytes(7), None, "7 bytes of 7, expected a multiple of 6"),
        (bytes(5), bytes(6), None, "5 bytes of 5, expected a multiple of 4"),
        (bytes(4), bytes(6), b"\x12" * 20, "unknown ORC layout 12121212"),
        (bytes(4), bytes(6), b"\x01", "unknown ORC layout 01,"),
        (bytes(4), b"\xff" * 6, None, "fit no known layout: 1 of 1"),
    ],
)
def test_inconsistent_tables_are_refused(
    ips: bytes | None, entries: bytes | None, header: bytes | None, message: str
) -> None:
    """The message tells both sides of the disagreement."""
    writer = ElfWriter()
    writer.section(".text", bytes(16), flags=ALLOC | EXEC)
    for name, data in (
        (".orc_unwind_ip", ips),
        (".orc_unwind", entries),
        (".orc_header", header),
    ):
        if data is not None:
            writer.section(name, data)
    with pytest.raises(FormatError, match=message):
        parse_orc(writer.program())


def test_a_header_that_lies_is_refused() -> None:
    """v3 entries below a v4 header would read SP as DI; that is not swallowed."""
    with pytest.raises(FormatError, match=r"says v4, but \d+ of 30 entries cannot"):
        parse_orc(_program(OrcFormat.V3, header=ORC_HEADERS[OrcFormat.V4]))


def test_single_bad_entries_are_kept_for_judgement() -> None:
    """A few illegal codes are the kernel's fault: they are marked, not refused."""
    rows = [(i, call(8 * i + 8, -16)) for i in range(40)]
    rows[7] = (7, OrcEntry(8, 0, 13, OrcReg.UNDEFINED, OrcType.CALL, False))
    rows[9] = (9, OrcEntry(8, 0, OrcReg.SP, OrcReg.UNDEFINED, 6, False))
    table = _table(_program(OrcFormat.V3, rows))
    assert np.flatnonzero(table.illegal).tolist() == [7, 9]
    assert (table.sp_reg[7], table.type[9]) == (ILLEGAL, ILLEGAL)


def test_lookup_order_puts_terminators_before_their_equals() -> None:
    """The entry with a state wins at an address that has two."""
    rows = [(32, call(24)), (32, UND), (0, call()), (16, call(16))]
    table = _table(_program(OrcFormat.V3, rows)).sorted()
    assert [describe(s) for s in table.state.tolist()] == [
        "sp+8 call",
        "sp+16 call",
        "(und)",
        "sp+24 call",
    ]
    base = table.ip[0]
    addresses = base + np.array([0, 15, 16, 40], dtype=np.uint64)
    assert table.find(addresses).tolist() == [0, 0, 1, 3]
    assert table.find(base[None] - np.uint64(1)).tolist() == [-1]


ENTRIES = st.builds(
    OrcEntry,
    sp_offset=st.integers(-0x8000, 0x7FFF),
    bp_offset=st.integers(-0x8000, 0x7FFF),
    sp_reg=st.integers(0, 15),
    bp_reg=st.integers(0, 15),
    type=st.integers(0, 15),
    signal=st.booleans(),
)


@given(ENTRIES)
def test_states_pack_without_loss(entry: OrcEntry) -> None:
    """Equal numbers mean equal entries, whatever they hold."""
    assert unpack(pack(entry)) == entry
    assert describe(pack(entry))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (UND, "(und)"),
        (END, "end"),
        (call(), "sp+8 call"),
        (call(16, -16), "sp+16 call bp:prevsp-16"),
        (regs(), "sp+0 regs"),
        (NMI, "dx+8 regs(partial)"),
        (BP_BASED, "bp+16 call bp:prevsp-16"),
        (DRAP, "(bp-8) call bp:bp+0"),
        (ON_STACK, "(sp)+0 call"),
        (OrcEntry(8, 0, OrcReg.SP, 0, OrcType.REGS, False), "sp+8 regs signal:0"),
        (OrcEntry(8, 0, OrcReg.SP, 0, OrcType.CALL, True), "sp+8 call signal:1"),
        (OrcEntry(8, 0, ILLEGAL, 0, ILLEGAL, False), "reg15+8 type:15"),
    ],
)
def test_states_are_said_as_objtool_does(entry: OrcEntry, text: str) -> None:
    """The vocabulary is that of objtool's dump."""
    assert describe(pack(entry)) == text


def test_register_codes_are_translated_by_format() -> None:
    """Code 3 is DI up to 7.0 and SP since 7.1; 15 never was anything."""
    codes = np.array([3, 5, 8, 15, 200], dtype=np.uint8)
    assert canonical_registers(OrcFormat.V3, codes).tolist() == [3, 5, 8, 15, 15]
    assert canonical_registers(OrcFormat.V4, codes).tolist() == [5, 3, 1, 15, 15]

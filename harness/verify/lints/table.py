"""Table: lints of the ORC table itself, without any execution."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from harness.elf.column import among, distinct
from harness.elf.orc import (
    WITHOUT_OFFSET,
    OrcFormat,
    OrcReg,
    OrcTable,
    OrcType,
    describe,
    offset_ignored,
)
from harness.elf.program import Program
from harness.elf.symbol import STT_OBJECT
from harness.finding import Finding, Lines
from harness.text.insn import I64, U64
from harness.verify.columns import Columns, Part
from harness.verify.edges.wholesale import CAUSE

_AROUND = 4  # entries shown on each side of a bad one
_MANY = 1000  # entries, none of which is looked at by itself
_ENOUGH = 20  # frames of interrupts, from which on they tell whose bit was lost


class Rule(enum.StrEnum):
    """Ids of the findings about the table."""

    ORDER = "table/order"
    DUPLICATE = "table/duplicate"
    FIELD = "table/field"
    OFFSET = "table/offset"
    SIGNAL = "table/signal"
    TERMINATOR = "table/terminator"
    BOUNDARY = "table/boundary"
    TEXT = "table/text"


def check_table(columns: Columns) -> Part:
    """Lint the table: order, duplicates, fields, terminators, entries off boundaries.

    A linked kernel ships its table sorted (scripts/sorttable since 5.6, f14bf6a350df);
    older ones and modules sort when they boot or load, so order counts only where
    the table is all but sorted.
    """
    program, table = columns.program, columns.table
    ordered = table.sorted()
    findings = (
        *_order(program, table),
        *_duplicates(program, ordered),
        *_fields(program, ordered),
        *_offsets(program, ordered),
        *_signals(program, ordered),
        *_terminators(program, ordered),
        *_off_boundary(columns, ordered),
    )
    return Part(findings, notes=tuple(_notes(program, table, ordered)))


def _notes(program: Program, table: OrcTable, ordered: OrcTable) -> Iterator[str]:
    if not program.relocatable and not ships_sorted(program, table):
        yield "the table is sorted by the kernel when it boots"
    if equal := int((ordered.state[1:] == ordered.state[:-1]).sum()):
        yield f"{equal} entries repeat the one before"


def ships_sorted(program: Program, table: OrcTable) -> bool:
    """Whether somebody sorted the table at build time.

    Kernels that write the layouts of 6.3 and later all link with sorttable. Of an
    older one the table tells: unsorted it is in the order in which objtool met the
    sections and goes back many times, spoilt it goes back once or twice.
    """
    if program.relocatable:
        return False
    if table.format not in (OrcFormat.V1A, OrcFormat.V1B):
        return True
    back = int((table.ip[1:] < table.ip[:-1]).sum())
    return back * 100 <= len(table)


def _order(program: Program, table: OrcTable) -> Iterator[Finding]:
    if not ships_sorted(program, table):
        return
    yield from _each(
        program,
        table,
        np.flatnonzero(table.ip[1:] < table.ip[:-1]) + 1,
        Rule.ORDER,
        "the entry lies before the one that precedes it: lookups miss it",
    )


def _duplicates(program: Program, table: OrcTable) -> Iterator[Finding]:
    """Two entries of one address; that of a terminator and what follows is legal."""
    same = table.ip[1:] == table.ip[:-1]
    live = table.type != OrcType.UNDEFINED
    both = same & (live[1:] == live[:-1])
    # two sections without code between them end at one address
    both &= live[1:]
    yield from _each(
        program,
        table,
        np.flatnonzero(both) + 1,
        Rule.DUPLICATE,
        "two entries for one address: which one holds is left to the sort",
    )


def _fields(program: Program, table: OrcTable) -> Iterator[Finding]:
    """Codes that the format does not have, and what contradicts itself.

    A frame based on what it leads to, an interrupt (``signal``) without its frame,
    an interrupt's frame with %rbp elsewhere than among its registers.
    """
    interrupted = _interrupted(table)
    bad = table.illegal | (table.sp_reg == OrcReg.PREV_SP)
    bad |= table.signal & ~interrupted
    bad |= interrupted & (table.bp_reg != OrcReg.UNDEFINED)
    yield from _each(
        program,
        table,
        np.flatnonzero(bad),
        Rule.FIELD,
        "the entry's fields make no sense (flags {flags:#06x})",
    )


def _offsets(program: Program, table: OrcTable) -> Iterator[Finding]:
    """Offsets from a register to which the unwinder adds none."""
    base = np.isin(table.sp_reg, [*WITHOUT_OFFSET])
    message = "the unwinder takes the register for the frame, without the offset"
    rows = np.flatnonzero(base & (table.sp_offset != 0) & ~table.illegal)
    for finding in _each(program, table, rows, Rule.OFFSET, message):
        cause = finding.cause or offset_ignored(finding.declared)
        yield replace(finding, cause=cause)


def _interrupted(table: OrcTable) -> npt.NDArray[np.bool_]:
    return np.isin(table.type, (OrcType.REGS, OrcType.REGS_PARTIAL))


def _signals(program: Program, table: OrcTable) -> Iterator[Finding]:
    """The bit that tells an interrupted place from a return address, lost wholesale.

    Of all vectors only #BP goes without it, whose saved address is that of the next
    instruction. A few entries say so in any kernel, never most of them.
    """
    frames = np.flatnonzero(_interrupted(table))
    lost = frames[~table.signal[frames]]
    if len(frames) < _ENOUGH or len(lost) * 2 <= len(frames):
        return
    message = (
        f"{len(lost)} of {len(frames)} frames of interrupts are looked up as a call's"
    )
    finding = _finding(program, table, int(lost[0]), Rule.SIGNAL, message)
    yield replace(finding, cause="signal", occurrences=len(lost))


def _ends(program: Program) -> U64:
    return np.array(sorted({s.end for s in program.executable}), np.uint64)


def _terminators(program: Program, table: OrcTable) -> Iterator[Finding]:
    """Each section that has entries must not lend its last one to what follows.

    In a linked kernel the sections of the objects are joined: only the end of what
    was joined can be checked.
    """
    covered = program.sections_at(table.ip)
    for index in distinct(covered[covered >= 0]).tolist():
        section = program.sections[index]
        if not section.executable:
            continue
        row = int(table.find(np.array([section.end], np.uint64))[0])
        holds = int(table.type[row])
        follows = program.section_at(section.end)
        own = follows is not None and follows.executable
        if holds != OrcType.UNDEFINED and not (
            own and int(table.ip[row]) == section.end
        ):
            yield _finding(
                program,
                table,
                row,
                Rule.TERMINATOR,
                f"nothing ends the table at the end of {section.name}",
            )


def _off_boundary(columns: Columns, table: OrcTable) -> Iterator[Finding]:
    """Entries that start where no instruction of any text does.

    A boundary of a replacement only is legal inside a site.
    """
    program, streams = columns.program, columns.streams
    off = np.flatnonzero(columns.index(table.ip) < 0)
    off = off[~among(table.ip[off], _ends(program))]
    if streams is not None and len(off):
        off = off[~among(table.ip[off], streams.insns.address)]
    if not len(off):
        return
    code = _may_be_code(program, table.ip[off])
    inside = columns.insns.covering(table.ip[off]) >= 0
    yield from _each(
        program, table, off[~code], Rule.TEXT, "the entry is for no code at all"
    )
    yield from _each(
        program,
        table,
        off[code & inside],
        Rule.BOUNDARY,
        "the entry starts in the middle of an instruction",
    )


def _may_be_code(program: Program, addresses: U64) -> npt.NDArray[np.bool_]:
    """Places in a section of code, or behind a label that is no object.

    Since 6.14 relocate_kernel() lies in .data (vmlinux.lds.S).
    """
    symbols = program.symbols
    code = program.in_code(addresses)
    mapped = program.sections_at(addresses) >= 0
    for at in np.flatnonzero(mapped & ~code).tolist():
        index = symbols.index(int(addresses[at]))
        code[at] = index >= 0 and int(symbols.kind[index]) != STT_OBJECT
    return code


def _each(
    program: Program, table: OrcTable, rows: I64, rule: Rule, message: str
) -> Iterator[Finding]:
    """Yield a finding for each of ``rows``; one for all of them where they are many.

    ``message`` may tell the ``flags`` of an entry.
    """
    many = len(rows) > _MANY
    for row in rows[: 1 if many else None].tolist():
        text = message.format(flags=int(table.raw[row]))
        finding = _finding(program, table, row, rule, text)
        count = len(rows) if many else 1
        yield replace(finding, cause=CAUSE if many else "", occurrences=count)


def _finding(
    program: Program, table: OrcTable, row: int, rule: Rule, message: str
) -> Finding:
    return Finding(
        rule=rule.value,
        location=program.location(int(table.ip[row])),
        message=message,
        declared=describe(table.one(row)),
        window=Lines(lambda: _around(program, table, row)),
    )


def _around(program: Program, table: OrcTable, row: int) -> Iterator[str]:
    first, last = max(0, row - _AROUND), min(len(table), row + _AROUND + 1)
    for at in range(first, last):
        address = int(table.ip[at])
        mark = "->" if at == row else "  "
        place = str(program.location(address))
        yield f"{mark} {address:#x} {place:<44} {describe(table.one(at))}"[:100]

"""Window: the evidence of a finding, at most 25 lines of at most 100 columns.

One column per variant, the table's own column last, an arrow on the bad row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from harness.elf.orc import describe
from harness.elf.program import Program
from harness.finding import Lines
from harness.text.decode import format_insn
from harness.text.insn import Insn, Insns

WIDTH = 100
LINES = 25
AROUND = 4  # instructions shown on each side of a bad one
_OFFSET = 9
_ORC = 26


class Column(Struct, frozen=True):
    """One variant: its name and its instructions by offset in the site."""

    title: str
    insns: dict[int, Insn]


class Cell(Struct, frozen=True):
    """An instruction, or nothing, in so many columns; its text is made when read.

    ``target`` names the place where a direct branch goes.
    """

    code: bytes
    address: int
    target: str
    width: int

    def __str__(self) -> str:
        text = _text(self.code, self.address, self.target) if self.code else ""
        return _padded(text, self.width)


def cell(program: Program, insn: Insn | None, width: int) -> Cell:
    """Return the cell of ``insn``."""
    if insn is None:
        return Cell(b"", 0, "", width)
    target = str(program.location(insn.target)) if insn.target else ""
    return Cell(insn.code, insn.address, target, width)


class Line(Struct, frozen=True):
    """A line of a window."""

    parts: tuple[str | Cell, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.parts))[:WIDTH].rstrip()


def draw(
    program: Program,
    columns: Sequence[Column],
    table: Sequence[int],
    bad: int,
    verdict: Sequence[str],
) -> Iterator[Line]:
    """Yield the lines: the site byte by byte as far as something happens.

    ``table`` has the state of each byte, ``bad`` is the offset of the arrow,
    ``verdict`` the lines below it.
    """
    rows = sorted(_rows(columns, table) | {bad})
    room = LINES - 1 - len(verdict)
    if len(rows) > room:
        at = max(0, min(rows.index(bad) - room // 2, len(rows) - room))
        rows = rows[at : at + room]
    width = (WIDTH - _OFFSET - _ORC) // max(1, len(columns)) - 1
    yield Line((" " * _OFFSET, *(_padded(c.title, width) for c in columns), "ORC"))
    for row in rows:
        mark = "->" if row == bad else "  "
        cells = (cell(program, c.insns.get(row), width) for c in columns)
        state = describe(table[row]) if row < len(table) else ""
        yield Line((f"{mark} {f'+{row:#x}':<{_OFFSET - 3}}", *cells, state))
    yield from (Line((line,)) for line in verdict)


def excerpt(program: Program, insns: Insns, address: int) -> Lines:
    """Return the instructions around ``address``, one per line."""
    return Lines(lambda: _excerpt(program, insns, address))


def _excerpt(program: Program, insns: Insns, address: int) -> Iterator[Line]:
    row = int(insns.covering(np.array([address], np.uint64))[0])
    for near in around(program, insns, row):
        insn = insns.at(near)
        mark = "->" if near == row else "  "
        place = f"{program.location(insn.address)!s:<40}"
        yield Line((f"{mark} {place} ", cell(program, insn, WIDTH)))


def around(program: Program, insns: Insns, row: int) -> range:
    """Return the rows near ``row`` that are of its section: another's are no context."""
    section = program.section_at(int(insns.address[row]))
    first, last = max(0, row - AROUND), min(len(insns), row + AROUND + 1)
    if section is not None:
        bounds = np.array([section.address, section.end], np.uint64)
        begin, end = np.searchsorted(insns.address[first:last], bounds).tolist()
        first, last = first + begin, first + end
    return range(first, last)


def _rows(columns: Sequence[Column], table: Sequence[int]) -> set[int]:
    rows = {0} | {at for at in range(1, len(table)) if table[at] != table[at - 1]}
    for column in columns:
        rows |= column.insns.keys()
    return rows


def insn_text(program: Program, insn: Insn) -> str:
    """Return ``insn`` as AT&T text with the name of its target."""
    target = str(program.location(insn.target)) if insn.target else ""
    return _text(insn.code, insn.address, target)


def _text(code: bytes, address: int, target: str) -> str:
    text = format_insn(code, address)
    return f"{text.split()[0]} {target}" if target else text


def _padded(text: str, width: int) -> str:
    short = text if len(text) <= width else text[: width - 2] + ".."
    return f"{short:<{width}} "

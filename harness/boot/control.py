"""Control: proof, in every run, that the probe would see a wrong entry.

An entry that a sampled frame uses is changed in the memory of the running guest; the
comparison of that very state must now differ, and must agree again once the entry is
put back. A probe whose control does not fail proves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from msgspec import Struct

from harness.boot.gdb import Gdb
from harness.boot.point import Guest, Point, check_point, finding
from harness.boot.registers import Registers
from harness.elf.orc import ENTRY_SIZE, OrcType, describe
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding

TABLE_RULE = "runtime/table-differs"
WRONG_BY = 8  # bytes; added to sp_offset


class ControlResult(Struct, frozen=True):
    """What became of the planted fault.

    Attributes:
        index: the entry that was changed.
        reported: the finding that the fault caused, or None: the probe is blind.
        clean: the same state agreed again afterwards.
    """

    index: int
    reported: Finding | None
    clean: bool

    @property
    def passed(self) -> bool:
        """The fault was seen, and nothing else was."""
        return self.reported is not None and self.clean


def control_entry(point: Point, guest: Guest) -> int | None:
    """Choose an entry to break: that of the innermost caller that was called.

    Frames whose entry is used twice in the trace are as good; those that end the
    trace, or whose CFA is no sum with the offset, are not.
    """
    for frame in point.host.frames[1:]:
        if frame.index is None or frame.cfa is None:
            continue
        if guest.text.entry(frame.index).type == OrcType.CALL:
            return frame.index
    return None


def run_control(guest: Guest, registers: Registers, index: int) -> ControlResult:
    """Break entry ``index`` under the stopped guest, look, mend it, look again."""
    with broken(guest.gdb, guest.program, index):
        point = check_point(guest, registers)
    reported = None if point.agrees else finding(guest, point)
    return ControlResult(index, reported, check_point(guest, registers).agrees)


@contextlib.contextmanager
def broken(gdb: Gdb, program: Program, index: int) -> Iterator[None]:
    """Keep the guest's entry ``index`` wrong by WRONG_BY bytes for a while."""
    address = _table(program) + ENTRY_SIZE * index
    before = gdb.read(address, 2)
    offset = int.from_bytes(before, "little") + WRONG_BY & 0xFFFF
    gdb.write(address, offset.to_bytes(2, "little"))
    try:
        yield
    finally:
        gdb.write(address, before)


def differing_entries(gdb: Gdb, program: Program) -> list[int]:
    """Return which entries of the running kernel's table are not the image's."""
    differing: set[int] = set()
    for name, size in ((".orc_unwind", ENTRY_SIZE), (".orc_unwind_ip", 4)):
        section = program.section(name)
        if section is None:
            raise FormatError(f"{program.name} has no {name}")
        ours = section.data.tobytes()
        theirs = gdb.read(section.address, len(ours))
        if ours != theirs:
            differing |= {
                at // size for at in range(len(ours)) if ours[at] != theirs[at]
            }
    return sorted(differing)


def table_finding(guest: Guest, index: int) -> Finding:
    """Return that entry ``index`` of the running kernel is not the image's."""
    text = guest.text
    location = guest.program.location(text.ip[index])
    return Finding(
        rule=TABLE_RULE,
        location=location,
        message="the running kernel's table has another entry here than the image",
        declared=describe(text.state[index]),
        cause=location.symbol,
    )


def _table(program: Program) -> int:
    section = program.section(".orc_unwind")
    if section is None:
        raise FormatError(f"{program.name} has no .orc_unwind")
    return section.address

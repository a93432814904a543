"""Line: the source line of an address, from .debug_line, for a few addresses.

elftools reads one compilation unit at a time and takes its time for it: this is for
findings, not for columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.elf.file import debug_lines

if TYPE_CHECKING:
    from harness.elf.file import DWARFInfo, LineProgram


def lines_of(path: Path, addresses: Iterable[int]) -> dict[int, str]:
    """Return ``file:line`` of those of ``addresses`` that debug information tells of."""
    wanted = sorted(set(addresses))
    found: dict[int, str] = {}
    with debug_lines(path) as info:
        if info is None or not wanted:
            return found
        for unit, inside in _units(info, wanted).items():
            program = info.line_program_for_CU(info.get_CU_at(unit))
            if program is not None:
                found |= _lines(program, inside)
    return found


def _units(info: DWARFInfo, wanted: list[int]) -> dict[int, list[int]]:
    """Return the addresses of each unit that is asked for, by its offset."""
    ranges = info.get_aranges()
    units: dict[int, list[int]] = {}
    if ranges is None:
        return units
    for address in wanted:
        offset = ranges.cu_offset_at_addr(address)
        if offset is not None:
            units.setdefault(offset, []).append(address)
    return units


def _lines(program: LineProgram, wanted: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    before = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        # line 0 is DWARF's word for code that is of no line
        if before is not None and before.line and not before.end_sequence:
            for address in wanted:
                if before.address <= address < state.address:
                    found[address] = f"{_file(program, before.file)}:{before.line}"
        before = state
    return found


def _file(program: LineProgram, number: int) -> str:
    header = program.header
    # files and directories count from 1 up to DWARF 4, from 0 since
    first = 0 if header["version"] >= 5 else 1
    entry = header["file_entry"][number - first]
    name = str(entry.name, "utf-8", "replace")
    directory = entry.dir_index
    if directory == 0:  # where the compiler ran: the build's own directory
        return name
    place = str(header["include_directory"][directory - first], "utf-8", "replace")
    return f"{place}/{name}"

"""Stripped: a linked kernel that has no symbol table gets names from its kallsyms.

Kallsyms tells neither sizes nor what is a function. A symbol reaches to the next one,
without the fill between them, and is taken as a function if the ORC table has a
function's first state there: most labels of assembly code that are none do not. So is
what has a hash of kCFI in front of it, whatever the table says of it: clang gives one
to functions alone.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from harness.elf.kallsyms import Kallsyms, parse_kallsyms
from harness.elf.orc import OrcReg, OrcType, parse_orc
from harness.elf.program import Program
from harness.elf.symbol import (
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    Names,
    Symbols,
)

LEAST_BYTES = 1 << 16  # of a section that may hold the tables
_TAIL = 64
_MOV_EAX, _HASHED = 0xB8, 5  # mov $hash, %eax
_PREAMBLE = 64  # more bytes than kCFI's has, with the longest padding
_LINKER = re.compile(r"_[^_]|__pi__")
# What compilers, linkers and assemblers put between functions.
_FILL = re.compile(
    rb"(?:\xcc|[\x66\x2e]*\x90|[\x66\x2e]*\x0f\x1f"
    rb"(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5}))+\Z"
)


def named(program: Program) -> Program:
    """Return ``program`` with the symbols that it carries for itself, if it does."""
    for section in program.sections:
        if program.relocatable or section.executable:
            continue
        if section.data.size < LEAST_BYTES:
            continue
        if (found := parse_kallsyms(section.data, section.address)) is not None:
            note = f"no symbols: {len(found)} names from its kallsyms"
            return replace(
                program,
                symbols=_symbols(program, found),
                notes=(*program.notes, note),
                guessed=True,
            )
    note = "no symbols: places are named by section"
    return replace(program, notes=(*program.notes, note))


def _symbols(program: Program, found: Kallsyms) -> Symbols:
    place = program.sections_at(found.address)
    rows = np.flatnonzero(place >= 0)
    address, place = found.address[rows], place[rows]
    letter = found.type[rows]
    section = np.array([s.index for s in program.sections], np.int32)[place]
    code = np.array([s.executable for s in program.sections], bool)[place]
    kind = np.where(
        np.isin(letter, np.frombuffer(b"tTwW", np.uint8)), STT_NOTYPE, STT_OBJECT
    )
    starts = _starts_function(program, address)
    kind[code & (starts | _is_hashed(program, address, place, starts))] = STT_FUNC
    size = _sizes(program, address, place, code)
    binding = np.where(letter < ord("a"), STB_GLOBAL, STB_LOCAL)
    binding[np.isin(letter, np.frombuffer(b"wWvV", np.uint8))] = STB_WEAK
    names = [found.names[row] for row in rows.tolist()]
    # of several names the best known first, and the linker script's (_stext) last
    linker = np.array([bool(_LINKER.match(name)) for name in names], bool)
    order = np.lexsort((binding != STB_GLOBAL, linker, address))
    return Symbols(
        address=address[order],
        size=size[order],
        section=section[order],
        kind=kind[order].astype(np.uint8),
        binding=binding[order].astype(np.uint8),
        name=Names.of(names).take(order),
    )


def _starts_function(
    program: Program, address: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    if (table := parse_orc(program)) is None:
        return np.ones(len(address), bool)
    table = table.sorted()
    row = table.find(address)
    pristine = (table.sp_reg == OrcReg.SP) & (table.sp_offset == 8)
    pristine &= (table.type == OrcType.CALL) & (table.bp_reg == OrcReg.UNDEFINED)
    return np.asarray((row >= 0) & pristine[np.maximum(row, 0)])


def _is_hashed(
    program: Program,
    address: npt.NDArray[np.uint64],
    place: npt.NDArray[np.int64],
    starts: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Tell before which symbols kCFI's preamble lies, from the symbol before on."""
    hashed = np.zeros(len(address), bool)
    before = np.searchsorted(address, address) - 1
    size = np.where(before >= 0, address - address[before], np.uint64(0))
    near = (size >= np.uint64(_HASHED)) & (size <= np.uint64(_PREAMBLE))
    near &= starts[before] & (place == place[before])
    for row in np.flatnonzero(near).tolist():
        section = program.sections[place[row]]
        last = int(address[row]) - section.address
        code = section.data[last - int(size[row]) : last].tobytes()
        padding = code[_HASHED:]
        hashed[row] = code[0] == _MOV_EAX and (
            not padding or bool(_FILL.fullmatch(padding))
        )
    return hashed


def _sizes(
    program: Program,
    address: npt.NDArray[np.uint64],
    place: npt.NDArray[np.int64],
    code: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint64]:
    """Return the bytes up to the next symbol or the section's end, without fill."""
    ends = np.array([s.end for s in program.sections], np.uint64)[place]
    after = np.searchsorted(address, address, side="right")
    following = np.append(address, np.uint64((1 << 64) - 1))[after]
    size = np.minimum(following, ends) - address
    for row in np.flatnonzero(code).tolist():
        section = program.sections[place[row]]
        last = int(address[row]) + int(size[row]) - section.address
        first = max(last - _TAIL, int(address[row]) - section.address)
        fill = _FILL.search(section.data[first:last].tobytes())
        if fill is not None and len(fill[0]) < size[row]:  # __pfx_ is nothing else
            size[row] -= np.uint64(len(fill[0]))
    return size

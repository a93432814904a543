"""Stripped: a linked kernel that has no symbol table gets names from its kallsyms.

Kallsyms tells neither sizes nor what is a function. A symbol reaches to the next one,
without the fill between them, and is taken as a function if the ORC table has a
function's first state there: most labels of assembly code that are none do not. So is
what has a hash of kCFI in front of it, whatever the table says of it: clang gives one
to functions alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from harness.elf.kallsyms import Kallsyms, parse_kallsyms
from harness.elf.orc import OrcReg, OrcType, parse_orc
from harness.elf.program import Program, Section
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
from harness.elf.tail import tails

LEAST_BYTES = 1 << 16  # of a section that may hold the tables
_MOV_EAX, _HASHED = 0xB8, 5  # mov $hash, %eax
_PREAMBLE = 64  # more bytes than kCFI's has, with the longest padding
_PI = b"__pi__"

_U64 = npt.NDArray[np.uint64]
_I64 = npt.NDArray[np.int64]


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
    # between the sections there are bounds (__init_begin), and numbers, which are none
    number = np.isin(found.type, np.frombuffer(b"aA", np.uint8))
    rows = np.flatnonzero((place >= 0) | ~number)
    address, place = found.address[rows], place[rows]
    letter = found.type[rows]
    sections = program.sections  # and at -1 none
    ends = program.sections_at(address - np.uint64(1))  # _etext is of what it ends
    within = np.where(place < 0, ends, place)
    section = np.array([*(s.index for s in sections), -1], np.int32)[within]
    code = np.array([*(s.executable for s in sections), False], bool)[place]
    kind = np.where(
        np.isin(letter, np.frombuffer(b"tTwW", np.uint8)), STT_NOTYPE, STT_OBJECT
    )
    starts = _starts_function(program, address)
    kind[code & (starts | _is_hashed(program, address, place, starts))] = STT_FUNC
    size = _sizes(program, address, place, code)
    binding = np.where(letter < ord("a"), STB_GLOBAL, STB_LOCAL)
    binding[np.isin(letter, np.frombuffer(b"wWvV", np.uint8))] = STB_WEAK
    names = found.names.take(rows)
    # of several names the best known first, and the linker script's (_stext) last
    order = np.lexsort((binding != STB_GLOBAL, _from_linker(names), address))
    return Symbols(
        address=address[order],
        size=size[order],
        section=section[order],
        kind=kind[order].astype(np.uint8),
        binding=binding[order].astype(np.uint8),
        name=names.take(order),
    )


def _starts_function(program: Program, address: _U64) -> npt.NDArray[np.bool_]:
    if (table := parse_orc(program)) is None:
        return np.ones(len(address), bool)
    table = table.sorted()
    row = table.find(address)
    pristine = (table.sp_reg == OrcReg.SP) & (table.sp_offset == 8)
    pristine &= (table.type == OrcType.CALL) & (table.bp_reg == OrcReg.UNDEFINED)
    return np.asarray((row >= 0) & pristine[np.maximum(row, 0)])


def _is_hashed(
    program: Program, address: _U64, place: _I64, starts: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell before which symbols kCFI's preamble lies, from the symbol before on."""
    before = np.searchsorted(address, address) - 1
    size = np.where(before >= 0, address - address[before], np.uint64(0))
    near = (size >= np.uint64(_HASHED)) & (size <= np.uint64(_PREAMBLE))
    near &= starts[before] & (place == place[before]) & (place >= 0)
    hashed = np.zeros(len(address), bool)
    for section, rows, last in _within(program, address, place, near):
        length = size[rows].astype(np.int64)
        moves = section.data[last - length] == _MOV_EAX
        rows, last, length = rows[moves], last[moves], length[moves] - _HASHED
        hashed[rows] = tails(section.data, last - length, last) == length
    return hashed


def _sizes(
    program: Program, address: _U64, place: _I64, code: npt.NDArray[np.bool_]
) -> _U64:
    """Return the bytes up to the next symbol or the section's end, without fill."""
    ends = np.array([*(s.end for s in program.sections), 0], np.uint64)[place]
    ends[place < 0] = address[place < 0]
    after = np.searchsorted(address, address, side="right")
    following = np.append(address, np.uint64((1 << 64) - 1))[after]
    size = np.minimum(following, ends) - address
    for section, rows, first in _within(program, address, place, code):
        fill = tails(section.data, first, first + size[rows].astype(np.int64))
        fill = fill.astype(np.uint64)
        size[rows] -= np.where(
            fill < size[rows], fill, np.uint64(0)
        )  # not all of __pfx_
    return size


def _within(
    program: Program, address: _U64, place: _I64, which: npt.NDArray[np.bool_]
) -> Iterator[tuple[Section, _I64, _I64]]:
    """Yield each section with its symbols: (section, rows, offset in it)."""
    rows = np.flatnonzero(which)
    for number in np.unique(place[rows]).tolist():
        section, some = program.sections[number], rows[place[rows] == number]
        yield (
            section,
            some,
            (address[some] - np.uint64(section.address)).astype(np.int64),
        )


def _from_linker(names: Names) -> npt.NDArray[np.bool_]:
    """Tell which names are like those of the linker script: _text, not __switch_to."""
    text = np.frombuffer(names.strings + bytes(len(_PI)), np.uint8)
    second = text[names.offset + 1]
    one = (text[names.offset] == ord("_")) & (second != ord("_")) & (second != 0)
    pi = (text[names.offset[:, None] + np.arange(len(_PI))] == list(_PI)).all(axis=1)
    return np.asarray(one | pi)

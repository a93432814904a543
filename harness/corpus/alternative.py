"""Alternative: mutants of .altinstructions, field by field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.corpus.mutant import Change, Kind, MutantClass
from harness.corpus.rewrite import Poke
from harness.elf.alternative import Alternatives
from harness.text.insn import I64
from harness.verify.columns import Columns

_LENGTHS_AT = {12: 10, 13: 10, 14: 12}  # instrlen; replacementlen lies behind it
_CPUID_AT, _FLAGS_AT = 8, 10
_INV = 1 << 15  # ALTINSTR_FLAG_INV of the layout of 12 bytes

# Returns (offset in the entry, new bytes, what), or None.
Edit = Callable[
    [Columns, Alternatives, int, np.random.Generator], tuple[int, bytes, str] | None
]


def _class(name: str, kind: Kind, edit: Edit) -> MutantClass:
    def candidates(columns: Columns) -> I64:
        table = columns.alternatives
        return np.arange(0 if table is None else len(table))

    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        table = columns.alternatives
        assert table is not None
        if (changed := edit(columns, table, row, random)) is None:
            return None
        at, data, what = changed
        section = columns.program.section(".altinstructions")
        assert section is not None
        place = section.address + int(table.index[row]) * table.entry_size + at
        size = int(table.site_length[table.site[row]])
        edits = (Poke(place, data),)
        return Change(columns, edits, int(table.address[row]), size, what)

    return MutantClass(f"alternative/{name}", kind, candidates, mutate)


def _instrlen(
    columns: Columns, table: Alternatives, row: int, random: np.random.Generator
) -> tuple[int, bytes, str] | None:
    """The site seems to be longer by an instruction or a byte, or shorter."""
    length = int(table.instrlen[row])
    fresh = length + int(random.choice((-2, -1, 1, 2, 3, 4, 5)))
    if not 0 < fresh < 256 or fresh < int(table.replacementlen[row]):
        return None
    at = _LENGTHS_AT[table.entry_size]
    return at, bytes((fresh,)), f"instrlen {length} -> {fresh}"


def _replacementlen(
    columns: Columns, table: Alternatives, row: int, random: np.random.Generator
) -> tuple[int, bytes, str] | None:
    length = int(table.replacementlen[row])
    fresh = length + int(random.choice((-3, -2, -1, 1, 2, 3)))
    if not 0 <= fresh <= int(table.instrlen[row]):
        return None
    at = _LENGTHS_AT[table.entry_size] + 1
    return at, bytes((fresh,)), f"replacementlen {length} -> {fresh}"


def _moved(field: str, at: int) -> Edit:
    def edit(
        columns: Columns, table: Alternatives, row: int, random: np.random.Generator
    ) -> tuple[int, bytes, str]:
        section = columns.program.section(".altinstructions")
        assert section is not None
        place = int(table.index[row]) * table.entry_size + at
        old = section.data[place : place + 4].tobytes()
        step = int(random.choice((-8, -4, -2, -1, 1, 2, 4, 8)))
        fresh = int.from_bytes(old, "little", signed=True) + step
        data = fresh.to_bytes(4, "little", signed=True)
        return at, data, f"{field} {step:+d}"

    return edit


def _cpuid(
    columns: Columns, table: Alternatives, row: int, random: np.random.Generator
) -> tuple[int, bytes, str] | None:
    """Another feature that the table uses somewhere, under the same condition."""
    known = np.unique(table.cpuid)
    known = known[known != table.cpuid[row]]
    if not len(known):
        return None
    fresh = int(random.choice(known))
    word = fresh
    if table.entry_size == 12 and table.flags[row] & 1:
        word |= _INV
    names = columns.features.names
    old = int(table.cpuid[row])
    what = f"cpuid {names.get(old, old)} -> {names.get(fresh, fresh)}"
    return _CPUID_AT, word.to_bytes(2, "little"), what


def _not(
    columns: Columns, table: Alternatives, row: int, random: np.random.Generator
) -> tuple[int, bytes, str] | None:
    """The condition turned round."""
    if table.entry_size == 13:
        return None
    if table.entry_size == 12:
        word = int(table.cpuid[row]) | (0 if table.flags[row] & 1 else _INV)
        return _CPUID_AT, word.to_bytes(2, "little"), "not flipped"
    word = int(table.flags[row]) ^ 1
    return _FLAGS_AT, word.to_bytes(2, "little"), "not flipped"


def _direct_call(
    columns: Columns, table: Alternatives, row: int, random: np.random.Generator
) -> tuple[int, bytes, str] | None:
    if table.entry_size != 14:
        return None
    word = int(table.flags[row]) ^ 2
    return _FLAGS_AT, word.to_bytes(2, "little"), "direct call flipped"


CLASSES = (
    _class("instrlen", Kind.LENGTH, _instrlen),
    _class("replacementlen", Kind.STATE, _replacementlen),
    _class("instr-offset", Kind.STATE, _moved("instr_offset", 0)),
    _class("repl-offset", Kind.STATE, _moved("repl_offset", 4)),
    _class("cpuid", Kind.CONDITION, _cpuid),
    _class("not", Kind.CONDITION, _not),
    _class("direct-call", Kind.CONDITION, _direct_call),
)

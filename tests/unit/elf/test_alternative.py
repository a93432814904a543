"""Tables of alternatives, of every layout."""

from __future__ import annotations

import pytest

from harness.elf.alternative import Alternatives, AltFlag, parse_alternatives
from harness.elf.program import Program
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    Alternative,
    ElfWriter,
    add_alternatives,
)

XENPV, ALWAYS = 8 * 32 + 16, 3 * 32 + 21
REPLACEMENTS = bytes(range(1, 40))
ROWS = [
    Alternative(0, 0, XENPV, 6, 2, flags=1),
    Alternative(16, 2, ALWAYS, 5, 5, padlen=3),
    Alternative(16, 7, XENPV, 5, 1),
    Alternative(32, 8, 700, 3, 0),
]


def _program(
    rows: list[Alternative] = ROWS, size: int = 14, entsize: int = 0
) -> Program:
    writer = ElfWriter()
    text = writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC)
    add_alternatives(writer, text, REPLACEMENTS, rows, size, entsize=entsize)
    return writer.program()


def _read(program: Program) -> tuple[Alternatives, list[int]]:
    alternatives = parse_alternatives(program)
    text = program.section(".text")
    assert alternatives is not None
    assert text is not None
    return alternatives, [int(a) - text.address for a in alternatives.address]


@pytest.mark.parametrize("size", [12, 13, 14])
def test_every_layout_reads_the_same(size: int) -> None:
    """Places, features and lengths do not depend on the entry's size."""
    program = _program(size=size)
    alternatives, offsets = _read(program)
    code = program.section(".altinstr_replacement")
    assert code is not None
    assert alternatives.entry_size == size
    assert offsets == [0, 16, 16, 32]
    replacements = [int(a) - code.address for a in alternatives.replacement]
    assert replacements == [0, 2, 7, 8]
    assert alternatives.cpuid.tolist() == [XENPV, ALWAYS, XENPV, 700]
    has_flags = size != 13
    assert alternatives.flags.tolist() == [AltFlag.NOT if has_flags else 0, 0, 0, 0]
    assert alternatives.instrlen.tolist() == [6, 5, 5, 3]
    assert alternatives.replacementlen.tolist() == [2, 5, 1, 0]
    assert alternatives.padlen.tolist() == [0, 3 if size == 13 else 0, 0, 0]


def test_direct_calls_are_flagged() -> None:
    """The second flag exists only in entries of 14 bytes."""
    alternatives, _ = _read(_program([Alternative(0, 0, ALWAYS, 6, 5, flags=2)]))
    assert AltFlag(int(alternatives.flags[0])) is AltFlag.DIRECT_CALL


def test_sizes_that_also_divide_are_told_by_sense() -> None:
    """84 entries of 13 bytes are 91 of 12 and 78 of 14, which make no sense."""
    rows = [Alternative(i % 48, i % 8, XENPV, 6, 2, padlen=1) for i in range(84)]
    alternatives, _ = _read(_program(rows, size=13))
    assert (alternatives.entry_size, len(alternatives)) == (13, 84)


def test_the_section_may_tell_its_entry_size() -> None:
    """sh_entsize, written by newer kernels, excludes the others."""
    alternatives, _ = _read(_program(size=14, entsize=14))
    assert alternatives.entry_size == 14


def test_nested_sites_are_as_long_as_their_longest_entry() -> None:
    """Entries of one address are one site, the outer one may be longer."""
    rows = [Alternative(8, 0, ALWAYS, 5, 5), Alternative(8, 5, XENPV, 14, 14)]
    alternatives, _ = _read(_program(rows))
    assert alternatives.site.tolist() == [0, 0]
    assert alternatives.site_length.tolist() == [14]
    assert alternatives.site_count.tolist() == [2]


def test_scattered_entries_of_a_site_are_brought_together() -> None:
    """Sites keep the order in which they appear, entries that of patching."""
    rows = [
        Alternative(32, 0, ALWAYS, 5, 5),
        Alternative(0, 5, XENPV, 6, 2),
        Alternative(32, 7, XENPV, 9, 1),
        Alternative(0, 8, ALWAYS, 6, 6),
    ]
    alternatives, offsets = _read(_program(rows))
    assert offsets == [32, 32, 0, 0]
    assert alternatives.index.tolist() == [0, 2, 1, 3]
    assert alternatives.site_first.tolist() == [0, 2]
    assert alternatives.site_length.tolist() == [9, 6]
    for site, first in enumerate(alternatives.site_first.tolist()):
        assert alternatives.address[first] == alternatives.site_address[site]


def test_an_object_without_alternatives_is_none() -> None:
    """No section or an empty one is no error."""
    writer = ElfWriter()
    writer.section(".text", bytes(8), flags=ALLOC | EXEC)
    assert parse_alternatives(writer.program()) is None
    assert parse_alternatives(_program([])) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(17), "17 bytes, .*none divides it"),
        (bytes(28), "28 bytes, .*14 bytes: 0%"),
        (b"\xff" * 156, "12 bytes: 0%, 13 bytes: 0%"),
    ],
)
def test_nonsense_is_refused(data: bytes, message: str) -> None:
    """What no layout explains gives an error with what each made of it."""
    writer = ElfWriter()
    writer.section(".text", bytes(8), flags=ALLOC | EXEC)
    writer.section(".altinstructions", data)
    with pytest.raises(FormatError, match=message):
        parse_alternatives(writer.program())

"""Changed bytes, and the columns that are read again for them."""

from __future__ import annotations

import numpy as np
import pytest

from harness.corpus.rewrite import Poke, Rows, apply
from harness.text.decode import decode_program
from harness.verify.columns import read_columns
from tests.unit.corpus.program import NAMES, columns


def address_of(name: str) -> int:
    found = columns().program.symbols.find(name)
    assert found is not None
    return found


def test_a_mutant_is_a_copy() -> None:
    """The clean program keeps its bytes."""
    clean = columns()
    place = address_of("f") + 4

    mutant = apply(clean, [Poke(place, b"\x90")])

    bytes_there = [c.program.read(place, 1)[0] for c in (clean, mutant)]
    assert bytes_there == [0x53, 0x90]


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (4, "90"),
        (4, "4889fb90"),  # boundaries move
        (9, "505890"),
        (13, "4883c408"),
        (17, "90"),  # the last instruction falls off
    ],
)
def test_only_the_piece_is_decoded_and_the_rest_is_right(
    offset: int, code: str
) -> None:
    """The rows are those that decoding the whole program gives."""
    mutant = apply(columns(), [Poke(address_of("f") + offset, bytes.fromhex(code))])

    whole = decode_program(mutant.program)

    got = mutant.insns
    assert got.address.tolist() == whole.address.tolist()
    assert got.size.tolist() == whole.size.tolist()
    assert got.kind.tolist() == whole.kind.tolist()
    assert got.target.tolist() == whole.target.tolist()


def test_a_changed_replacement_changes_its_text() -> None:
    """The streams of the sites that use the bytes are built again."""
    clean = columns()
    assert clean.alternatives is not None
    place = int(clean.alternatives.replacement[0])

    mutant = apply(clean, [Poke(place, b"\x50")])

    assert mutant.streams is not None
    assert clean.streams is not None
    codes = [insn.code for insn in mutant.streams.rows(1)]
    assert codes[0] == b"\x50"
    assert clean.streams.rows(1)[0].code == b"\x9c"


def test_code_that_no_site_uses_keeps_the_streams() -> None:
    """Nothing is built again in vain."""
    clean = columns()

    mutant = apply(clean, [Poke(address_of("f") + 4, b"\x90")])

    assert mutant.streams is clean.streams


def test_a_shorter_table_reads_back() -> None:
    """Rows keep their addresses although their places move."""
    clean = columns()

    mutant = apply(clean, [Rows(1, 2, ())])

    assert mutant.table.ip.tolist() == np.delete(clean.table.ip, 1).tolist()
    assert mutant.table.state.tolist() == np.delete(clean.table.state, 1).tolist()


def test_edits_of_one_table_are_made_together() -> None:
    """Each names rows of the clean table, in any order."""
    clean = columns()
    record = bytes.fromhex("4000 0000 0502")
    ip = int(clean.table.ip[3])

    mutant = apply(
        clean, [Rows(3, 4, ((ip, record), (ip + 1, record))), Rows(0, 1, ())]
    )

    wanted = clean.table.ip.tolist()
    assert mutant.table.ip.tolist() == [*wanted[1:4], ip + 1, *wanted[4:]]
    assert mutant.table.sp_offset[2] == mutant.table.sp_offset[3] == 0x40


def test_edits_of_code_and_table_together() -> None:
    """What each would give alone, the whole has."""
    clean = columns()
    first, second = address_of("f") + 4, address_of("f") + 16

    mutant = apply(clean, [Poke(second, b"\x90"), Rows(1, 2, ()), Poke(first, b"\x90")])

    whole = decode_program(mutant.program)
    assert mutant.insns.address.tolist() == whole.address.tolist()
    assert mutant.insns.kind.tolist() == whole.kind.tolist()
    assert len(mutant.table) == len(clean.table) - 1


def test_a_changed_entry_of_altinstructions() -> None:
    """The entry's new field is in the columns; the others stay."""
    clean = columns()
    assert clean.alternatives is not None

    section = clean.program.section(".altinstructions")
    assert section is not None

    mutant = apply(clean, [Poke(section.address + 8, (7).to_bytes(2, "little"))])

    assert mutant.alternatives is not None
    assert mutant.alternatives.cpuid[0] == 7
    assert mutant.alternatives.cpuid[1] == clean.alternatives.cpuid[1]


def test_a_mutant_is_read_as_its_file_would_be() -> None:
    """What is kept from the clean columns equals what a whole reading gives."""
    mutant = apply(columns(), [Poke(address_of("f") + 13, bytes.fromhex("4883c408"))])

    read = read_columns(mutant.program, NAMES)

    assert read is not None
    every = range(len(read.insns))
    assert [read.insns.at(row) for row in every] == [
        mutant.insns.at(row) for row in every
    ]
    assert read.table.ip.tolist() == mutant.table.ip.tolist()

"""Patterns: which sites are of one kind."""

from __future__ import annotations

import numpy as np

from harness.elf.feature import Features
from harness.elf.program import Program
from harness.text.operation import of_codes
from harness.verify.columns import read_columns
from harness.verify.pattern import Patterns, mixed, prefixes
from tests.builders.site import Replacement, many_sites

NOPS = b"\x90" * 3
MOVES = [bytes.fromhex(code) for code in ("4889f8", "4c89e1")]  # mov between registers
CLAC = bytes.fromhex("0f01ca")
LFENCE = bytes.fromhex("0faee8")


def patterns(program: Program) -> Patterns:
    """The patterns of a program that has some."""
    columns = read_columns(program, Features({}, 0, "test"))
    assert columns is not None
    assert columns.patterns is not None
    return columns.patterns


def test_operands_and_padding_do_not_count() -> None:
    """Other registers, other padding: one pattern."""
    sites = [(NOPS, [Replacement(MOVES[0])]), (b"\x90" * 5, [Replacement(MOVES[1])])]
    assert len(set(patterns(many_sites(sites)).pattern.tolist())) == 1


def test_texts_and_their_place_count() -> None:
    """Another original, replacement, place or number of places: another pattern."""
    one = Replacement(MOVES[0])
    sites = [(NOPS, [one]), (MOVES[1], [one]), (NOPS, [Replacement(CLAC)])]
    sites += [(NOPS, [Replacement(CLAC), one])]
    found = patterns(many_sites(sites)).pattern.tolist()
    assert len(set(found)) == 5


def test_a_fence_tells_nothing() -> None:
    """The kernel puts one in place of nothing for many reasons."""
    sites = [(NOPS, [Replacement(LFENCE)]), (MOVES[0], [Replacement(LFENCE)])]
    sites += [(NOPS, [Replacement(CLAC)])]
    assert patterns(many_sites(sites)).telling.tolist() == [False, True, True]


def test_operations_are_those_of_the_texts() -> None:
    """Padding is left out; the original comes before its replacements."""
    found = patterns(many_sites([(MOVES[0] + NOPS, [Replacement(CLAC + CLAC)])]))
    assert found.operation.tolist() == of_codes(
        *(code.hex() for code in (MOVES[0], CLAC, CLAC))
    )
    assert found.entry.tolist() == [-1, 0, 0]


def test_a_hash_of_what_begins_alike() -> None:
    """A whole that goes on has the hash of the shorter one on its way."""
    values = np.array([7, 9, 7, 9, 11, 9, 7], np.uint64)
    owner = np.array([0, 0, 2, 2, 2, 3, 3])
    whole = mixed(values, owner, 4)
    assert whole[1] == 0
    assert prefixes(values, owner, 4)[3] == whole[0]
    assert len(set(whole.tolist())) == 4

"""Operations: what instructions have in common, whatever their operands are."""

from __future__ import annotations

import pytest

from harness.text.operation import of_codes

SAME = [
    ("50", "57", "push"),
    ("89c8", "4989d7", "mov between registers, with and without REX"),
    ("ff1500000000", "ff142500000000", "call through memory"),
    ("f30fb8c7", "f3480fb8c7", "popcnt"),
    ("650fc70e", "480fc70f", "cmpxchg16b, other segment"),
    ("b801000000", "48b80000000000000000", "mov of an immediate"),
]
OTHER = [
    ("50", "58", "push, pop"),
    ("0f01ca", "0f01cb", "clac, stac"),
    ("0faee8", "0fae28", "lfence, xrstor"),
    ("0fae30", "660fae30", "xsaveopt, clwb"),
    ("0fb8c7", "f30fb8c7", "without and with f3"),
    ("83c001", "83e801", "add, sub"),
    ("0f38c8c0", "0f3ac8c0", "two maps"),
]


@pytest.mark.parametrize(("one", "two", "what"), SAME)
def test_operands_do_not_count(one: str, two: str, what: str) -> None:
    """Registers, addresses, immediates and REX change no operation."""
    assert len({*of_codes(one, two)}) == 1, what


@pytest.mark.parametrize(("one", "two", "what"), OTHER)
def test_opcodes_count(one: str, two: str, what: str) -> None:
    """What the processor does differently is another operation."""
    assert len({*of_codes(one, two)}) == 2, what

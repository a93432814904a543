"""Paravirt call sites of kernels before 6.8."""

from __future__ import annotations

import pytest

from harness.elf.paravirt import Parainstructions, parse_parainstructions
from harness.errors import FormatError
from tests.builders.elfwriter import ALLOC, EXEC, R_64, ElfWriter


def _sites(data: bytes, places: list[int], slide: int = 0) -> Parainstructions | None:
    writer = ElfWriter()
    text = writer.section(".text", bytes(64), flags=ALLOC | EXEC)
    table = writer.section(".parainstructions", data)
    symbol = writer.symbol("text", text)
    for i, place in enumerate(places):
        writer.relocation(table, 16 * i, R_64, symbol, place)
    return parse_parainstructions(writer.program().slid(slide))


ENTRY = bytes(8) + b"\x05\x07" + bytes(6)


@pytest.mark.parametrize("tail", [0, 4, 6])
def test_sites_are_read_with_or_without_the_last_padding(tail: int) -> None:
    """Sites are absolute addresses; the last entry may be 10 bytes only."""
    data = (ENTRY * 3)[: 48 - tail]
    sites = _sites(data, [0, 16, 32])
    assert sites is not None
    assert (sites.address - sites.address[0]).tolist() == [0, 16, 32]
    assert sites.type.tolist() == [5, 5, 5]
    assert sites.length.tolist() == [7, 7, 7]


def test_sites_of_a_kernel_that_was_moved() -> None:
    """KASLR moves the code; the addresses in its image are as they were linked."""
    there, moved = _sites(ENTRY * 2, [0, 16]), _sites(ENTRY * 2, [0, 16], 0x1C00000)
    assert there is not None
    assert moved is not None
    assert (moved.address - there.address).tolist() == [0x1C00000] * 2


def test_a_kernel_without_them_is_none() -> None:
    """Since 6.8 there are none."""
    assert _sites(b"", []) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [(ENTRY[:8], "8 bytes, expected entries of 16"), (ENTRY * 2, "2 of 2 sites")],
)
def test_nonsense_is_refused(data: bytes, message: str) -> None:
    """Half an entry, or sites outside the code, are damage."""
    with pytest.raises(FormatError, match=message):
        _sites(data, [])

"""Lengths of sites: what no stack state shows."""

from __future__ import annotations

import pytest

from harness.elf.feature import Features
from harness.elf.program import Program
from harness.verify.columns import read_columns
from harness.verify.lints.length import check_lengths
from tests.builders.elfwriter import call
from tests.builders.site import (
    ALWAYS,
    SMAP,
    XENPV,
    Replacement,
    a_site,
    many_sites,
)

NAMES = Features({}, 22, "test")
CLAC = bytes.fromhex("0f01ca")
STAC = bytes.fromhex("0f01cb")
NOPS = b"\x90" * 3
CALL = bytes.fromhex("e800000000")
PV_CALL = bytes.fromhex("ff1500000000")
RDTSC = bytes.fromhex("0f31")
FENCED = bytes.fromhex("0faee80f31")  # lfence; rdtsc


def messages(program: Program) -> list[str]:
    """What the check says."""
    columns = read_columns(program, NAMES)
    assert columns is not None
    return [finding.message for finding in check_lengths(columns).findings]


@pytest.mark.parametrize(
    ("original", "replacements"),
    [
        (NOPS, [CLAC]),
        (RDTSC + NOPS, [FENCED]),
        (CALL, [CLAC + b"\x0f"]),
        (PV_CALL, [CALL]),
        (b"\xeb\x00", [b""]),
    ],
)
def test_what_the_macros_make(original: bytes, replacements: list[bytes]) -> None:
    """Padding to the longest replacement, or an original that is longer: clean."""
    sites = [Replacement(code) for code in replacements]
    assert messages(a_site(original, sites)) == []


@pytest.mark.parametrize(
    ("original", "replacement", "says"),
    [
        (NOPS + RDTSC, CLAC, "it has padding, and is longer"),
        (RDTSC + b"\x90" * 4, FENCED, "it has padding, and is longer"),
        (b"\xeb\x7f" + RDTSC, b"", "it goes on behind a jump"),
    ],
)
def test_grown_or_cut(original: bytes, replacement: bytes, says: str) -> None:
    """A site that has swallowed the code behind it."""
    (message,) = messages(a_site(original, [Replacement(replacement)]))
    assert says in message


def test_call_made_direct_is_six_bytes() -> None:
    """A paravirt call has its length from the instruction."""
    direct = Replacement(CALL, ALWAYS, flags=2)
    assert messages(a_site(PV_CALL, [direct])) == []
    (message,) = messages(a_site(PV_CALL + RDTSC, [direct]))
    assert message == "a call through memory has 6 bytes, not 8"


def test_entries_of_one_site_nest() -> None:
    """A later entry is as long as the one before, or as its own replacement."""
    inner = Replacement(CLAC, instrlen=3)
    assert messages(a_site(b"\x90" * 5, [inner, Replacement(CALL, XENPV)])) == []
    sites = [inner, Replacement(CLAC + b"\xfc", XENPV)]
    (message,) = messages(a_site(b"\x90" * 5, sites))
    assert message.startswith("its entries are for 3 and 5 bytes")
    outer = [Replacement(CLAC), Replacement(CLAC, XENPV, instrlen=3)]
    assert messages(a_site(b"\x90" * 5, outer))


def test_like_sites_tell() -> None:
    """Sites with the same replacement have the same original; the fewer are wrong."""
    move = bytes.fromhex("b800000000")
    good = (move, [Replacement(bytes.fromhex("f30fb8c7"), 4 * 32 + 23)])
    grown = (move + RDTSC, good[1])
    assert messages(many_sites([good] * 3)) == []
    (message,) = messages(many_sites([good, good, grown]))
    assert message == "2 sites like it end earlier"
    (message,) = messages(many_sites([good, grown, grown]))
    assert message == "2 sites like it are longer"


def test_too_short_for_its_replacement() -> None:
    """A replacement that is longer than its site, and a site without any byte."""
    good = (NOPS, [Replacement(CLAC, SMAP)])
    short = (NOPS, [Replacement(CLAC + b"\x90", SMAP)])
    (message,) = messages(many_sites([good] * 4 + [short]))
    expected = "a replacement of 4 bytes is for a site of 3: it overwrites what follows"
    assert message == expected
    empty = (b"", [Replacement(b"")])
    assert messages(many_sites([good] * 4 + [empty])) == ["the site has no bytes"]


def test_a_site_in_two_functions() -> None:
    """It ends before the next function, or behind its own last byte."""
    function = ("next", bytes.fromhex("31c0c3"), [(0, call(8))])
    site = a_site(NOPS, [Replacement(CLAC)], functions=[function])
    assert messages(site) == []
    wide = [Replacement(CLAC * 9, instrlen=27)]
    assert "it reaches into next" in messages(a_site(NOPS, wide, functions=[function]))


def test_an_entry_that_is_not_where_its_like_are() -> None:
    """Twenty others are the second of two: this one was torn from its site."""
    both = (NOPS, [Replacement(CLAC), Replacement(STAC, XENPV)])
    alone = (NOPS, [Replacement(STAC, XENPV)])
    says = "20 entries like one of it are number 2 of 2"
    assert messages(many_sites([both] * 21)) == []
    assert messages(many_sites([both] * 20 + [alone])) == [says]
    assert messages(many_sites([both] * 20 + [alone] * 2)) == []
    assert messages(many_sites([both] * 19 + [alone])) == []


def test_direct_calls_are_alike_whatever_they_call() -> None:
    """One of an operation with one entry is no error beside many of two."""
    call = bytes.fromhex("ff1500000000")
    direct = Replacement(bytes.fromhex("e800000000"), flags=2)
    both = (call, [direct, Replacement(b"\x9c\x58", XENPV, flags=1)])
    assert messages(many_sites([both] * 25 + [(call, [direct])])) == []

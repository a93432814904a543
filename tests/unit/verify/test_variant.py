"""What variants are called, and which platforms run them."""

from __future__ import annotations

import pytest

from harness.elf.alternative import parse_alternatives
from harness.elf.feature import Features
from harness.text.patch import Era
from harness.text.patch.choice import PVUNLOCK
from harness.verify.variant import Variants
from tests.builders.site import ALWAYS, SMAP, XENPV, Replacement, a_site

NAMES = Features({XENPV: "XENPV", ALWAYS: "ALWAYS", SMAP: "SMAP"}, 0, "test")
ALL = ("native", "kvm", "xen", "vsmp")


def variants(*conditions: tuple[int, int], era: Era = Era.E5) -> Variants:
    """The variants of a site with these (cpuid, flags)."""
    replacements = [Replacement(b"\xfc", cpuid, flags) for cpuid, flags in conditions]
    alternatives = parse_alternatives(a_site(b"\x90\x90", replacements))
    assert alternatives is not None
    return Variants(alternatives, NAMES, era)


def test_labels() -> None:
    """A replacement has its number and its condition; unknown bits word and bit."""
    named = variants((ALWAYS, 0), (XENPV, 1), (PVUNLOCK, 0))
    assert [named.label(0, entry) for entry in (-1, 0, 1, 2)] == [
        "original",
        "replacement 1 of 3 (ALWAYS)",
        "replacement 2 of 3 (not XENPV)",
        "replacement 3 of 3 (8*32+20)",
    ]


@pytest.mark.parametrize(
    ("conditions", "entry", "platforms"),
    [
        ([(XENPV, 0)], 0, ("xen",)),
        ([(XENPV, 0)], -1, ("native", "kvm", "vsmp")),
        ([(XENPV, 1)], 0, ("native", "kvm", "vsmp")),
        ([(XENPV, 1)], -1, ("xen",)),
        ([(SMAP, 0)], 0, ALL),
        ([(SMAP, 0)], -1, ALL),
        ([(PVUNLOCK, 0)], 0, ("kvm", "xen")),
        ([(PVUNLOCK, 1)], -1, ("kvm", "xen")),
        # the last entry whose condition holds wins
        ([(ALWAYS, 0), (XENPV, 1)], 0, ("xen",)),
        ([(ALWAYS, 0), (XENPV, 1)], 1, ("native", "kvm", "vsmp")),
        # one bit decides all entries that ask for it
        ([(SMAP, 0), (SMAP, 1)], -1, ALL),
        ([(PVUNLOCK, 0), (XENPV, 0), (XENPV, 1)], 0, ("kvm", "xen")),
        ([(PVUNLOCK, 0), (XENPV, 0), (XENPV, 1)], 1, ("xen",)),
        # replaced everywhere in the end, the original still runs early
        ([(ALWAYS, 0)], -1, ALL),
    ],
)
def test_platforms(
    conditions: list[tuple[int, int]], entry: int, platforms: tuple[str, ...]
) -> None:
    """A text counts for the platforms on which nothing later replaces it."""
    assert variants(*conditions).platforms(0, entry) == platforms


def test_a_text_that_never_runs() -> None:
    """The condition "not ALWAYS" holds nowhere; the original runs at least early."""
    named = variants((ALWAYS, 1), (ALWAYS, 0), (SMAP, 1))
    assert [named.possible(0, entry) for entry in (-1, 0, 1, 2)] == [
        True,
        False,
        True,
        True,
    ]


def test_a_text_between_two_writes() -> None:
    """What a later entry always replaces runs only where entries are written in turn."""
    for era, runs in ((Era.E2, True), (Era.E5, True), (Era.E6, False)):
        named = variants((SMAP, 0), (ALWAYS, 0), era=era)
        assert named.possible(0, 0) is runs
        assert named.possible(0, 1)

"""Findings that say the same of several places are told once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.finding import Finding, Location
from harness.report import text
from harness.report.alike import alike

FINDING = Finding(
    "text/frame",
    Location("vmlinux", "asm_exc_page_fault", 0x21),
    "the frame is not where the entry has it",
    declared="sp+8 regs",
    actual="sp+0 regs",
    window=("the evidence",),
)


def at(symbol: str, finding: Finding = FINDING) -> Finding:
    """The same of another function."""
    return replace(finding, location=Location("vmlinux", symbol, 0x15))


def test_one_hint_in_a_macro() -> None:
    """All of its places are one group, which begins with the first."""
    others = [at("asm_exc_debug"), at("asm_exc_nmi")]
    (group,) = alike([FINDING, *others])

    assert group.first == FINDING
    assert group.others == tuple(others)
    assert group.places == 3


@pytest.mark.parametrize("field", ["rule", "message", "declared", "actual", "variant"])
def test_another_disagreement(field: str) -> None:
    """It is another group, in the order of the findings."""
    other = at("f", replace(FINDING, **{field: "other"}))
    last = at("asm_exc_nmi")

    groups = alike([FINDING, other, last])

    assert [group.first for group in groups] == [FINDING, other]
    assert groups[0].others == (last,)


def test_another_object() -> None:
    """What two files have in common they have each."""
    module = replace(FINDING, location=Location("kvm.ko", "f", 0x15))
    assert len(alike([FINDING, module])) == 2


@pytest.mark.parametrize("field", ["declared", "actual"])
def test_one_side_alone_groups_nothing(field: str) -> None:
    """Functions without a state have nothing in common but that."""
    one = replace(FINDING, **{field: ""})
    assert len(alike([one, at("f", one)])) == 2


def test_each_place_is_told_with_its_key() -> None:
    """The first is shown whole, others by name; many are counted."""
    (group,) = alike([replace(FINDING, occurrences=2), at("asm_exc_nmi")])
    printed = list(text.told(group))
    assert printed[0].endswith(": the frame is not where the entry has it [3 places]")
    assert "  the evidence" in printed
    assert printed[-1] == (
        "  alike     asm_exc_nmi+0x15: text/frame:vmlinux:asm_exc_nmi:-:0"
    )

    (many,) = alike([FINDING, *(at(f"f{n}") for n in range(34))])
    named = [line for line in text.told(many) if line.startswith("  alike")]
    assert len(named) == 9
    assert "26 more" in named[-1]


def test_one_alone() -> None:
    """Nothing is like it, and nothing more is said of it."""
    (group,) = alike([FINDING])
    assert list(text.told(group)) == list(text.lines(FINDING))
    assert not any("alike" in line for line in text.told(group))

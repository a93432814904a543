"""Findings number, group and key themselves without addresses."""

from __future__ import annotations

from dataclasses import replace

from harness.finding import Finding, Location, group_by_cause, number

HERE = Location("vmlinux", "do_idle", 0x1C, address=0xFFFFFFFF81001000)
FINDING = Finding("alternative/ret-1", HERE, "wrong at ret-1", platforms=("native",))


def test_location_prints_as_the_kernel_does() -> None:
    """An offset of zero is not printed."""
    assert str(HERE) == "do_idle+0x1c"
    assert str(replace(HERE, offset=0)) == "do_idle"


def test_key_survives_a_rebuild() -> None:
    """Neither the address nor the offset is part of the key."""
    moved = replace(FINDING, location=replace(HERE, offset=0x40, address=1))

    assert moved.key == FINDING.key


def test_findings_of_one_symbol_are_told_apart() -> None:
    """Equal keys get ordinals in address order, whatever the input order."""
    later = replace(FINDING, location=replace(HERE, offset=0x80))

    numbered = number([later, FINDING])

    assert [(f.location.offset, f.ordinal) for f in numbered] == [(0x1C, 0), (0x80, 1)]
    assert len({f.key for f in numbered}) == 2


def test_one_cause_is_one_finding() -> None:
    """Grouping keeps the first place and counts the others."""
    one = replace(FINDING, cause="callee x")
    two = replace(one, location=Location("vmlinux", "schedule", 0), platforms=("xen",))

    (grouped,) = group_by_cause([two, one])

    assert grouped.location == HERE
    assert grouped.occurrences == 2
    assert grouped.platforms == ("native", "xen")


def test_causes_are_ranked_by_places() -> None:
    """The cause with the most places comes first."""
    rare = replace(FINDING, cause="rare", rule="a/a")
    common = [replace(FINDING, cause="common") for _ in range(3)]

    assert [f.cause for f in group_by_cause([rare, *common])] == ["common", "rare"]

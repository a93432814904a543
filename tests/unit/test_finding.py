"""Findings number, group and key themselves without addresses."""

from __future__ import annotations

import pickle
import weakref

from msgspec.structs import replace

from harness.finding import Finding, Lines, Location, group_by_cause, number, settled

HERE = Location("vmlinux", "do_idle", 0x1C, address=0xFFFFFFFF81001000)
FINDING = Finding("alternative/ret-1", HERE, "wrong at ret-1", platforms=("native",))


def test_location_prints_as_the_kernel_does() -> None:
    """An offset of zero is not printed."""
    assert str(HERE) == "do_idle+0x1c"
    assert str(replace(HERE, offset=0)) == "do_idle"


def test_locations_are_ordered_by_place() -> None:
    """Where one was linked to and its line do not count, with any of the operators."""
    same = replace(HERE, address=1, line="a.c:1")
    later = replace(HERE, offset=0x20, address=0)

    assert same >= HERE
    assert same <= HERE
    assert later > HERE
    assert later >= HERE
    assert later > HERE
    assert later >= HERE
    assert not later <= HERE
    assert not later <= HERE


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


def test_lines_are_drawn_when_they_are_read() -> None:
    """Nobody who only compares keys or pickles a finding draws its window."""
    drawn = []

    class Item:
        def __str__(self) -> str:
            drawn.append(1)
            return "line"

    lines = Lines(lambda: [Item(), "other"])
    finding = Finding("a/b", Location("vmlinux", "f", 0), "wrong", window=lines)
    assert finding.key
    assert not drawn
    assert tuple(finding.window) == ("line", "other")
    assert finding.window == ("line", "other")
    assert len(drawn) == 1


def test_pickled_lines_are_read_later() -> None:
    """What is pickled is what the lines are made of, and it makes the same lines."""
    lines = Lines(lambda: [Location("vmlinux", "f", 4)])
    again = pickle.loads(pickle.dumps(lines))
    assert again == ("f+0x4",)
    assert hash(again) == hash(("f+0x4",))


def test_what_is_kept_holds_no_program() -> None:
    """A settled finding has the same lines; what they were collected from may go."""

    class Columns:
        pass

    columns = Columns()
    seen = weakref.ref(columns)

    def collect(columns: Columns = columns) -> list[object]:
        return [Location(type(columns).__name__, "f", 4)]

    window = Lines(collect)
    finding = settled(Finding("a/b", HERE, "wrong", window=window))
    del columns, collect, window
    assert seen() is None
    assert finding.window == ("f+0x4",)
    assert settled(FINDING) is FINDING

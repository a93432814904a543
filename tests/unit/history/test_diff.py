"""Two runs differ by what they found and by nothing else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.finding import Finding, Location
from harness.history.diff import Diff, diff, places
from harness.result import Stage, Status
from tests.builders.results import finding, run, stage

A, B, C = finding("a"), finding("b"), finding("c")


def names(changes: Diff) -> dict[str, list[str]]:
    return {
        group: [change.finding.location.symbol for change in getattr(changes, group)]
        for group in ("new", "known", "fixed", "unseen")
    }


def test_new_known_and_fixed() -> None:
    """By key: whether an entry covers it makes no difference to what it is."""
    before = run(stage(A, known=(B,)))
    after = run(stage(C, known=(B,)))

    found = diff(before, after)

    assert names(found) == {"new": ["c"], "known": ["b"], "fixed": ["a"], "unseen": []}
    assert found.worse
    assert (found.before, found.after) == (before.run_id, after.run_id)


def test_a_rebuild_makes_no_difference() -> None:
    """A function that moved and grew, lines that did: it is the same finding."""
    moved = replace(
        A, location=Location("vmlinux", "a", 0x40, 0xFFFFFFFF82000040, "a.c:9")
    )

    found = diff(run(stage(A)), run(stage(moved)))

    assert names(found)["known"] == ["a"]
    assert found.known[0].finding.location.offset == 0x40
    assert not found.worse


def test_new_and_reviewed_is_no_worse() -> None:
    """Somebody knows of it already."""
    found = diff(run(stage()), run(stage(known=(A,))))

    assert names(found)["new"] == ["a"]
    assert not found.worse


def test_what_expired_is_new() -> None:
    """Though the earlier run has it: so it is when it is judged against that run."""
    lapsed = replace(A, expired=("2020-01-01: r, l",))

    found = diff(run(stage(known=(A,))), run(stage(lapsed)))

    assert names(found)["new"] == ["a"]
    assert names(found)["known"] == []
    assert found.worse


@pytest.mark.parametrize("status", [Status.ERROR, Status.MISS, Status.SKIP])
def test_without_a_verdict_nothing_is_fixed(status: Status) -> None:
    """A boot that never was does not mend what a boot found."""
    found = diff(run(stage(A)), run(stage(status=status)))

    assert names(found) == {"new": [], "known": [], "fixed": [], "unseen": ["a"]}


def test_what_was_seen_twice_must_be_looked_at_twice() -> None:
    """Fixed on kvm and not run on xen: it may be there still."""
    before = run(stage(A, variant="kvm"), stage(A, variant="xen"))

    part = diff(before, run(stage(variant="kvm"), stage(B, variant="native")))
    whole = diff(before, run(stage(variant="kvm"), stage(variant="xen")))

    assert names(part)["unseen"] == ["a"]
    assert names(whole)["fixed"] == ["a"]


def test_one_build_under_two_names() -> None:
    """`validate build-1`, then `validate build-2`: one variant each is the same one."""
    before = run(stage(A, variant="build-1"))

    found = diff(before, run(stage(B, variant="build-2")))
    boot = diff(before, run(stage(B, variant="build-2", of=Stage.BOOT)))

    assert names(found)["fixed"] == ["a"]
    assert names(boot)["unseen"] == ["a"]


@pytest.mark.parametrize(
    ("seen", "judged", "becomes"),
    [
        (A, ("vmlinux", "a.ko"), "fixed"),
        (A, ("vmlinux",), "fixed"),
        (A, ("a.ko",), "unseen"),
        (A, (), "unseen"),
        (replace(A, occurrences=2), ("vmlinux",), "unseen"),
        (replace(A, occurrences=2), ("a.ko", "vmlinux"), "fixed"),
        (replace(A, location=Location("kernel/a.o", "a", 0)), ("vmlinux",), "unseen"),
    ],
)
def test_only_in_what_was_judged_it_is_fixed(
    seen: Finding, judged: tuple[str, ...], becomes: str
) -> None:
    """The file that it was in, and all of them where nobody tells which that was."""
    before = run(stage(seen, objects=("a.ko", "vmlinux")))

    assert names(diff(before, run(stage(objects=judged))))[becomes] == ["a"]


def test_a_run_that_does_not_tell_what_it_judged() -> None:
    """Older ones do not: nothing is known of what is gone."""
    found = diff(run(stage(A, objects=())), run(stage()))

    assert names(found)["unseen"] == ["a"]


def test_variants_and_order() -> None:
    """A finding of several variants is one change; changes sort as findings do."""
    after = run(stage(B, A, variant="xen"), stage(A, variant="kvm"))

    found = diff(run(stage(variant="xen"), stage(variant="kvm")), after)

    assert [change.variants for change in found.new] == [("kvm", "xen"), ("xen",)]
    assert names(found)["new"] == ["a", "b"]


def test_a_place_is_judged_when_each_of_its_stages_is() -> None:
    """Two builds of one name, one of which cannot be read."""
    one = run(stage(), stage(status=Status.ERROR), stage(of=Stage.BOOT))

    assert places(one) == {(Stage.BOOT, "xen")}


def test_nothing_of_a_run_against_itself() -> None:
    """Whatever is in it is known."""
    one = run(stage(A, known=(B,)), stage(A, of=Stage.BOOT))

    found = diff(one, one)

    assert names(found) == {"new": [], "known": ["a", "b"], "fixed": [], "unseen": []}
    assert isinstance(found.known[0].finding, Finding)

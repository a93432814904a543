"""A run against an earlier one: what that had is known, what lapsed is not."""

from __future__ import annotations

from msgspec.structs import replace

from harness.errors import ExitCode
from harness.history.against import against
from harness.result import Status
from tests.builders.results import finding, run, stage

A, B, C = finding("a"), finding("b"), finding("c")


def test_what_the_base_has_is_known() -> None:
    """New there or known there; and the run says whom it was judged against."""
    base = run(stage(A, known=(B,)))

    found = against(run(stage(A, B, C)), base)

    (only,) = found.stages
    assert (only.findings, only.known) == ((C,), (A, B))
    assert only.status is Status.FAIL
    assert found.baseline == base.run_id


def test_nothing_new_passes() -> None:
    """The exit code is that of new findings."""
    found = against(run(stage(A), stage(known=(B,))), run(stage(A)))

    assert [each.status for each in found.stages] == [Status.PASS, Status.PASS]
    assert found.exit_code == ExitCode.CLEAN


def test_no_verdict_stays_none() -> None:
    """An ERROR that has findings, too, is no PASS when they are known."""
    broken = stage(A, status=Status.ERROR, exit_code=3)

    found = against(run(broken), run(stage(A)))

    assert found.stages[0].status is Status.ERROR
    assert found.exit_code == ExitCode.INFRASTRUCTURE


def test_a_failure_without_findings_stays_one() -> None:
    """There is nothing in it that could be known."""
    failed = replace(stage(status=Status.FAIL), reason="it hangs")

    assert against(run(failed), run(stage(A))).stages == (failed,)


def test_what_lapsed_is_new() -> None:
    """Whatever the base says: its review was until a day."""
    lapsed = replace(A, expired=("2020-01-01: r, l",))

    found = against(run(stage(lapsed, B)), run(stage(known=(A, B))))

    assert found.stages[0].findings == (lapsed,)
    assert found.stages[0].known == (B,)

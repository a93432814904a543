"""A stage always ends in a result of the right status."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import pytest

from harness.errors import BuildError, InfraError, UserError
from harness.finding import Finding, Location
from harness.result import Stage, StageResult, Status
from harness.stages.guard import Missing, guard, judged

WRONG = Finding("a/b", Location("vmlinux", "f", 0), "wrong")


def raising(exc: Exception) -> Callable[[], StageResult]:
    def work() -> StageResult:
        raise exc

    return work


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (InfraError("disk full", hint="free space"), Status.ERROR, 3),
        (BuildError("does not compile"), Status.ERROR, 2),
        (UserError("no such option"), Status.ERROR, 2),
        (ZeroDivisionError("ours"), Status.ERROR, 4),
        (Missing("no hypervisor"), Status.MISS, 0),
        (OSError(errno.ENOSPC, "No space left on device"), Status.ERROR, 3),
        (FileNotFoundError(errno.ENOENT, "ours"), Status.ERROR, 4),
        (BrokenProcessPool("killed"), Status.ERROR, 3),
    ],
)
def test_what_is_raised_becomes_a_status(
    exc: Exception, status: Status, code: int
) -> None:
    """No error of ours or of the machine is ever a FAIL."""
    result = guard(Stage.BOOT, "xen", raising(exc))

    assert (result.status, result.exit_code) == (status, code)
    assert result.reason


def test_a_new_finding_fails_the_stage() -> None:
    """Without findings it passes; counts are kept either way."""
    passed = judged(Stage.BOOT, "xen", [], {"points": 3})
    failed = judged(Stage.BOOT, "xen", [WRONG, WRONG], {"points": 3})

    assert (passed.status, passed.counts) == (Status.PASS, {"points": 3})
    assert failed.status is Status.FAIL
    assert len(failed.findings) == 2

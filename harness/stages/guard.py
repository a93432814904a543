"""Guard: a stage always ends in a StageResult, whatever went wrong in it."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from harness import baseline
from harness.errors import ExitCode, HarnessError
from harness.finding import Finding, group_by_cause, number
from harness.result import Stage, StageResult, Status

# What the machine has no more of, or cannot do: nothing of ours, and no kernel's fault.
_MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)


class Missing(Exception):
    """This machine has not what the stage takes: MISS, with the reason."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def guard(stage: Stage, variant: str, work: Callable[[], StageResult]) -> StageResult:
    """Return what ``work`` returns, timed; turn what it raises into its status."""
    started = time.monotonic()
    try:
        result = work()
    except Missing as exc:
        result = StageResult(
            stage, variant, Status.MISS, reason=exc.reason, hint=exc.hint
        )
    except HarnessError as exc:
        result = failed(stage, variant, exc)
    except Exception as exc:  # noqa: BLE001 - one broken stage must not lose the others
        result = _broken(stage, variant, exc)
    return replace(result, seconds=time.monotonic() - started)


def failed(stage: Stage, variant: str, exc: HarnessError) -> StageResult:
    """Return the ERROR that ``exc`` makes of a stage."""
    return StageResult(
        stage,
        variant,
        Status.ERROR,
        reason=exc.message,
        hint=exc.hint or "",
        exit_code=exc.exit_code,
    )


def _broken(stage: Stage, variant: str, exc: Exception) -> StageResult:
    if isinstance(exc, OSError) and exc.errno in _MACHINE:
        return StageResult(
            stage,
            variant,
            Status.ERROR,
            reason=str(exc),
            hint="make room on the machine, or mend it; then run it again",
            exit_code=ExitCode.INFRASTRUCTURE,
        )
    from concurrent.futures import BrokenExecutor  # not where nothing is broken

    if isinstance(exc, BrokenExecutor):
        return StageResult(
            stage,
            variant,
            Status.ERROR,
            reason=f"a process that worked for us was killed: {exc}",
            hint="is there memory enough? fewer --jobs take less",
            exit_code=ExitCode.INFRASTRUCTURE,
        )
    return StageResult(
        stage,
        variant,
        Status.ERROR,
        reason=f"internal error: {type(exc).__name__}: {exc}",
        hint="a bug in orc-harness: please report the notes of this stage",
        exit_code=ExitCode.INTERNAL,
        notes=tuple(traceback.format_exc().splitlines()),
    )


def skipped(stage: Stage, variant: str, reason: str) -> StageResult:
    """Return the result of a stage that an earlier one made impossible."""
    return StageResult(stage, variant, Status.SKIP, reason=reason)


def unless(judgement: StageResult, reason: str) -> StageResult:
    """Return an ERROR of ours for ``reason``, if there is one; what was found stands."""
    if not reason or judgement.status is Status.FAIL:
        return judgement
    return replace(
        judgement,
        status=Status.ERROR,
        reason=reason,
        exit_code=ExitCode.INFRASTRUCTURE,
    )


def judged(
    stage: Stage,
    variant: str,
    findings: Iterable[Finding],
    counts: Mapping[str, int],
    notes: Iterable[str] = (),
    *,
    entries: Sequence[baseline.Known] | None = None,
) -> StageResult:
    """Return PASS or FAIL: findings grouped by cause, the known ones apart.

    ``entries`` are what is known, if they are read already.
    """
    grouped = group_by_cause(number(findings))
    if entries is None:
        entries = baseline.load_all()
    new, known = baseline.split(grouped, entries, datetime.now(UTC).date())
    return StageResult(
        stage,
        variant,
        Status.FAIL if new else Status.PASS,
        counts=dict(counts),
        findings=new,
        known=known,
        notes=tuple(notes),
    )

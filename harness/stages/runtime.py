"""Runtime: all that a built kernel is put through where it runs."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from harness.boot.debug import OnStop
from harness.boot.outcome import BootResult
from harness.coverage import Coverage
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages import boot, compare, readback, shadow
from harness.stages.guard import skipped
from harness.stages.subject import Subject

STAGES = (Stage.BOOT, Stage.READBACK, Stage.COMPARE, Stage.SHADOW)

Objection = Callable[[BootResult], str]


def run(
    subject: Subject,
    seed: int,
    progress: Progress,
    objection: Objection = lambda _: "",
) -> tuple[list[StageResult], Coverage | None]:
    """Boot ``subject``, read its text, compare its unwinder, check what it executes.

    Returned are the results, and what was executed, if the last one could tell.
    ``objection`` says why what came up is not what was to be looked at, or nothing:
    then the boot is a MISS with that reason, and the rest is skipped.
    """
    booted, result = boot.stage(subject, progress)
    if result is not None and (reason := objection(result)):
        missed = booted
        if booted.status is Status.PASS:  # what is wrong with it stays wrong
            missed = replace(booted, status=Status.MISS, reason=reason)
        rest = [skipped(stage, subject.name, reason) for stage in STAGES[1:]]
        return [missed, *rest], None
    probed = probe(subject, seed, result, progress)
    shadowed, part = shadow.stage(subject, result, progress)
    return [booted, *probed, shadowed], part


def probe(
    subject: Subject,
    seed: int,
    booted: BootResult | None,
    progress: Progress,
    on_stop: OnStop | None = None,
) -> list[StageResult]:
    """Boot ``subject`` once more; read its text on the way, then compare."""
    looker = readback.Looker(seed)
    compared = compare.stage(
        subject,
        seed,
        booted,
        progress,
        looker.look,
        looker.look_again,
        on_stop,
    )
    return [readback.stage(subject, looker, booted, progress), compared]

"""Summary: one run of many, in a line."""

from __future__ import annotations

from msgspec import Struct

from harness.history.diff import VERDICTS
from harness.result import RunResult


class Summary(Struct, frozen=True):
    """What a list of runs tells of each.

    Attributes:
        exit_code: what its process exited with.
        new: how many findings were new, however many stages had each.
        known: how many were known.
        judged: how many stages came to a verdict.
        stages: how many could have, on a machine of ours.
    """

    run_id: str
    started: str
    seconds: float
    profile: str
    tree: str
    exit_code: int
    new: int
    known: int
    judged: int
    stages: int


def summary(run: RunResult) -> Summary:
    """Return ``run`` in a line."""
    return Summary(
        run.run_id,
        run.started,
        run.seconds,
        run.profile,
        run.tree,
        int(run.exit_code),
        len({finding.key for stage in run.stages for finding in stage.findings}),
        len({finding.key for stage in run.stages for finding in stage.known}),
        sum(stage.status in VERDICTS for stage in run.stages),
        sum(not stage.elsewhere for stage in run.stages),
    )

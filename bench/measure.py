"""Measure: wall, CPU and memory of one process from its start to its end."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took, its children included.

    Attributes:
        wall_s, cpu_s: seconds from its start to its end, and of all cores together.
        rss_mb: the peak of the largest process among them.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float


def measure(
    argv: Sequence[str | Path],
    *,
    cores: int,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[Cost, str]:
    """Run ``argv`` on ``cores`` cores; return its cost and its stdout.

    Raises:
        SystemExit: it did not exit with 0 (or 1, which is our "new findings").
    """
    usual = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # people keep their bytecode
    mine = sorted(os.sched_getaffinity(0))[:cores]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, argv)),
            cwd=cwd,
            env={**usual, **(env or {})},
            stdout=out,
            stderr=err,
            preexec_fn=lambda: os.sched_setaffinity(0, mine),
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in (0, 1):
            raise SystemExit(
                f"{argv[0]} exited with {process.returncode}: {err.read()}"
            )
        cost = Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
        return cost, out.read()


def median(costs: Iterable[Cost]) -> Cost:
    """Return the median of each column, but the peak of memory."""
    costs = list(costs)
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
        max(cost.rss_mb for cost in costs),
    )

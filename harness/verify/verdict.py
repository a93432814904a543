"""Verdict: what the validation of one program came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.finding import Finding


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the validation of one program came to.

    Attributes:
        findings: numbered and sorted, not grouped by cause.
        counts: what was looked at, by name, in printing order.
        notes: what a reader should know and need not act on.
        seconds: how long it took.
        cached: it was given before, on the same bytes (``archive.py``).
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]
    seconds: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one file of many, or the error that stands in its place."""

    path: Path
    verdict: Verdict | None
    error: HarnessError | None = None

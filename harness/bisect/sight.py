"""Sight: what one look came to; a Looker looks, and is told what is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from harness.finding import Finding, group_by_cause, number


class Wanted(Struct, frozen=True):
    """What is looked for, and how often, where one look need not show it.

    Attributes:
        key: of a finding; the first look that shows it is the last. Empty: all looks
            are taken, whatever they show.
        runs: looks without it after which it is not there.
    """

    key: str = ""
    runs: int = 1


ONCE = Wanted()


class Sight(Struct, frozen=True):
    """What was seen of a commit, or of a configuration.

    Attributes:
        commit: its hash.
        findings: grouped by cause; None if nobody can tell, and ``reason`` says why.
        file: what was judged, kept of clean looks only.
        runs: how often it was looked at.
        shown: in how many of them each finding was seen, by key; empty: in all.
    """

    commit: str
    findings: tuple[Finding, ...] | None
    reason: str = ""
    digest: str = ""
    toolchain: str = ""
    clean: bool = False
    seconds: float = 0.0
    file: Path | None = None
    runs: int = 1
    shown: Mapping[str, int] = field(default_factory=dict)

    def times(self, key: str) -> int:
        """Return in how many looks the finding of ``key`` was seen."""
        if not any(finding.key == key for finding in self.findings or ()):
            return 0
        return self.shown.get(key, self.runs)


class Looker(Protocol):
    """Looks at commits or configurations: the one thing that a search does not do."""

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        """Build ``commit`` and judge it; in an empty directory if ``clean``.

        Raises:
            InfraError: the machine failed: that is no answer.
        """
        ...


def grouped(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return ``findings`` as every command shows them: numbered, one per cause."""
    return tuple(group_by_cause(number(findings)))

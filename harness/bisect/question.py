"""Question: what is asked of every commit: does this finding, by key, occur? Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from harness.finding import Finding

LINKED = "vmlinux"
VALIDATOR = "validate"


class Question(Struct, frozen=True):
    """A bisection as it was asked for; a state file belongs to exactly one.

    Attributes:
        tree: the repository, by absolute path, links followed.
        good, bad: its ends, as full hashes: of commits, or of whole .configs.
        variant: what is built, by name and content of its configuration.
        target: what make is asked for: ``vmlinux``, or one object such as
            ``arch/x86/lib/hweight.o``.
        toolchains: images to build in, the first that can.
        finding: its key; empty until both ends were compared.
        oracle: who is asked, and how sure the answers have to be.
    """

    tree: str
    good: str
    bad: str
    variant: str
    target: str
    toolchains: tuple[str, ...]
    finding: str = ""
    oracle: str = VALIDATOR

    @property
    def is_booted(self) -> bool:
        """Whether the answers are those of boots, which may differ."""
        return self.oracle != VALIDATOR


def occurs(key: str, findings: Sequence[Finding]) -> Finding | None:
    """Return the finding of that key, None if it does not occur."""
    return next((finding for finding in findings if finding.key == key), None)


def fresh(bad: Sequence[Finding], good: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return what the bad end has and the good end has not, gravest first."""
    before = {finding.key for finding in good}
    return tuple(finding for finding in bad if finding.key not in before)

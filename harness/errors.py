"""Errors: everything that stops us from giving a verdict.

A broken kernel is never an exception; it is a :class:`harness.finding.Finding`.

    HarnessError
    ├── UserError     what was asked for cannot be done (usage, impossible option)
    │   ├── FormatError   a file is not what it should be
    │   └── BuildError    the kernel tree does not configure or compile
    └── InfraError    the machine let us down (no Docker, disk full, lost guest)
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the process returns; ``docs/exit-codes.md`` has the table."""

    CLEAN = 0
    FINDINGS = 1
    USAGE = 2
    INFRASTRUCTURE = 3
    INTERNAL = 4


class HarnessError(Exception):
    """One clear error: what was seen and expected, and in ``hint`` what to do."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UserError(HarnessError):
    """What was asked for cannot be done as asked."""

    exit_code = ExitCode.USAGE


class FormatError(UserError):
    """A file is not what it should be: truncated, foreign, unknown layout."""


class BuildError(UserError):
    """A kernel tree does not configure or compile; never a verdict on it."""


class InfraError(HarnessError):
    """The machine or its services failed; never a finding."""

    exit_code = ExitCode.INFRASTRUCTURE

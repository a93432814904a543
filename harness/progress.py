"""Progress: how long work tells its caller where it is.

A library function takes a ``Progress`` and calls it; only the command line draws.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives ``what`` is being done, and how many of how many (if known)."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


def silent(what: str, done: int = 0, total: int | None = None) -> None:
    """The Progress for callers that draw nothing."""

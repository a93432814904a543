"""Answer: what one commit (or configuration) says, in git's own three words."""

from __future__ import annotations

import enum

from msgspec import Struct


class Outcome(enum.StrEnum):
    """Whether the finding occurs: the words of ``git bisect``."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"  # nobody can tell: it does not build, or carries no table


class Answer(Struct, frozen=True):
    """What was seen at one commit.

    Attributes:
        reason: why it is skipped, or why it is good without a look.
        digest: hash of what was judged, debug information aside; empty if nothing was.
        same_as: one that was looked at before and has the same digest.
        toolchain: the image that it was built in.
        clean: it was built in an output directory that held nothing before.
        runs: how often it was looked at.
        shown: in how many of those looks the finding was there.
        seconds: how long that took.
    """

    commit: str
    outcome: Outcome
    reason: str = ""
    digest: str = ""
    same_as: str = ""
    toolchain: str = ""
    clean: bool = False
    runs: int = 1
    shown: int = 0
    seconds: float = 0.0

"""Baseline: the reviewed findings of kernels that are wrong and known to be.

``configs/known/*.toml`` holds one file per cause. An entry states why, links the
proof and expires; after its date its findings are new again.
"""

from __future__ import annotations

import datetime
import fnmatch
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import FormatError
from harness.finding import Finding
from harness.variant import CONFIGS

KNOWN = CONFIGS / "known"


@dataclass(frozen=True, slots=True)
class Known:
    """One cause that a person has looked into.

    Attributes:
        key: :attr:`Finding.key`; ``*`` stands for what a rebuild may change.
        reason: what is wrong, and why it is the kernel and not us.
        evidence: kernel files and lines that prove it.
        link: where it is discussed or fixed.
        affected: the kernels that have it.
        expires: the last day on which it is known.
    """

    key: str
    reason: str
    evidence: tuple[str, ...]
    link: str
    affected: str
    expires: datetime.date

    def covers(self, finding: Finding, today: datetime.date) -> bool:
        """Tell whether ``finding`` is this one, and is so still ``today``."""
        return today <= self.expires and fnmatch.fnmatchcase(finding.key, self.key)


def load(directory: Path = KNOWN) -> tuple[Known, ...]:
    """Read every entry below ``directory``, sorted by file name.

    Raises:
        FormatError: an entry lacks a field or is not TOML.
    """
    return tuple(_read(path) for path in sorted(directory.glob("*.toml")))


def _read(path: Path) -> Known:
    try:
        return _known(tomllib.loads(path.read_text()))
    except ValueError as exc:
        raise FormatError(
            f"{path} is not a baseline entry: {exc}",
            hint="key, reason, evidence, link, affected and expires are all needed",
        ) from exc


def _known(entry: Mapping[str, object]) -> Known:
    # By hand: pydantic would take longer to import than a small kernel to validate.
    match entry:
        case {
            "key": str(key),
            "reason": str(reason),
            "evidence": [*evidence],
            "link": str(link),
            "affected": str(affected),
            "expires": datetime.date() as expires,
        }:
            texts = tuple(map(str, evidence))
            return Known(key, reason, texts, link, affected, expires)
    kinds = ", ".join(f"{key}: {type(value).__name__}" for key, value in entry.items())
    raise ValueError(f"it has {kinds or 'nothing'}")


def split(
    findings: Iterable[Finding], known: Sequence[Known], today: datetime.date
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings that are new, and those that ``known`` covers."""
    new: list[Finding] = []
    old: list[Finding] = []
    for finding in findings:
        covered = any(entry.covers(finding, today) for entry in known)
        (old if covered else new).append(finding)
    return tuple(new), tuple(old)

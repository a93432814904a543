"""Judge: what is made of a kernel for a question, and what is found in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from harness.bisect.question import LINKED
from harness.bisect.sight import Sight, Wanted, grouped
from harness.build.collect import CPUFEATURES
from harness.elf.digest import digest
from harness.elf.feature import parse_cpufeatures
from harness.progress import Progress, silent
from harness.verify.many import Given, check_many


class Made(Struct, frozen=True):
    """What was made: ``file`` is the first target, in the output directory ``out``."""

    file: Path
    out: Path
    source: Path
    config: Mapping[str, str]


class Judge(Protocol):
    """Says what is found in what was made."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What make is asked for: ``vmlinux`` or one object, and what else it takes."""
        ...

    def judge(self, made: Made, sight: Sight, wanted: Wanted) -> Sight:
        """Return ``sight`` with what was found, or the reason why nobody can tell.

        Raises:
            InfraError: the machine failed: that is no answer.
        """
        ...


class Validation(Struct, frozen=True):
    """The static judge: validates ``target``; one look says it all.

    Attributes:
        evidence: directory where what clean looks judged is kept.
    """

    target: str
    evidence: Path
    progress: Progress = silent

    @property
    def targets(self) -> tuple[str, ...]:
        """Just the one."""
        return (self.target,)

    def judge(self, made: Made, sight: Sight, wanted: Wanted) -> Sight:
        """Validate the one file."""
        self.progress(f"validating {self.target} at {sight.commit[:12]}")
        header = made.source / CPUFEATURES
        features = parse_cpufeatures(header.read_text()) if header.exists() else None
        (checked,) = check_many([made.file], jobs=1, given=Given(features))
        if checked.verdict is None:
            why = checked.error.message if checked.error else "no verdict"
            return replace(sight, reason=f"cannot be judged: {why}")
        file = keep(made.file, sight, self.evidence)
        sight = replace(sight, digest=digest(made.file), file=file)
        if not checked.verdict.counts:
            return replace(sight, reason=f"{self.target} carries no ORC")
        return replace(sight, findings=grouped(checked.verdict.findings))


def keep(file: Path, sight: Sight, evidence: Path) -> Path | None:
    """Copy ``file`` to where a clean look's evidence is kept; None of other looks."""
    if not sight.clean:
        return None
    kept = evidence / sight.commit[:12] / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, kept)
    return kept


def is_linked(judge: Judge) -> bool:
    """Tell whether it takes a whole kernel, and no single object."""
    return LINKED in judge.targets

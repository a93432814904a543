"""Probe: build what the finding needs of a commit, validate just that, and say.

Objects and vmlinux are built in an output directory that is kept for each toolchain,
from a checkout that is switched in place; a clean look has a directory of its own.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness.bisect.repository import Checkout
from harness.bisect.stale import Stale, stale
from harness.build import part
from harness.build.collect import CPUFEATURES
from harness.build.tree import Tree
from harness.build.workplace import Limit, Order, read_order
from harness.container.image import Image
from harness.container.job import Engine
from harness.elf.digest import digest
from harness.elf.feature import parse_cpufeatures
from harness.errors import FormatError, UserError
from harness.finding import Finding, group_by_cause, number
from harness.progress import Progress, silent
from harness.variant import Variant
from harness.verify.many import Given, check_many

_SOURCES = (".c", ".S", ".rs")
CLEAN = ".clean-"  # output directories of one look
_BUILT = "commit"  # what a kept directory was last built of


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a commit came to.

    Attributes:
        findings: grouped by cause; None if nobody can tell, and ``reason`` says why.
        file: what was judged, kept of clean looks only.
    """

    commit: str
    findings: tuple[Finding, ...] | None
    reason: str = ""
    digest: str = ""
    toolchain: str = ""
    clean: bool = False
    seconds: float = 0.0
    file: Path | None = None


class Looker(Protocol):
    """Looks at commits: the one thing that a hunt does not do itself."""

    def look(self, commit: str, *, clean: bool = False) -> Sight:
        """Build ``commit`` and validate it; in an empty directory if ``clean``.

        Raises:
            InfraError: the machine failed: that is no answer.
        """
        ...

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        """Return a commit that is ``onto`` without ``commit``; None on a conflict."""
        ...


@dataclass(slots=True)
class Prober:
    """Looks at commits of one repository, for one target.

    Attributes:
        images: name -> toolchain; the first that builds a commit is taken, and the
            one that built the last commit is tried first.
        target: ``vmlinux``, or one object by path.
        place: directory of the kept output; nobody else may use it meanwhile.
        evidence: directory where what clean looks judged is kept.
    """

    engine: Engine
    images: dict[str, Image]
    checkout: Checkout
    variant: Variant
    target: str
    place: Path
    evidence: Path
    jobs: int = 2
    progress: Progress = silent
    _preferred: str = field(default="", init=False)

    def look(self, commit: str, *, clean: bool = False) -> Sight:
        """Build ``commit`` and validate it; in an empty directory if ``clean``."""
        started = time.monotonic()
        self.checkout.switch(commit)
        if self.target != part.LINKED and not self._has_source():
            sight = Sight(commit, (), f"no source of {self.target}", clean=clean)
        else:
            sight = self._build(commit, clean)
        return replace(sight, seconds=round(time.monotonic() - started, 2))

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        """Return a commit that is ``onto`` without ``commit``; None on a conflict."""
        return self.checkout.revert(commit, onto, mainline=merge)

    def _has_source(self) -> bool:
        path = self.checkout.source / self.target
        return any(path.with_suffix(suffix).exists() for suffix in _SOURCES)

    def _build(self, commit: str, clean: bool) -> Sight:
        names = sorted(self.images, key=lambda name: name != self._preferred)
        reasons = []
        for name in names:
            try:
                sight = self._built_with(name, commit, clean)
            except FormatError:
                raise
            except UserError as exc:  # does not build, or cannot be so configured
                reasons.append(f"{name}: {exc.message}" if names[1:] else exc.message)
                continue
            self._preferred = name
            return sight
        return Sight(commit, None, "; ".join(reasons), clean=clean)

    def _built_with(self, name: str, commit: str, clean: bool) -> Sight:
        self.place.mkdir(parents=True, exist_ok=True)
        if not clean:
            return self._made_in(self.place / name, name, commit, clean=False)
        with tempfile.TemporaryDirectory(dir=self.place, prefix=CLEAN) as scratch:
            return self._made_in(Path(scratch) / name, name, commit, clean=True)

    def _made_in(self, kept: Path, name: str, commit: str, *, clean: bool) -> Sight:
        how_stale = self._stale(kept, commit)
        if how_stale is Stale.ALL:
            shutil.rmtree(kept, ignore_errors=True)
        order = self._order(name, commit)
        with part.opened(self.engine, order, kept, self.progress) as place:
            (kept / _BUILT).unlink(missing_ok=True)
            self.progress(f"building {self.target} at {commit[:12]}")
            try:
                file = part.make(
                    place, self.target, reconfigure=how_stale >= Stale.CONFIG
                )
            finally:
                (kept / _BUILT).write_text(commit)
            return self._judge(file, Sight(commit, None, toolchain=name, clean=clean))

    def _stale(self, kept: Path, commit: str) -> Stale:
        """Compare with what ``kept`` was built of; a failed build counts as well."""
        try:
            before = (kept / _BUILT).read_text()
        except FileNotFoundError:
            return Stale.ALL
        if not self.checkout.knows(before):
            return Stale.ALL
        paths = self.checkout.changed(before, commit)
        return stale(paths, linked=self.target == part.LINKED)

    def _order(self, name: str, commit: str) -> Order:
        root = self.checkout.repository.root
        tree = Tree(self.checkout.source, commit, str(root))
        limit = Limit(jobs=self.jobs)
        return read_order(tree, self.variant, self.images[name], limit)

    def _judge(self, file: Path, sight: Sight) -> Sight:
        self.progress(f"validating {self.target} at {sight.commit[:12]}")
        header = self.checkout.source / CPUFEATURES
        features = parse_cpufeatures(header.read_text()) if header.exists() else None
        (checked,) = check_many([file], jobs=1, given=Given(features))
        if checked.verdict is None:
            why = checked.error.message if checked.error else "no verdict"
            return replace(sight, reason=f"cannot be judged: {why}")
        sight = replace(sight, digest=digest(file), file=self._keep(file, sight))
        if not checked.verdict.counts:
            return replace(sight, reason=f"{self.target} carries no ORC")
        return replace(sight, findings=grouped(checked.verdict.findings))

    def _keep(self, file: Path, sight: Sight) -> Path | None:
        if not sight.clean:
            return None
        kept = self.evidence / sight.commit[:12] / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
        return kept


def grouped(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return ``findings`` as every command shows them: numbered, one per cause."""
    return tuple(group_by_cause(number(findings)))

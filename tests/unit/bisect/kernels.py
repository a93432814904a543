"""Kernels to hunt in: a history with one bug, looked at without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.bisect import journal as journals
from harness.bisect.asking import Asking
from harness.bisect.bisection import Bisection
from harness.bisect.dag import Dag
from harness.bisect.hunt import Hunt
from harness.bisect.question import Question
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.errors import InfraError
from harness.finding import Finding, Lines, Location
from tests.unit.bisect.histories import top

WINDOW = Lines(lambda: ("drawn when", "somebody looks"))
WANTED = Finding("text/step", Location("x.o", "x", 4), "wrong", window=WINDOW)
OLD = Finding("text/step", Location("x.o", "old", 4), "wrong, and always was")
MORE = Finding("text/step", Location("x.o", "y", 4), "wrong, too")
LINE = Dag({"c1": ("good",)} | {f"c{n}": (f"c{n - 1}",) for n in range(2, 13)})


@dataclass
class Kernel:
    """A history with one bug, and all that can be the matter with looking at it.

    ``lies`` are what kept directories show of some commits; ``dies`` counts looks
    down to the one in which the machine fails.
    """

    dag: Dag
    culprit: str
    unbuildable: frozenset[str] = frozenset()
    lies: dict[str, bool] = field(default_factory=dict)
    dies: int = -1
    conflict: bool = False
    looks: list[tuple[str, bool]] = field(default_factory=list)

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        if self.dies == len(self.looks):
            raise InfraError("the disk is full")
        self.looks.append((commit, clean))
        if commit in self.unbuildable:
            return self.told(Sight(commit, None, "does not build", clean=clean))
        bad = self.culprit in self.dag.ancestors([commit])
        if " without " in commit:
            bad = not commit.endswith(f" {self.culprit}")
        if not clean:
            bad = self.lies.get(commit, bad)
        found = (OLD, WANTED) if bad else (OLD,)
        digest = f"{bad}"
        return self.told(
            Sight(commit, found, digest=digest, toolchain="gcc", clean=clean)
        )

    def told(self, sight: Sight) -> Sight:
        """What is told of ``sight``, where that is something else."""
        return sight

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        return None if self.conflict else f"{onto} without {commit}"


def asked_of(dag: Dag, key: str = WANTED.key) -> Question:
    return Question("/linux", "good", top(dag), "native", "x.o", ("gcc",), key)


@contextmanager
def opened(path: Path, question: Question) -> Iterator[journals.Journal]:
    opening = journals.resume if path.exists() else journals.begin
    with opening(path, question) as journal:
        yield journal


def hunt(path: Path, kernel: Kernel, key: str = WANTED.key, **more) -> Bisection:
    question = asked_of(kernel.dag, key)
    with opened(path, question) as journal:
        asking = Asking(question, kernel, journal)
        return Hunt(kernel.dag, asking, kernel, **more).run()


@dataclass
class Flaky:
    """Kernels that show the finding at each third look only, if they have it."""

    culprit: int
    looked: int = 0
    asked: list[Wanted] = field(default_factory=list)

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        self.asked.append(wanted)
        number = 0 if commit == "good" else int(commit.removeprefix("c").split()[0])
        runs = shown = 0
        while runs < wanted.runs and not (shown and wanted.key):
            runs, self.looked = runs + 1, self.looked + 1
            shown += number >= self.culprit and self.looked % 3 == 0
        found = (WANTED,) if shown else ()
        times = {WANTED.key: shown}
        return Sight(commit, found, clean=clean, runs=runs, shown=times)

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        return "c0 without it"

"""Bisect made-up histories: python -m bench.bisect [--commits N] [--seeds N] [PLANT].

Each is Debian's source with a plant somewhere in it, among commits that do not build,
commits that change nothing, and a merge. What is printed: whether the right commit was
found, how long a step takes in a kept output directory, and how long the same takes in
an empty one, which is what a careful ``git bisect run`` script does for every commit (it
builds vmlinux there, too, which takes longer yet).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.bisect import request as requests
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.request import Request
from harness.bisect.search import First, Untestable
from harness.cli.console import board
from harness.corpus.plant import read_plants
from harness.errors import ExitCode
from harness.matrix import Request as MatrixRequest
from harness.matrix import workshop
from harness.variant import Platform, variant
from tests.builders.commits import History, Plan, write_history

# plant -> (what make is asked for, what ordinary commits change)
TARGETS = {
    "hint-func": ("arch/x86/lib/hweight.o", "arch/x86/lib/hweight.S"),
    "alt-ignored": ("arch/x86/lib/hweight.o", "arch/x86/lib/hweight.S"),
    "bp-lost": ("lib/argv_split.o", "lib/argv_split.c"),
    "sorttable": ("vmlinux", "lib/argv_split.c"),
}
ODD = 20  # one commit of so many does not build, and one changes nothing


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a bisection was; ``kept_s`` and ``clean_s`` are of one look each."""

    steps: int
    kept_s: float
    clean_s: float

    @property
    def faster(self) -> float:
        """How many times faster than with an empty directory for each step."""
        return self.clean_s / self.kept_s


def pace(found: Bisection) -> Pace | None:
    """Return the pace of ``found``, its ends and skips left out; None if that is all."""
    kept = [a.seconds for a in found.answers if not a.clean and a.digest][2:]
    if not kept:
        return None
    looks = [found.first, *found.parents]
    clean = [look.seconds for look in looks if look is not None]
    first_s = found.answers[0].seconds  # of the bad end: its directory was empty, too
    return Pace(
        len(kept), statistics.median(kept), statistics.median(clean or [first_s])
    )


def bisect(source: Path, plant: str, commits: int, seed: int) -> bool:
    """Make a history, bisect it, print a line; return whether it was right."""
    target, touched = TARGETS[plant]
    (wanted,) = (one for one in read_plants() if one.name == plant)
    plan = Plan(commits, touched, commits // ODD, commits // ODD, seed)
    root = Path(tempfile.mkdtemp(prefix="orc-harness-bench-"))
    try:
        whole = target == "vmlinux"
        history = write_history(source, root, plan, wanted, whole=whole)
        request = Request(root, variant(Platform.NATIVE, "small"), target=target)
        with board() as lines:
            found = requests.bisect(request, history.good, history.bad, lines)
        _print(plant, seed, found, history)
        return _right(found, history)
    finally:
        shutil.rmtree(requests.find_room(root).directory, ignore_errors=True)
        shutil.rmtree(root)


def _right(found: Bisection, history: History) -> bool:
    """Whether it is the culprit, or the least range that anybody can tell.

    Made on a commit that does not build it cannot be told from that one.
    """
    if isinstance(found.conclusion, Untestable):
        return {*found.conclusion.commits} == _inseparable(history)
    gone = found.reverts.get(history.culprit) is Revert.GONE
    return found.conclusion == First(history.culprit) and gone


def _inseparable(history: History) -> set[str]:
    """Return the culprit and those right before it that do not build."""
    repository = requests.find_room(history.root).repository
    parents = repository.between(history.good, history.bad).parents
    told, todo = {history.culprit}, [history.culprit]
    while todo:
        behind = {*parents[todo.pop()]} & history.unbuildable
        told |= behind
        todo += behind
    return told


def _print(plant: str, seed: int, found: Bisection, history: History) -> None:
    right = _right(found, history)
    skips = sum(answer.outcome == "skip" for answer in found.answers)
    print(
        f"{plant} seed {seed}: {_verdict(right, found)}, "
        f"{len(found.answers)} answers ({skips} skipped) in {found.seconds:.0f} s; "
        f"{_speed(pace(found))}",
        flush=True,
    )


def _speed(measured: Pace | None) -> str:
    if measured is None:
        return "no step between the ends in a kept directory"
    return (
        f"{measured.kept_s:.1f} s a step = {60 / measured.kept_s:.1f} per minute, "
        f"{measured.clean_s:.1f} s in an empty directory = {measured.faster:.1f} times"
    )


def _verdict(right: bool, found: Bisection) -> str:
    if not right:
        return f"WRONG: {found.conclusion}"
    if isinstance(found.conclusion, Untestable):
        return (
            f"right (its parent does not build: {len(found.conclusion.commits)} left)"
        )
    return "right"


def main() -> int:
    """Bisect what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plants", nargs="*", choices=[*TARGETS, []], default=[])
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seed", type=int, action="append", help="or which")
    options = parser.parse_args()
    with board() as lines, workshop(MatrixRequest(), lines) as shop:
        source = shop.tree.source
    right = [
        bisect(source, plant, options.commits, seed)
        for plant in options.plants or TARGETS
        for seed in options.seed or range(options.seeds)
    ]
    return ExitCode.CLEAN if all(right) else ExitCode.FINDINGS


if __name__ == "__main__":
    raise SystemExit(main())

"""Check: the whole validation of one program, and of many in parallel."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from harness.elf.feature import Features, image_features
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program, load
from harness.errors import HarnessError
from harness.finding import Finding, number
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.place import check_places
from harness.verify.sites import check_sites
from harness.verify.table import check_table

WORTH_PROCESSES = 4 << 20  # bytes from which starting processes pays


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the validation of one program came to.

    Attributes:
        findings: numbered and sorted, not grouped by cause.
        counts: what was looked at, by name, in printing order.
        notes: what a reader should know and need not act on.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one file of many, or the error that stands in its place."""

    path: Path
    verdict: Verdict | None
    error: HarnessError | None = None


def check(
    program: Program,
    *,
    features: Features | None = None,
    vmlinux: Program | None = None,
    threads: int | None = None,
) -> Verdict:
    """Validate ``program``: its ORC table against its code and its alternatives.

    ``features`` names the feature bits; without it the names are those that the
    image (of ``vmlinux``, if ``program`` is a module) holds itself.

    Raises:
        FormatError: a section that must be read has no layout that we know.
    """
    started = time.perf_counter()
    names = features or image_features(vmlinux or program)
    columns = read_columns(program, names, threads)
    if columns is None:
        note = "carries no ORC: nothing to validate"
        verdict = Verdict((), {}, (*program.notes, note), 0.0)
    else:
        verdict = check_columns(columns)
    return replace(verdict, seconds=time.perf_counter() - started)


def check_columns(columns: Columns) -> Verdict:
    """Validate a program that is read already."""
    started = time.perf_counter()
    counts = {"orc entries": len(columns.table), "instructions": len(columns.insns)}
    notes = [*columns.program.notes, f"ORC format {columns.table.format}"]
    findings: list[Finding] = []
    for part in (one(columns) for one in CHECKS):
        findings += part.findings
        counts |= part.counts
        notes += part.notes
    numbered = tuple(number(findings))
    return Verdict(numbered, counts, tuple(notes), time.perf_counter() - started)


def _paravirt(columns: Columns) -> Part:
    sites = parse_parainstructions(columns.program)
    if sites is None:
        return Part()
    note = f"{len(sites)} sites in .parainstructions: not checked by this version"
    return Part(notes=(note,))


# What is checked, in printing order.
CHECKS: tuple[Callable[[Columns], Part], ...] = (
    check_sites,
    check_places,
    check_table,
    _paravirt,
)


def check_file(
    path: Path, features: Features | None = None, threads: int | None = None
) -> Checked:
    """Load and validate ``path``; its errors become the result."""
    try:
        return Checked(path, check(load(path), features=features, threads=threads))
    except HarnessError as exc:
        return Checked(path, None, exc)


def check_many(
    paths: Iterable[Path], *, jobs: int | None = None, features: Features | None = None
) -> list[Checked]:
    """Validate many files, in ``jobs`` processes; results are in the order of path."""
    ordered = sorted(set(paths))
    size = {path: path.stat().st_size if path.exists() else 0 for path in ordered}
    workers = min(jobs or os.cpu_count() or 1, len(ordered))
    if workers <= 1 or sum(size.values()) < WORTH_PROCESSES:
        return [check_file(path, features) for path in ordered]
    # big files first, or the last one is waited for alone
    by_size = sorted(ordered, key=lambda path: -size[path])
    # no fork: whoever calls may draw its progress from a thread
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        one = functools.partial(check_file, features=features, threads=1)
        results = list(pool.map(one, by_size))
    return sorted(results, key=lambda result: result.path)

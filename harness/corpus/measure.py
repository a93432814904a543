"""Measure: what the verifier makes of thousands of mutants of one build.

A mutant is detected if its verdict has a finding that the clean program's has not:
another key, since that is what people and baselines see.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from harness import baseline
from harness.corpus.classes import CLASSES, Zone, candidates
from harness.corpus.equivalent import Clean, places, proof
from harness.corpus.mutant import Change, Kind, draw
from harness.corpus.rewrite import Edit, apply
from harness.elf.feature import Features, image_features
from harness.elf.load import load
from harness.errors import FormatError, UserError
from harness.finding import Finding, group_by_cause
from harness.progress import Progress
from harness.text.insn import I64
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from harness.verify.verdict import Exports, Verdict

CHUNK = 24  # mutants that a process is handed at once, and validates together
UNREADABLE = "format"  # the rule of a mutant that nobody can read any more
EVERY_MODULE = 4  # each fourth mutant is one of a module


class Wanted(Struct, frozen=True):
    """One mutant to make: its class, where it is drawn, and its number."""

    name: str
    zone: Zone
    seed: int

    @property
    def command(self) -> str:
        """The options of ``orc-harness corpus`` that make it again."""
        zone = f" --zone {self.zone}" if self.zone is not Zone.ALL else ""
        return f"--class {self.name}{zone} --seed {self.seed} --count 1"


class Outcome(Struct, frozen=True):
    """What became of one mutant.

    Attributes:
        wanted: which mutant it is.
        place: ``vmlinux: fork+0x1c``; empty if nothing could be spoilt.
        what: what was done there.
        rules: the rules that found it; none if nothing did.
        equivalent: the rule that proves it harmless, if no rule found it.
        error: what the verifier died of, if it did.
    """

    wanted: Wanted
    place: str = ""
    what: str = ""
    rules: tuple[str, ...] = ()
    equivalent: str = ""
    error: str = ""

    @property
    def missed(self) -> bool:
        """It is wrong, and nobody said so."""
        return bool(self.place) and not self.rules and not self.equivalent


class Subject(Struct, dict=True):
    """A clean program that mutants are made of, and what is found in it."""

    clean: Clean
    exports: tuple[Exports, ...] = ()
    rows: dict[tuple[str, Zone], I64] = field(default_factory=dict)

    @property
    def columns(self) -> Columns:
        """The clean program."""
        return self.clean.columns

    def validate(self, columns: Columns) -> Verdict:
        """Validate the program or a mutant of it, a module beside its kernel."""
        return check_columns(columns).answered(self.exports)

    @functools.cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is found in the clean program."""
        return self.validate(self.columns).findings

    @functools.cached_property
    def keys(self) -> frozenset[str]:
        """The keys of what is found in the clean program."""
        return frozenset(finding.key for finding in self.findings)

    def candidates(self, name: str, zone: Zone) -> I64:
        """Return the rows that the class ``name`` can spoil, found once."""
        if (name, zone) not in self.rows:
            self.rows[name, zone] = candidates(CLASSES[name], zone, self.columns)
        return self.rows[name, zone]


def read_subjects(paths: Sequence[Path]) -> list[Subject]:
    """Read the kernel (the first of ``paths``) and its modules.

    Raises:
        UserError: the first carries no ORC.
    """
    subjects: list[Subject] = []
    features: Features | None = None
    exports: tuple[Exports, ...] = ()
    for path in paths:
        program = load(path)
        features = features or image_features(program)
        if (columns := read_columns(program, features)) is not None:
            subjects.append(Subject(Clean(columns), exports))
            exports = exports or _exports(columns)
        elif not subjects:
            raise UserError(f"{path} carries no ORC: there is nothing to spoil")
    return subjects


def _exports(kernel: Columns) -> tuple[Exports, ...]:
    """Return what the kernel offers to its modules."""
    offered = check_columns(replace(kernel, offers=True)).exports
    return () if offered is None else (offered,)


def new_findings(subjects: Iterable[Subject]) -> list[Finding]:
    """Return what is found in the clean programs and is not known: false alarms."""
    found = [finding for subject in subjects for finding in subject.findings]
    today = datetime.now(UTC).date()
    new, _ = baseline.split(group_by_cause(found), baseline.load(), today)
    return list(new)


def try_mutants(subjects: Sequence[Subject], wanted: Sequence[Wanted]) -> list[Outcome]:
    """Make mutants, validate them, and see whether anybody noticed.

    Those of one subject that lie in different functions are validated together
    first. Each with a new finding in its own function is found; whatever is left
    is validated alone.
    """
    drawn = [(one, *_drawn(subjects, one)) for one in wanted]
    found: dict[Wanted, tuple[str, ...]] = {}
    for subject in subjects:
        pool = [(w, c) for w, s, c in drawn if s is subject and c is not None]
        found |= _try_together(subject, pool)
    return [
        Outcome(one)
        if change is None
        else Outcome(one, _place(subject, change), change.what, rules)
        if (rules := found.get(one, ()))
        else _try_alone(subject, one, change)
        for one, subject, change in drawn
    ]


def _drawn(
    subjects: Sequence[Subject], wanted: Wanted
) -> tuple[Subject, Change | None]:
    subject = _subject(subjects, wanted)
    rows = subject.candidates(wanted.name, wanted.zone)
    return subject, draw(CLASSES[wanted.name], subject.columns, rows, wanted.seed)


def _place(subject: Subject, change: Change) -> str:
    program = subject.columns.program
    return f"{program.name}: {program.location(change.address)}"


def _try_together(
    subject: Subject, pool: Sequence[tuple[Wanted, Change]]
) -> dict[Wanted, tuple[str, ...]]:
    """Return the rules that found each mutant of ``pool`` in its own function."""
    homes: dict[str, Wanted] = {}
    edits: list[Edit] = []
    for wanted, change in pool:
        names = _functions(subject, change)
        if not names & homes.keys():
            homes |= dict.fromkeys(names, wanted)
            edits += change.edits
    if len(pool) < 2:
        return {}
    try:
        findings = subject.validate(apply(subject.columns, edits)).findings
    except Exception:  # noqa: BLE001 - alone each will tell what it died of
        return {}
    rules: dict[Wanted, set[str]] = {}
    for finding in findings:
        owner = homes.get(finding.location.symbol)
        if owner is not None and finding.key not in subject.keys:
            rules.setdefault(owner, set()).add(finding.rule)
    return {wanted: tuple(sorted(names)) for wanted, names in rules.items()}


def _functions(subject: Subject, change: Change) -> set[str]:
    """Name the functions in which the change shows."""
    where = places(subject.columns, change)
    return {subject.columns.program.location(place).symbol for place in where}


def _try_alone(subject: Subject, wanted: Wanted, change: Change) -> Outcome:
    place = _place(subject, change)
    try:
        verdict = subject.validate(change.columns)
    except FormatError:
        return Outcome(wanted, place, change.what, (UNREADABLE,))
    except Exception as exc:  # noqa: BLE001 - whatever it dies of, the mutant is missed
        error = f"{type(exc).__name__}: {exc}"
        return Outcome(wanted, place, change.what, error=error)
    rules = tuple(
        sorted({f.rule for f in verdict.findings if f.key not in subject.keys})
    )
    proved = "" if rules else _proof(subject, wanted, change, verdict)
    return Outcome(wanted, place, change.what, rules, proved)


def _proof(subject: Subject, wanted: Wanted, change: Change, verdict: Verdict) -> str:
    kind = CLASSES[wanted.name].kind
    before = {_exactly(finding) for finding in subject.findings}
    after = {_exactly(finding) for finding in verdict.findings}
    repaired = kind is Kind.STATE and after < before
    return proof(subject.clean, change, kind) or ("repaired" if repaired else "")


def _exactly(finding: Finding) -> tuple[str, str, str, str]:
    place = f"{finding.location} {finding.variant}"
    return (finding.rule, place, finding.declared, finding.actual)


def _subject(subjects: Sequence[Subject], wanted: Wanted) -> Subject:
    modules = subjects[1:]
    turn, rest = divmod(wanted.seed, EVERY_MODULE)
    if wanted.zone is Zone.ALL and rest == EVERY_MODULE - 1 and modules:
        for at in range(len(modules)):
            module = modules[(turn + at) % len(modules)]
            if len(module.candidates(wanted.name, wanted.zone)):
                return module
    return subjects[0]


def measure(
    paths: Sequence[Path],
    wanted: Sequence[Wanted],
    *,
    jobs: int,
    timeout_s: float,
    progress: Progress,
) -> list[Outcome]:
    """Try all ``wanted`` mutants; at the deadline return what there is."""
    deadline = time.monotonic() + timeout_s
    chunks = list(_chunks(wanted))
    context = multiprocessing.get_context("forkserver")
    outcomes: list[Outcome] = []
    progress("reading the kernel", 0, len(wanted))
    pool = ProcessPoolExecutor(
        min(jobs, len(chunks)) or 1, context, initializer=_open, initargs=(paths,)
    )
    try:
        waiting = {pool.submit(_try_chunk, chunk) for chunk in chunks}
        while waiting and (left := deadline - time.monotonic()) > 0:
            done, waiting = wait(waiting, left, FIRST_COMPLETED)
            outcomes += _collected(done)
            progress("trying mutants", len(outcomes), len(wanted))
    finally:  # an interrupt or the deadline: what has not begun does not
        pool.shutdown(wait=True, cancel_futures=True)
    outcomes += _collected(f for f in waiting if f.done() and not f.cancelled())
    return sorted(outcomes, key=lambda o: (o.wanted.name, o.wanted.zone, o.wanted.seed))


def _chunks(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    for first in range(0, len(wanted), CHUNK):
        yield wanted[first : first + CHUNK]


def _collected(done: Iterable[Future[list[Outcome]]]) -> list[Outcome]:
    return [outcome for future in done for outcome in future.result()]


_here: list[Subject] = []  # of a worker process: read once, mutated thousands of times


def _open(paths: Sequence[Path]) -> None:
    _here[:] = read_subjects(paths)


def _try_chunk(wanted: Sequence[Wanted]) -> list[Outcome]:
    return try_mutants(_here, wanted)

"""Past: the last runs of a kind, the last good one, and the one before another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import (
    ColumnElement,
    Select,
    case,
    distinct,
    exists,
    func,
    select,
    tuple_,
)
from sqlalchemy.orm import Session, selectinload

from harness.character import spelt
from harness.errors import ExitCode
from harness.history.against import series
from harness.history.diff import VERDICTS, judged, places
from harness.history.summary import Summary
from harness.history.trend import Measured
from harness.result import ELSEWHERE, RunResult, Stage, Status
from harness.store import schema
from harness.store.database import Database
from harness.store.runs import NEWEST_FIRST, load_number

_WHEN = (schema.Run.started, schema.Run.number)  # in seconds: several begin in one
_AT_ONCE = 50  # rows fetched of many
_KNOWN = func.sum(case((schema.Finding.known, 1), else_=0))


def recent(
    database: Database,
    limit: int,
    *,
    key: str = "",
    profile: str = "",
    until: str = "",
) -> tuple[Summary, ...]:
    """Return the newest ``limit`` runs, oldest first.

    If given, only those that found ``key``, of ``profile``, and no later than the run
    ``until``: none, if that is not there.

    Raises:
        InfraError: the database failed.
    """
    with database.reading() as session:
        wanted = select(schema.Run).order_by(*NEWEST_FIRST).limit(limit)
        if key:
            wanted = wanted.where(_found(key))
        if profile:
            wanted = wanted.where(schema.Run.profile == profile)
        if until:
            last = select(*_WHEN).where(schema.Run.run_id == until).subquery()
            wanted = wanted.join(last, tuple_(*_WHEN) <= tuple_(*last.c))
        found = session.scalars(wanted).all()
        findings = _findings_of(session, found)
        stages = _stages_of(session, found)
    return tuple(
        Summary(
            run.run_id,
            run.started,
            run.seconds,
            run.profile,
            run.tree,
            run.exit_code,
            *findings.get(run.number, (0, 0)),
            *stages.get(run.number, (0, 0)),
        )
        for run in reversed(found)
    )


def measurements(database: Database, runs: Iterable[Summary]) -> tuple[Measured, ...]:
    """Return the numbers of every stage of ``runs``, in their order.

    Raises:
        InfraError: the database failed.
    """
    place = {run.run_id: number for number, run in enumerate(runs)}
    with database.reading() as session:
        found = session.execute(
            select(schema.Run.run_id, schema.Stage)
            .join(schema.Stage, schema.Stage.run_number == schema.Run.number)
            .where(schema.Run.run_id.in_(place))
            .order_by(schema.Stage.run_number, schema.Stage.position)
            .options(selectinload(schema.Stage.counts))
        ).all()
        findings = _findings_by_stage(session, [stage.number for _, stage in found])
        rows = sorted(found, key=lambda row: place[row[0]])
        return tuple(
            Measured(
                run_id,
                Stage(stage.stage),
                stage.variant,
                Status(stage.status),
                stage.seconds,
                {count.name: count.value for count in stage.counts},
                *findings.get(stage.number, (0, 0)),
            )
            for run_id, stage in rows
        )


def last_good(database: Database, run: RunResult) -> RunResult | None:
    """Return the newest run that is a good baseline for ``run``, if there is one.

    It is of the same tree. If there is none, what was not built, only judged, may have
    been in another directory, as it is with checkouts: its variants have their names.

    Raises:
        InfraError: the database failed.
    """
    clean = select(schema.Run).where(
        schema.Run.exit_code == ExitCode.CLEAN, schema.Run.run_id != run.run_id
    )
    return _newest(database, clean, run)


def before(database: Database, run: RunResult) -> RunResult | None:
    """Return the last run before ``run`` that judged all that it did, if there is one.

    It is of the same tree, as that of :func:`last_good` is.

    Raises:
        InfraError: the database failed.
    """
    when = select(*_WHEN).where(schema.Run.run_id == run.run_id).subquery()
    earlier = select(schema.Run).join(when, tuple_(*_WHEN) < tuple_(*when.c))
    return _newest(database, earlier, run)


def _newest(
    database: Database, candidates: Select[schema.Run], run: RunResult
) -> RunResult | None:
    """Return the newest of ``candidates`` that judged all that ``run`` did.

    Of the same tree; of another only if there is none, and nothing was built.
    """
    of = series(spelt(run.tree))
    with database.reading() as session:
        number = _number(session, candidates, run, of)
        if number is None and all(each.stage is not Stage.BUILD for each in run.stages):
            number = _number(session, candidates, run)
        return None if number is None else load_number(session, number)


def _number(
    session: Session, candidates: Select[schema.Run], run: RunResult, of: str = ""
) -> int | None:
    """Return the number of the newest of ``candidates`` for ``run``, and ``of`` a tree."""
    listed = (
        candidates.where(
            schema.Run.profile == run.profile,
            schema.Run.tree.startswith(of, autoescape=True),
        )
        .order_by(*NEWEST_FIRST)
        .options(selectinload(schema.Run.stages))
    )
    for candidate in session.scalars(listed).yield_per(_AT_ONCE):
        stages = [
            (Stage(each.stage), each.variant, Status(each.status))
            for each in candidate.stages
        ]
        same = not of or series(candidate.tree) == of
        if same and places(run) <= judged(stages):
            return candidate.number
    return None


def _found(key: str) -> ColumnElement[bool]:
    return exists().where(
        schema.Finding.key == spelt(key),
        schema.Finding.stage_number == schema.Stage.number,
        schema.Stage.run_number == schema.Run.number,
    )


def _findings_of(
    session: Session, runs: Sequence[schema.Run]
) -> dict[int, tuple[int, int]]:
    """Return how many findings of each run are new, and how many known.

    What several stages found is one finding.
    """
    known, key = schema.Finding.known, schema.Finding.key
    new, old = (func.count(distinct(case((of, key)))) for of in (~known, known))
    counted = (
        select(schema.Stage.run_number, new, old)
        .join(schema.Finding, schema.Finding.stage_number == schema.Stage.number)
        .where(schema.Stage.run_number.in_([run.number for run in runs]))
        .group_by(schema.Stage.run_number)
    )
    return {run: (some, others) for run, some, others in session.execute(counted)}


def _findings_by_stage(
    session: Session, stages: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Return how many findings of each stage are new, and how many known."""
    counted = (
        select(schema.Finding.stage_number, func.count() - _KNOWN, _KNOWN)
        .where(schema.Finding.stage_number.in_(stages))
        .group_by(schema.Finding.stage_number)
    )
    return {stage: (int(new), int(old)) for stage, new, old in session.execute(counted)}


def _stages_of(
    session: Session, runs: Sequence[schema.Run]
) -> dict[int, tuple[int, int]]:
    """Return how many stages of each run have a verdict, and how many could have."""
    verdicts = [status.value for status in VERDICTS]
    judged = func.sum(case((schema.Stage.status.in_(verdicts), 1), else_=0))
    missed = schema.Stage.status == Status.MISS.value
    counted = (
        select(schema.Stage.run_number, judged, func.count())
        .where(schema.Stage.run_number.in_([run.number for run in runs]))
        .where(~(missed & schema.Stage.variant.in_(ELSEWHERE)))
        .group_by(schema.Stage.run_number)
    )
    return {run: (int(some), int(all_)) for run, some, all_ in session.execute(counted)}

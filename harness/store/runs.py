"""Runs: saved whole or not at all, and found again."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, case, exists, func, select
from sqlalchemy.orm import Session, selectinload

from harness.errors import UserError
from harness.history.diff import VERDICTS
from harness.history.summary import Summary
from harness.result import RunResult
from harness.store import schema
from harness.store.database import Database
from harness.store.record import rows, run_result

LAST = "last"

_NEWEST_FIRST = (schema.Run.started.desc(), schema.Run.number.desc())


def save(database: Database, run: RunResult) -> None:
    """Save ``run``: all of it, or nothing if this fails.

    Raises:
        UserError: a run of that name is there already.
        InfraError: the database failed.
    """
    with database.writing() as session:
        if _number(session, run.run_id) is not None:
            raise UserError(f"run {run.run_id} is in {database.name} already")
        session.add(rows(run))


def load(database: Database, name: str) -> RunResult:
    """Return the run whose id is, or begins with, ``name``; or the ``last`` one.

    Raises:
        UserError: there is none, or there are several.
        InfraError: the database failed.
    """
    with database.reading() as session:
        return _load(session, _find(session, database.name, name))


def recent(
    database: Database, limit: int, *, key: str = "", profile: str = ""
) -> tuple[Summary, ...]:
    """Return the newest ``limit`` runs, oldest first.

    Only those that found ``key``, and only those of ``profile``, if given.

    Raises:
        InfraError: the database failed.
    """
    with database.reading() as session:
        wanted = select(schema.Run).order_by(*_NEWEST_FIRST).limit(limit)
        if key:
            wanted = wanted.where(_found(key))
        if profile:
            wanted = wanted.where(schema.Run.profile == profile)
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


def _number(session: Session, run_id: str) -> int | None:
    return session.scalar(select(schema.Run.number).where(schema.Run.run_id == run_id))


def _find(session: Session, store: str, name: str) -> int:
    if name == LAST:
        newest = select(schema.Run.number).order_by(*_NEWEST_FIRST).limit(1)
        if (number := session.scalar(newest)) is not None:
            return number
        raise UserError(
            f"there is no run in {store}", hint="orc-harness run --store saves one"
        )
    if (number := _number(session, name)) is not None:
        return number
    begins = schema.Run.run_id.startswith(name, autoescape=True)
    found = session.execute(
        select(schema.Run.number, schema.Run.run_id).where(begins).limit(3)
    ).all()
    if len(found) == 1:
        return int(found[0].number)
    if found:
        several = ", ".join(row.run_id for row in found)
        raise UserError(f"{name} is the beginning of several runs: {several}, ...")
    raise UserError(
        f"there is no run {name} in {store}", hint="orc-harness history lists them"
    )


def _load(session: Session, number: int) -> RunResult:
    stages = selectinload(schema.Run.stages)
    run = session.scalars(
        select(schema.Run)
        .where(schema.Run.number == number)
        .options(
            stages.selectinload(schema.Stage.counts),
            stages.selectinload(schema.Stage.findings),
        )
    ).one()
    return run_result(run)


def _found(key: str) -> ColumnElement[bool]:
    return exists().where(
        schema.Finding.key == schema.clean(key),
        schema.Finding.stage_number == schema.Stage.number,
        schema.Stage.run_number == schema.Run.number,
    )


def _findings_of(
    session: Session, runs: Sequence[schema.Run]
) -> dict[int, tuple[int, int]]:
    """Return how many findings of each run are new, and how many known."""
    known = func.sum(case((schema.Finding.known, 1), else_=0))
    counted = (
        select(schema.Stage.run_number, func.count() - known, known)
        .join(schema.Finding, schema.Finding.stage_number == schema.Stage.number)
        .where(schema.Stage.run_number.in_([run.number for run in runs]))
        .group_by(schema.Stage.run_number)
    )
    return {run: (int(new), int(old)) for run, new, old in session.execute(counted)}


def _stages_of(
    session: Session, runs: Sequence[schema.Run]
) -> dict[int, tuple[int, int]]:
    """Return how many stages of each run have a verdict, and how many there are."""
    verdicts = [status.value for status in VERDICTS]
    judged = func.sum(case((schema.Stage.status.in_(verdicts), 1), else_=0))
    counted = (
        select(schema.Stage.run_number, judged, func.count())
        .where(schema.Stage.run_number.in_([run.number for run in runs]))
        .group_by(schema.Stage.run_number)
    )
    return {run: (int(some), int(all_)) for run, some, all_ in session.execute(counted)}

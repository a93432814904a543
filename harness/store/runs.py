"""Runs: saved whole or not at all, and found again."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from harness.errors import UserError
from harness.result import RunResult
from harness.store import schema
from harness.store.database import Database
from harness.store.record import rows, run_result

LAST = "last"

NEWEST_FIRST = (schema.Run.started.desc(), schema.Run.number.desc())


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
        return load_number(session, _find(session, database.name, name))


def has(database: Database, run_id: str) -> bool:
    """Tell whether a run of exactly that name is there.

    Raises:
        InfraError: the database failed.
    """
    with database.reading() as session:
        return _number(session, run_id) is not None


def _number(session: Session, run_id: str) -> int | None:
    return session.scalar(select(schema.Run.number).where(schema.Run.run_id == run_id))


def _find(session: Session, store: str, name: str) -> int:
    if name == LAST:
        newest = select(schema.Run.number).order_by(*NEWEST_FIRST).limit(1)
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


def load_number(session: Session, number: int) -> RunResult:
    """Return the run whose row has ``number``."""
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

"""Database: where runs are kept: SQLite in the cache directory, or what a URL names.

SQLite has one writer at a time and begins a transaction when we say so; PostgreSQL
is asked through psycopg. Whatever a database does to us is one InfraError.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, DataError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn

from harness.cache import cache_dir
from harness.errors import FormatError, HarnessError, InfraError, UserError
from harness.store import schema

DEFAULT = "default"  # the word for SQLite in the cache directory
FILE = "history.sqlite"

_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_S = 120
_SHOWN = 5  # of the tables that are not ours
_SCHEMA_LOCK = 0x6F72632D68  # "orc-h": who makes the tables holds it
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_SECRET = ("password", "sslpassword")  # in a URL's query, as libpq takes them
# SQLITE_ERROR: there is no such table or column
_NOT_OURS = {"SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR"}
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_UNSOUND = (ArithmeticError, TypeError, ValueError)  # of a value that is none of ours


class Database(Struct, frozen=True):
    """One that is open and has our tables; ``name`` is its URL without a password."""

    engine: Engine
    name: str

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database.

        Raises:
            FormatError: what it has is no run.
            InfraError: the database failed.
        """
        with (
            _translated(self.name, "is damaged"),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session whose changes are made when it ends, all of them or none.

        Raises:
            FormatError: it takes no such run.
            InfraError: the database failed, and is as it was.
        """
        writer = self.engine.execution_options(writes=True)
        with (
            _translated(self.name, "cannot keep the run"),
            Session(writer) as session,
            session.begin(),
        ):
            yield session


def parse_url(text: str) -> URL:
    """Return the URL that ``text`` is, or that the file which it names has.

    Raises:
        UserError: it is no database that we can use.
    """
    if not text:
        raise UserError(
            "--store is empty", hint="a file, or postgresql://user@host/database"
        )
    if text == DEFAULT:
        text = str(cache_dir() / FILE)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as exc:
        # what it says may have the password in it
        raise UserError(
            "the store's URL cannot be read",
            hint="a file, or postgresql://user@host/database",
        ) from exc
    if url.drivername not in _DRIVERS or not url.database:
        raise UserError(
            f"{_name(url)} is no store that we can use",
            hint="a file, sqlite:////directory/file, or postgresql://user@host/database",
        )
    return url.set(drivername=_DRIVERS[url.drivername])


@contextlib.contextmanager
def open_database(text: str = DEFAULT) -> Iterator[Database]:
    """Open what ``text`` names to save runs there; make its tables if it has none.

    Raises:
        UserError: it is no database that we can use, or of another version of ours.
        FormatError: it is somebody else's.
        InfraError: it does not answer, or cannot be made.
    """
    with _opened(parse_url(text), make=True) as database:
        yield database


class NoStore(UserError):
    """Nobody has saved a run there."""


@contextlib.contextmanager
def open_existing(text: str = DEFAULT) -> Iterator[Database]:
    """Open what ``text`` names, which somebody has saved runs in.

    Raises:
        NoStore: it is not there, or empty.
        HarnessError: as :func:`open_database` does.
    """
    url = parse_url(text)
    if url.drivername == "sqlite" and not _path(url).exists():
        raise _none(_name(url))
    with _opened(url, make=False) as database:
        yield database


def _none(name: str) -> NoStore:
    return NoStore(
        f"there is no store {name}",
        hint="orc-harness run --store and validate --store make one",
    )


@contextlib.contextmanager
def _opened(url: URL, *, make: bool) -> Iterator[Database]:
    engine = _sqlite(url) if url.drivername == "sqlite" else _postgresql(url)
    name = _name(url)
    try:
        with _translated(name, "is damaged"):
            _prepare(engine, name, make=make)
        yield Database(engine, name)
    finally:
        engine.dispose()


def _name(url: URL) -> str:
    """Return ``url`` as people write it, without what is secret."""
    if url.drivername == "sqlite" and url.database:
        return url.database
    plain = url.set(drivername=url.get_backend_name())
    return plain.difference_update_query(_SECRET).render_as_string(hide_password=True)


def _path(url: URL) -> Path:
    return Path((url.database or "").removeprefix("file:"))


def _sqlite(url: URL) -> Engine:
    directory = _path(url).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InfraError(
            f"cannot make {directory}: {exc.strerror}",
            hint="name another file with --store",
        ) from exc
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_S}
    )
    event.listen(engine, "connect", _begin_when_told)
    event.listen(engine, "begin", _begin)
    return engine


def _begin_when_told(connection: sqlite3.Connection, _record: object) -> None:
    # Python's module begins when it sees a change, and never for a CREATE TABLE.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    # A writer that only begins when it first writes may find another one there.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql(url: URL) -> Engine:
    try:
        importlib.import_module("psycopg")
    except ImportError as exc:
        raise UserError(
            f"{_name(url)} needs psycopg: {_first_line(exc)}",
            hint="pip install 'orc-harness[postgresql]'",
        ) from exc
    return create_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "tcp_user_timeout": _STATEMENT_TIMEOUT_S * 1000,
            "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_S}s",
        },
    )


def _prepare(engine: Engine, name: str, *, make: bool) -> None:
    with engine.connect() as connection:
        found = _version(connection, name)
    if found == schema.VERSION:
        return
    if found is None and not make:
        raise _none(name)
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE
            connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        found = _version(connection, name)  # another may have been here meanwhile
        if found is None:
            schema.Table.metadata.create_all(connection)
            connection.execute(
                insert(schema.SchemaVersion).values(version=schema.VERSION)
            )
        elif found < schema.VERSION:
            _upgrade(connection)


def _version(connection: Connection, name: str) -> int | None:
    """Return the version of the tables; None if there are none.

    Raises:
        FormatError: they are somebody else's.
        UserError: they are of a later one.
    """
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if not schema.Table.metadata.tables.keys() <= set(tables):
        raise FormatError(
            f"{name} is no store of orc-harness: its tables are "
            f"{', '.join(sorted(tables)[:_SHOWN])}",
            hint="name another file or database with --store",
        )
    found: int | None = connection.scalar(select(schema.SchemaVersion.version))
    if found is not None and found <= schema.VERSION:
        return found
    raise UserError(
        f"the store {name} has schema version {found}, expected {schema.VERSION}",
        hint="use the orc-harness that made it, or another store",
    )


def _upgrade(connection: Connection) -> None:
    """Give tables of an older version the columns that came since."""
    for column in schema.ADDED:
        there = inspect(connection).get_columns(column.table.name)
        if column.name not in {each["name"] for each in there}:
            made = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(
                f"ALTER TABLE {column.table.name} ADD COLUMN {made} DEFAULT '[]'"
            )
    connection.execute(update(schema.SchemaVersion).values(version=schema.VERSION))


@contextlib.contextmanager
def _translated(name: str, unsound: str) -> Iterator[None]:
    """Turn what the database raises into one error of ours.

    That the store is, or does, what ``unsound`` says is known by a value that no run
    can have.
    """
    try:
        yield
    except (SQLAlchemyError, *_UNSOUND) as exc:
        raise _error(exc, name, unsound) from exc


def _error(exc: Exception, name: str, unsound: str) -> HarnessError:
    cause = getattr(exc, "orig", None) or exc  # SQLAlchemy says again what others said
    said = _first_line(cause)
    if isinstance(exc, DataError) or isinstance(cause, _UNSOUND):
        return FormatError(f"the store {name} {unsound}: {said}")
    if getattr(cause, "sqlite_errorname", "") in _NOT_OURS:
        return FormatError(
            f"{name} is no store of orc-harness: {said}",
            hint="name another file with --store",
        )
    if getattr(cause, "sqlite_errorname", "").startswith(_BUSY):
        return InfraError(
            f"the store {name} is locked by another process, since {_BUSY_TIMEOUT_S} s",
            hint="wait for that, or end it",
        )
    return InfraError(
        f"the store {name} failed: {said}",
        hint="mend that, or name another store with --store",
    )


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)

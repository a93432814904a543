"""Databases: what we use, and what is said of those that we cannot use."""

from __future__ import annotations

import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from harness.errors import FormatError, InfraError, UserError
from harness.store import database as door
from harness.store import past, runs, schema
from harness.store.database import (
    NoStore,
    open_database,
    open_existing,
    parse_url,
)
from tests.builders.results import finding, run, stage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("/a/b.db", "sqlite:////a/b.db"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        (
            "postgres://u:p@h:1/d?sslmode=require",
            "postgresql+psycopg://u:p@h:1/d?sslmode=require",
        ),
    ],
)
def test_urls(text: str, expected: str) -> None:
    """A file may go without a scheme; PostgreSQL has one driver."""
    assert parse_url(text).render_as_string(hide_password=False) == expected


def test_the_default_is_in_the_cache(cache: Path) -> None:
    """Where everything else is that we keep."""
    assert parse_url("default").database == str(cache / "history.sqlite")


@pytest.mark.parametrize(
    "text",
    ["", "mysql://u:secret@h/d", "sqlite://", "postgresql://u:secret@h:x/d", "://"],
)
def test_what_we_cannot_use(text: str) -> None:
    """One error, which says what can be used and no password."""
    with pytest.raises(UserError, match="postgresql://user@host/database") as caught:
        parse_url(text)

    assert "secret" not in str(caught.value)


def test_no_server() -> None:
    """Soon, and without the password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: it refuses
        port = taken.getsockname()[1]
        with (
            pytest.raises(InfraError, match=r"u:\*\*\*@127.0.0.1.*failed") as caught,
            open_database(f"postgresql://u:secret@127.0.0.1:{port}/d"),
        ):
            pass

    assert "secret" not in str(caught.value)


def test_a_store_is_called_as_people_do(tmp_path: Path) -> None:
    """By the scheme that they wrote, and without a password wherever that is."""
    url = "postgresql://u:secret@h/d?host=/nowhere&password=secret&sslmode=require"

    with pytest.raises(InfraError) as caught, open_database(url):
        pass

    assert "postgresql://u:***@h/d?host=%2Fnowhere&sslmode=require" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, or is damaged; the error says how to get it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with (
        pytest.raises(UserError, match=r"pip install 'orc-harness\[postgresql\]'"),
        open_database("postgresql://u@127.0.0.1/d"),
    ):
        pass


def test_no_database(tmp_path: Path) -> None:
    """A file that is something else is left alone."""
    path = tmp_path / "notes.txt"
    path.write_text("no database\n" * 100)

    with (
        pytest.raises(FormatError, match=r"notes.txt is no store"),
        open_database(str(path)),
    ):
        pass

    assert path.read_text() == "no database\n" * 100


def test_the_database_of_somebody_else(tmp_path: Path) -> None:
    """It is left alone, by who reads and by who saves."""
    path = tmp_path / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE song (title TEXT)")
    before = path.read_bytes()

    for opened in (open_existing, open_database):
        with (
            pytest.raises(
                FormatError, match=r"music.sqlite is no store .*: its tables are song"
            ),
            opened(str(path)),
        ):
            pass

    assert path.read_bytes() == before


def test_tables_of_our_names(tmp_path: Path) -> None:
    """Their columns tell that they are somebody else's."""
    path = tmp_path / "runs.sqlite"
    with open_database(str(path)) as database:
        runs.save(database, run(run_id="one"))
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE run DROP COLUMN profile")

    with (
        open_existing(str(path)) as database,
        pytest.raises(FormatError, match=r"runs.sqlite is no store .*: no such column"),
    ):
        past.recent(database, 9)


def test_who_reads_makes_no_tables(tmp_path: Path) -> None:
    """An empty file, or none, is no store yet."""
    path = tmp_path / "runs.sqlite"
    for _ in ("none", "empty"):
        with (
            pytest.raises(NoStore, match="there is no store"),
            open_existing(str(path)),
        ):
            pass
        path.touch()

    assert path.read_bytes() == b""


def test_no_directory(tmp_path: Path) -> None:
    """Where there is a file, there can be no directory: not even for root."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(InfraError, match="cannot make"),
        open_database(str(tmp_path / "file" / "a" / "runs.sqlite")),
    ):
        pass


def test_another_version(tmp_path: Path) -> None:
    """It is not touched: both numbers are in the error."""
    path = tmp_path / "runs.sqlite"
    with open_database(str(path)):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")

    with (
        pytest.raises(UserError, match=f"version 99, expected {schema.VERSION}"),
        open_database(str(path)),
    ):
        pass


def test_a_full_disk(tmp_path: Path) -> None:
    """One error; what was there is there, and nothing of the one that did not fit."""
    path = str(tmp_path / "runs.sqlite")
    long = run(stage(*(finding(f"f{n}", window=("x" * 90,) * 9) for n in range(99))))
    with open_database(path) as database:
        runs.save(database, run(run_id="first"))
        event.listen(
            database.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA max_page_count = 20"),
        )
        with pytest.raises(InfraError, match="disk is full"):
            runs.save(database, long)

    with open_database(path) as database:
        assert [each.run_id for each in past.recent(database, 9)] == ["first"]
        runs.save(database, long)


def test_a_read_only_disk(tmp_path: Path) -> None:
    """What is there can be read; what cannot be saved is one error."""
    path = tmp_path / "runs.sqlite"
    with open_database(str(path)) as database:
        runs.save(database, run(run_id="first"))

    # root writes files of any mode: only SQLite itself can refuse
    with open_database(f"sqlite:///file:{path}?mode=ro&uri=true") as database:
        assert runs.load(database, "last").run_id == "first"
        with pytest.raises(InfraError, match="readonly database"):
            runs.save(database, run())


def test_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for another writer does so with a deadline."""
    monkeypatch.setattr(door, "_BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "runs.sqlite"
    with open_database(str(path)) as database:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InfraError, match=r"locked by another process, since 0.1 s"):
            runs.save(database, run())
        other.close()
        runs.save(database, run())

"""The tables: a change of them is a version, and older ones are brought up to it."""

from __future__ import annotations

import hashlib

from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from harness.store import runs, schema
from harness.store.database import open_database
from tests.builders.results import finding, run, stage

TABLES = (4, "64a1e154182363c6")  # the version, and the hash of what makes its tables


def test_other_tables_are_another_version() -> None:
    """Whoever changes a table raises VERSION, adds to ADDED, and writes both here."""
    made = [
        str(CreateTable(table).compile(dialect=postgresql.dialect()))
        for table in schema.Table.metadata.sorted_tables
    ]
    found = hashlib.sha256("".join(made).encode()).hexdigest()[:16]

    assert (schema.VERSION, found) == TABLES


def test_a_store_of_before_is_brought_up_to_date(store_url: str) -> None:
    """What it has is read, with nothing in the columns that came since."""
    old = run(stage(finding("f", seen=("shadow of native: k",))), run_id="old")
    with open_database(store_url) as database:
        runs.save(database, old)
        with database.engine.begin() as connection:
            for column in schema.ADDED:
                connection.execute(
                    text(f"ALTER TABLE {column.table.name} DROP COLUMN {column.name}")
                )
            connection.execute(text("UPDATE schema_version SET version = 1"))

    new = run(stage(finding("g", seen=("validate of native: k",))), run_id="new")
    with open_database(store_url) as database:
        (found,) = runs.load(database, "old").stages
        runs.save(database, new)

    assert found.findings == (finding("f"),)
    with open_database(store_url) as database:
        assert runs.load(database, "new") == new


def test_a_store_of_before_may_have_what_came_since(store_url: str) -> None:
    """A column came without a version once: it is not made twice."""
    with open_database(store_url) as database:
        runs.save(database, run(run_id="old"))
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE schema_version SET version = 1"))

    for _ in range(2):
        with open_database(store_url) as database:
            assert runs.load(database, "last").run_id == "old"

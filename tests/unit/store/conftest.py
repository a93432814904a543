"""Where the store's tests keep runs: SQLite, or PostgreSQL if one is named.

``tests/system/test_store.py`` starts a server and runs these tests on it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store.database import Database, open_database

SERVER = "ORC_HARNESS_TEST_POSTGRESQL"  # the URL of a server, without a database


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a store that is not there yet."""
    if server := os.environ.get(SERVER):
        with _postgresql(server) as url:
            yield url
    else:
        yield f"sqlite:///{tmp_path}/runs.sqlite"


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """Yield a store without runs."""
    with open_database(store_url) as opened:
        yield opened


@contextlib.contextmanager
def _postgresql(server: str) -> Iterator[str]:
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{server}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

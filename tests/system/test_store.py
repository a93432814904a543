"""The store on PostgreSQL: the tests of the one on SQLite, and the command's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.builders import postgresql
from tests.builders.victim import victim_object
from tests.unit.store.conftest import SERVER

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server for this module."""
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql: ci/host --tests")
    with postgresql.server(programs) as url:
        yield url


def call(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` in our tree."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_same_tests(server: str) -> None:
    """Each test of tests/unit/store that takes a store, on a database of its own."""
    suite = [f"tests/unit/store/test_{name}.py" for name in ("runs", "past", "schema")]

    done = call("-m", "pytest", "-q", "-p", "no:xdist", *suite, **{SERVER: server})

    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(f"{server}/postgres") as connection:
        row = connection.execute(
            "SELECT count(*), (SELECT sum(xact_commit) FROM pg_stat_database)"
            " FROM pg_database WHERE datname LIKE 'test_%'"
        ).fetchone()
    assert row is not None
    assert row[0] == 0  # each was dropped
    assert int(row[1]) > 50  # and it was this server that they used


def test_the_commands(server: str, tmp_path: Path) -> None:
    """validate saves there, history and diff read there; the password stays secret."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE runs")
    store = f"{server}/runs"
    path = tmp_path / "victim.o"
    path.write_bytes(victim_object())
    environ = {"ORC_HARNESS_STORE": store, "ORC_HARNESS_CACHE": str(tmp_path / "cache")}

    def harness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return call("-m", "harness", *arguments, **environ)

    first = harness("validate", path)
    accepted = harness("validate", path, "--baseline", "last")
    good = harness("validate", path, "--baseline", "last-good")
    listed = harness("history", "--format", "json")
    trend = harness("history", "--trend")
    missing = harness("report", "nowhere")

    assert (first.returncode, accepted.returncode, good.returncode) == (1, 0, 0)
    runs = json.loads(listed.stdout)["data"]
    assert [run["exit_code"] for run in runs] == [1, 0, 0]
    (moved,) = [line for line in trend.stdout.splitlines() if "new findings" in line]
    assert "█▁▁" in moved
    assert missing.returncode == 2
    assert "orc:***@127.0.0.1" in missing.stderr


def test_a_server_that_refuses(server: str, tmp_path: Path) -> None:
    """A wrong password, a database that is not there: one error without a secret."""
    path = tmp_path / "victim.o"
    path.write_bytes(victim_object())
    secret = "correct-horse"
    wrong = server.replace(server.split(":")[2].split("@")[0], secret)

    for store in (f"{server}/nowhere", f"{wrong}/postgres"):
        done = call(
            *("-m", "harness", "validate", path, "--store", store),
            ORC_HARNESS_CACHE=str(tmp_path / "cache"),
        )

        assert done.returncode == 3
        assert not done.stdout  # before any work
        assert "error: the store" in done.stderr
        assert secret not in done.stderr
        assert "Traceback" not in done.stderr

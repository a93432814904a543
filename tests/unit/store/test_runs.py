"""Runs come back as they went in, whole or not at all; on every database."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from harness.errors import FormatError, UserError
from harness.finding import Location
from harness.result import Stage, StageResult, Status
from harness.store import past, runs
from harness.store.database import Database, open_database
from tests.builders.results import finding, run, stage

_DIE = """\
import os, sys
from sqlalchemy import event
from harness.store import past, runs
from harness.store.database import open_database
from tests.builders.results import finding, run, stage

url, table = sys.argv[1:]
with open_database(url) as database:
    def die(connection, cursor, statement, *rest):
        if statement.startswith(f"INSERT INTO {table} "):
            os._exit(9)
    event.listen(database.engine, "after_cursor_execute", die)
    runs.save(database, run(stage(finding(), counts={"sites": 1}), run_id="dead"))
"""


def test_round_trip(database: Database) -> None:
    """Every field, and the order of all, is what it was."""
    told = finding(
        "f",
        "alternative/state",
        cause="callee g",
        declared="sp+16 call",
        actual="sp+8 call",
        variant="replacement 2 of 3 (PVUNLOCK)",
        platforms=("kvm", "xen"),
        window=("-> 0: ret ×", "\t"),
        reproduce="orc-harness validate .",
        blame="objtool",
        occurrences=2**40,
    )
    saved = run(
        stage(of=Stage.BUILD, counts={"zebra": 2**40, "ant": 0}, seconds=0.1 + 0.2),
        stage(told, finding("b"), finding("a"), known=(finding("k"),), notes=("n",)),
        stage(of=Stage.BOOT, status=Status.MISS, reason="no KVM", hint="get one"),
        stage(of=Stage.COMPARE, status=Status.ERROR, exit_code=3),
    )

    runs.save(database, saved)
    loaded = runs.load(database, saved.run_id)

    assert loaded == saved
    assert list(loaded.stages[0].counts) == ["zebra", "ant"]
    # what equality does not look at
    assert loaded.stages[1].findings[0].location.address == 0xFFFFFFFF81000004
    assert loaded.stages[1].findings[0].key == told.key


def test_what_no_database_takes_is_spelt_out(database: Database) -> None:
    """A file name that is no UTF-8, a zero on a console: the run is kept."""
    odd = "caf\udce9\0"
    saved = run(
        stage(finding(window=(odd,)), variant=odd, notes=(odd,)),
        tree=odd,
        tools={"gcc": odd},
    )

    runs.save(database, saved)
    loaded = runs.load(database, "last")

    spelt = "caf\\udce9\\x00"
    (found,) = loaded.stages
    assert loaded.tree == found.variant == loaded.tools["gcc"] == spelt
    assert found.notes == found.findings[0].window == (spelt,)


@pytest.mark.parametrize(
    "odd",
    [
        stage(counts={"sites": 2**63}),
        stage(replace(finding(), location=Location("vmlinux", "f", 4, 2**64))),
        stage(replace(finding(), location=Location("vmlinux", "f", 4, -1))),
    ],
)
def test_a_number_that_no_database_takes(database: Database, odd: StageResult) -> None:
    """Nothing of ours makes one; a file may have it."""
    with pytest.raises(FormatError, match="cannot keep the run: "):
        runs.save(database, run(odd))

    assert past.recent(database, 9) == ()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE stage SET stage = 'knead'",
        "UPDATE stage SET status = ''",
        "UPDATE stage SET notes = '1'",
        "UPDATE run SET tools = '[\"gcc\"]'",
    ],
)
def test_what_is_no_run(database: Database, damage: str) -> None:
    """Somebody has been at the tables: one error, which names the store."""
    runs.save(database, run(stage(finding()), run_id="one"))
    with database.engine.begin() as connection:
        connection.execute(text(damage))

    with pytest.raises(FormatError, match=r"the store .* is damaged: "):
        runs.load(database, "one")


@pytest.mark.parametrize("table", ["run", "stage", "count", "finding"])
def test_killed_while_saving_nothing_is_there(store_url: str, table: str) -> None:
    """Whole, or not at all; and the next one is saved."""
    done = subprocess.run(
        [sys.executable, "-c", _DIE, store_url, table], timeout=60, check=False
    )
    assert done.returncode == 9

    with open_database(store_url) as database:
        assert past.recent(database, 10) == ()
        runs.save(database, run(run_id="alive"))
        assert [each.run_id for each in past.recent(database, 10)] == ["alive"]


def test_many_at_once(store_url: str) -> None:
    """Those who come first make the tables; none is lost."""

    def save(number: int) -> None:
        with open_database(store_url) as database:
            runs.save(database, run(stage(finding()), run_id=f"r{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(8)))

    with open_database(store_url) as database:
        found = {each.run_id for each in past.recent(database, 10)}
    assert found == {f"r{number}" for number in range(8)}


def test_a_run_is_saved_once(database: Database) -> None:
    """The second time is an error that names it."""
    one = run(run_id="one")
    runs.save(database, one)

    with pytest.raises(UserError, match=r"run one is in .* already"):
        runs.save(database, one)


def test_find(database: Database) -> None:
    """By id, by its beginning, or the last one."""
    for name in ("ab1", "ab2", "b_3"):
        runs.save(database, run(run_id=name))

    assert runs.load(database, "ab1").run_id == "ab1"
    assert runs.load(database, "b").run_id == "b_3"
    assert runs.load(database, "last").run_id == "b_3"


@pytest.mark.parametrize(
    ("name", "said"),
    [("ab", "several runs: ab1, ab2"), ("_", "no run _"), ("%", "no run %")],
)
def test_not_found(database: Database, name: str, said: str) -> None:
    """A wildcard of the database is none of ours."""
    for each in ("ab1", "ab2"):
        runs.save(database, run(run_id=each))

    with pytest.raises(UserError, match=said):
        runs.load(database, name)


def test_no_run_at_all(database: Database) -> None:
    """There is no last one: the error says how to save one."""
    with pytest.raises(UserError, match="--store saves one"):
        runs.load(database, "last")

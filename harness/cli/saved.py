"""Saved: runs that commands are told by name, and the keeping of those they make.

What needs the store imports it here, when it is asked for: SQLAlchemy takes longer to
import than a small kernel takes to validate.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_dir
from harness.cli.console import ERR
from harness.errors import HarnessError, UserError
from harness.result import RunResult, dump, load

if TYPE_CHECKING:
    from harness.history.diff import Diff
    from harness.history.trend import Trend

LAST_GOOD = "last-good"
DEFAULT = "default"
PAST = 30  # runs whose numbers a page shows


def find(name: str, store: str) -> RunResult:
    """Return the run that ``name`` is: a saved result's path, or one in ``store``.

    Raises:
        HarnessError: there is none, or it cannot be read.
    """
    if not name:
        raise UserError("a run's name is empty", hint="orc-harness history lists them")
    path = Path(name)
    if path.exists() or path.suffix == ".json" or os.sep in name:
        return load(path / "result.json" if path.is_dir() else path)
    from harness.store import runs
    from harness.store.database import open_existing

    with open_existing(store) as database:
        return runs.load(database, name)


def past(run: RunResult, store: str) -> tuple[tuple[Trend, ...], Diff | None]:
    """Return what ``store`` knows of the runs up to ``run``, and since one of them.

    That is its baseline, or else the one before it. Nothing, if the store does not have
    the run, or is not there.

    Raises:
        HarnessError: it cannot be read.
    """
    from harness.history.diff import diff
    from harness.history.trend import trends
    from harness.store import past, runs
    from harness.store.database import NoStore, open_existing

    try:
        with open_existing(store) as database:
            listed = past.recent(database, PAST, profile=run.profile, until=run.run_id)
            numbers = past.measurements(database, listed)
            if run.baseline and runs.has(database, run.baseline):
                base: RunResult | None = runs.load(database, run.baseline)
            else:
                base = past.before(database, run)
    except NoStore:
        return (), None
    return trends(numbers), diff(base, run) if base else None


class Base:
    """The run that others are judged against: known from the start, or found later.

    Which one is the last good one depends on what it is to be compared with; that the
    store can be asked is made sure before any work is done.
    """

    def __init__(self, name: str | None, store: str | None) -> None:
        """Find the run ``name``.

        Raises:
            HarnessError: there is none, or the store does not answer.
        """
        self._store = store or DEFAULT
        self._last_good = name == LAST_GOOD
        self._run: RunResult | None = None
        if self._last_good:
            from harness.store.database import NoStore, open_existing

            with contextlib.suppress(NoStore), open_existing(self._store):
                pass
        elif name:
            self._run = find(name, self._store)

    def judge(self, run: RunResult) -> tuple[RunResult, RunResult | None]:
        """Return ``run`` with what the base had as known, and the base.

        Raises:
            HarnessError: the store does not answer.
        """
        base = self._good_for(run) if self._last_good else self._run
        if base is None:
            return run, None
        from harness.history.against import against

        return against(run, base), base

    def _good_for(self, run: RunResult) -> RunResult | None:
        from harness.history.against import series
        from harness.store import past
        from harness.store.database import NoStore, open_existing

        found = None
        with contextlib.suppress(NoStore), open_existing(self._store) as database:
            found = past.last_good(database, run)
        if found is None:
            ERR.print(
                "note: the store has no good run of this yet: what no entry covers is "
                "new",
                markup=False,
            )
        elif series(found.tree) != series(run.tree):
            ERR.print(
                f"note: the store has no good run of {run.tree}: what {found.run_id} "
                f"had is known, which is of {found.tree}",
                markup=False,
            )
        return found


def check(store: str | None) -> None:
    """Open ``store`` before the work whose result goes there.

    Raises:
        HarnessError: it cannot be opened, or is no store of ours.
    """
    if store is not None:
        from harness.store.database import open_database

        with open_database(store):
            pass


def save(run: RunResult, store: str | None) -> bool:
    """Save ``run`` in ``store``, if one is named; tell whether it is there.

    If that fails, this says so and where the run is instead. Its verdict stands: it
    has been printed, and is what the process exits with.
    """
    if store is None:
        return False
    from harness.store import runs
    from harness.store.database import open_database

    try:
        with open_database(store) as database:
            runs.save(database, run)
    except Exception as exc:
        ERR.print(f"error: the run is not saved: {exc}", markup=False, style="bold red")
        ERR.print(_kept(run), markup=False)
        if not isinstance(exc, HarnessError):
            raise
        return False
    return True


def _kept(run: RunResult) -> str:
    """Write ``run`` to a file, wherever there is room; say where."""
    import tempfile

    for directory in (cache_dir() / "unsaved", Path(tempfile.gettempdir())):
        path = directory / f"{run.run_id}.json"
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dump(run))
            return f"  it is in {path}; orc-harness history --add {path} saves it"
    return "  nor could it be written to a file; --format json prints it"


def add(path: Path, store: str) -> RunResult:
    """Save the result in ``path`` in ``store``.

    Raises:
        HarnessError: it is none, it is there already, or the store failed.
    """
    from harness.store import runs
    from harness.store.database import open_database

    run = load(path / "result.json" if path.is_dir() else path)
    with open_database(store) as database:
        runs.save(database, run)
    return run

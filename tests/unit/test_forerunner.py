"""The forerunner: its work, its errors, its death, and that nothing is left of it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import forerunner
from harness.errors import FormatError


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of ours lives on after a test."""
    fork, copies = os.fork, []

    def noted() -> int:
        copies.append(fork())
        return copies[-1]

    monkeypatch.setattr(os, "fork", noted)
    yield
    forerunner.end()
    for pid in copies:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def refuse() -> int:
    """Find a file wrong."""
    raise FormatError("seen this", hint="do that")


def dies_but(here: int) -> int:
    """Die everywhere but ``here``."""
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def modules_of(*names: str) -> list[bool]:
    """Tell which modules are imported."""
    return [name in sys.modules for name in names]


def test_work_is_done_by_the_copy() -> None:
    """Whose answer it is, is told by its process."""
    forerunner.start([])
    assert forerunner.ask(os.getpid)() != os.getpid()


def test_without_one_it_is_done_here() -> None:
    """Nor does a second one ask the first one's forerunner."""
    assert forerunner.ask(os.getpid)() == os.getpid()
    forerunner.start([])
    first, second = forerunner.ask(os.getpid), forerunner.ask(os.getpid)
    assert (first() == os.getpid(), second() == os.getpid()) == (False, True)


def test_it_imports_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was started for it has imported, once it had the time; we have not."""
    (tmp_path / "judging.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    forerunner.start(["judging"])
    time.sleep(0.5)
    there = forerunner.ask(functools.partial(modules_of, "judging"))()
    assert there == [True]
    assert "judging" not in sys.modules


def test_an_error_is_raised_here() -> None:
    """What cannot be judged there cannot be judged."""
    forerunner.start([])
    with pytest.raises(FormatError, match="seen this") as raised:
        forerunner.ask(refuse)()
    assert raised.value.hint == "do that"


def test_one_that_dies_loses_nothing() -> None:
    """Killed in the middle of its work: that is done again, here."""
    forerunner.start([])
    assert forerunner.ask(functools.partial(dies_but, os.getpid()))() == 7


def test_one_that_is_dead_already_loses_nothing() -> None:
    """Its pipe is broken when it is asked; nobody hears of it."""
    forerunner.start(["no.such.module"])
    time.sleep(0.3)
    assert forerunner.ask(os.getpid)() == os.getpid()


def test_no_room_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all is done here."""

    def full() -> int:
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    forerunner.start([])
    assert forerunner.ask(os.getpid)() == os.getpid()

"""Work in a forked copy: its result, its errors, and its death."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness import beside as module
from harness.beside import beside
from harness.errors import FormatError


def test_both_halves_are_done() -> None:
    """The result comes from another process, while this one did something else."""
    with beside(os.getpid, forked=True) as other:
        mine = os.getpid()
        assert other() != mine
    with beside(os.getpid, forked=False) as other:
        assert other() == mine


def test_an_error_is_raised_here() -> None:
    """What cannot be judged there cannot be judged."""

    def work() -> int:
        raise FormatError("seen this", hint="do that")

    with (
        beside(work, forked=True) as other,
        pytest.raises(FormatError, match="seen this") as raised,
    ):
        other()
    assert raised.value.hint == "do that"


def test_a_copy_that_dies_loses_nothing() -> None:
    """Killed in the middle of its work: it is done again, here."""
    here = os.getpid()

    def work() -> int:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    with beside(work, forked=True) as other:
        assert other() == 7


def test_a_copy_that_hangs_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stuck past its deadline: its work is done here, and nothing is left of it."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    here, fork, copies = os.getpid(), os.fork, []

    def noted() -> int:
        copies.append(fork())
        return copies[-1]

    monkeypatch.setattr(os, "fork", noted)

    def work() -> int:
        if os.getpid() != here:
            signal.pause()
        return 7

    with beside(work, forked=True) as other:
        assert other() == 7
    with pytest.raises(ProcessLookupError):
        os.kill(copies[0], 0)


def test_no_copy_of_what_another_thread_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for that for ever: the work is done here, and at once."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    held, let_go, lock = threading.Event(), threading.Event(), threading.RLock()

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(30)

    def work() -> int:
        with lock:
            return os.getpid()

    other_thread = threading.Thread(target=hold)
    other_thread.start()
    try:
        assert held.wait(30)
        with beside(work, forked=True) as other:
            let_go.set()
            assert other() == os.getpid()
    finally:
        let_go.set()
        other_thread.join()


def test_a_thread_that_draws_is_no_company() -> None:
    """Progress on a terminal does not make validation slower."""
    over = threading.Event()
    threading.Thread(target=over.wait, args=(30,), daemon=True).start()
    try:
        with beside(os.getpid, forked=True) as other:
            assert other() != os.getpid()
    finally:
        over.set()


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be forked all is done here."""

    def refuse() -> int:
        raise OSError

    monkeypatch.setattr(os, "fork", refuse)
    with beside(os.getpid, forked=True) as other:
        assert other() == os.getpid()


def test_a_bug_is_seen_where_it_can_be() -> None:
    """What the copy raises besides is raised again, with its traceback."""

    def work() -> int:
        raise ZeroDivisionError

    with beside(work, forked=True) as other, pytest.raises(ZeroDivisionError):
        other()

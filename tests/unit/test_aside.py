"""Work in threads: what it came to, what it raised, and that no thread stays."""

from __future__ import annotations

import threading

import pytest

from harness.aside import Aside, each


def test_what_it_came_to() -> None:
    """The result is that of the work, however often it is asked for."""
    before = threading.active_count()
    aside = Aside(lambda: 7)

    assert [aside.result(), aside.result()] == [7, 7]
    assert threading.active_count() == before


def test_what_it_raised_is_raised_where_it_is_waited_for() -> None:
    """The thread prints nothing of its own."""
    aside = Aside(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        aside.result()


def test_it_runs_meanwhile() -> None:
    """The work has begun before anybody waits for it."""
    began = threading.Event()
    aside = Aside(began.set)

    assert began.wait(10)
    aside.wait()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_part_in_its_order(threads: int) -> None:
    """However many threads there are, each part is done once and has its place."""
    asked: list[int] = []

    def work(part: int) -> int:
        asked.append(part)
        return -part

    assert each(work, range(20), threads) == [-part for part in range(20)]
    assert sorted(asked) == [*range(20)]


def test_a_part_that_fails_fails_all() -> None:
    """No other thread is left behind."""
    before = threading.active_count()

    with pytest.raises(ZeroDivisionError):
        each(lambda part: 1 // part, [1, 0, 2, 3], 2)
    assert threading.active_count() == before


def test_what_is_left_is_not_done_after_a_failure() -> None:
    """It would be in vain."""
    done: list[int] = []

    def work(part: int) -> None:
        done.append(1 // part)

    with pytest.raises(ZeroDivisionError):
        each(work, [0, 1, 1, 1], 1)
    assert done == []

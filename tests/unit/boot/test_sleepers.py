"""The tasks in a dump, which nothing but lists leads to."""

from __future__ import annotations

import pytest

from harness.boot.sleepers import Sleepers, find_sleepers
from harness.boot.stack_info import stack_layout
from harness.boot.task import task_layout
from harness.errors import FormatError
from tests.builders import image
from tests.builders.dumped import INIT_TASK, chain, dumped, linked
from tests.builders.guest import SLEEPER, SLEEPER_STACK, TASK, ZOMBIE, SimulatedGuest


def found(guest: SimulatedGuest) -> Sleepers:
    """What there is in the memory of ``guest``; where there is none it cannot be read."""
    program = linked()

    def read_many(wanted: list[tuple[int, int]]) -> list[bytes]:
        try:
            return guest.read_many(wanted)
        except KeyError as exc:
            raise FormatError("nothing there") from exc

    return find_sleepers(
        program, task_layout(program, stack_layout(program)), read_many
    )


def test_the_tasks_of_a_list() -> None:
    """Those that sleep, with where they go on; that runs, that has ended is counted."""
    sleepers = found(dumped())
    assert [task.address for task in sleepers.tasks] == [INIT_TASK, SLEEPER]
    assert (sleepers.running, sleepers.without_stack) == (1, 1)
    assert sleepers.tasks[1].inactive.ip == image.TEXT + 0x402
    assert sleepers.tasks[1].stack.begin == SLEEPER_STACK


def test_a_list_that_leads_elsewhere() -> None:
    """``children`` leads to other members of tasks: no mark is where a stack would be."""
    guest = dumped()
    chain(guest, image.CHILDREN, TASK - 0x10, SLEEPER - 0x10, ZOMBIE - 0x18)
    assert [task.address for task in found(guest).tasks] == [INIT_TASK, SLEEPER]


@pytest.mark.parametrize("at", [SLEEPER_STACK, SLEEPER + image.TASKS + 8])
def test_a_list_that_is_broken(at: int) -> None:
    """A stack without the mark, or a member that leads back elsewhere, is no task."""
    guest = dumped()
    guest.word(at, 0x1234)
    with pytest.raises(FormatError, match="no list of its init_task leads to tasks"):
        found(guest)


def test_a_list_into_nowhere() -> None:
    """What is not in the dump is no task, and no error."""
    guest = dumped()
    guest.word(INIT_TASK + image.TASKS, 0xDEAD0000)
    with pytest.raises(FormatError, match="leads to tasks"):
        found(guest)

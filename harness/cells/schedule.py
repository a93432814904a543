"""Schedule: which work may start now; pure, it starts nothing itself.

Work has a need, comes after other work, and is started in its order as soon as it fits
beside what runs. What does not fit is overtaken, but not for ever: then nothing starts
before it, and there will be room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from harness.cells.need import Need

# A build waits for its disk, and links on one core: a guest runs beside it.
OVERCOMMIT = 1.5
PATIENCE = 4  # how often one may be overtaken


class Task(Struct, frozen=True):
    """One piece of work: its ``name``, what it takes, and the names it comes ``after``."""

    name: str
    need: Need
    after: tuple[str, ...] = ()


class Schedule:
    """Tasks, each waiting, running or done, on a machine that has so much."""

    def __init__(self, tasks: Sequence[Task], machine: Need) -> None:
        """Take ``tasks``, those that others come after first."""
        self._waiting = list(tasks)
        self._running: dict[str, Task] = {}
        self._done: set[str] = set()
        self._overtaken: Counter[str] = Counter()
        self._machine = Need(machine.cores * OVERCOMMIT, machine.memory_mb)

    @property
    def finished(self) -> bool:
        """Whether all is done."""
        return not self._waiting and not self._running

    def too_big(self) -> tuple[Task, ...]:
        """Return what this machine has not the memory for, even when it is idle."""
        most = self._machine.memory_mb
        return tuple(task for task in self._waiting if task.need.memory_mb > most)

    def start(self, available_mb: int) -> tuple[Task, ...]:
        """Return what may start now, and take it as running.

        ``available_mb`` is what the machine says to have at this moment: others use it,
        too. When nothing of ours runs, the first may start whatever that is.
        """
        started: list[Task] = []
        passed: list[Task] = []
        for task in list(self._waiting):
            if not self._done.issuperset(task.after):
                continue
            if self._fits(task, available_mb):
                self._waiting.remove(task)
                self._running[task.name] = task
                available_mb -= task.need.memory_mb
                started.append(task)
                self._overtaken.update(one.name for one in passed)
                continue
            passed.append(task)
            if self._overtaken[task.name] >= PATIENCE:
                break
        return tuple(started)

    def _fits(self, task: Task, available_mb: int) -> bool:
        if not self._running:
            return True
        used = sum((one.need for one in self._running.values()), Need(0, 0))
        return (
            task.need.fits(self._machine - used) and task.need.memory_mb <= available_mb
        )

    def end(self, name: str) -> None:
        """Take the running task ``name`` as done."""
        del self._running[name]
        self._done.add(name)

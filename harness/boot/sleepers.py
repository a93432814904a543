"""Sleepers: the tasks of a kernel in a dump that do not run.

Nobody can be asked there, and nothing tells the layout of struct task_struct. But
init_task is built in, and of its empty lists one leads from task to task when the kernel
runs (``tasks``, include/linux/sched.h): it is the one all of whose members have a stack
with the kernel's own mark at its end. It has the leaders of thread groups.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.boot.stack_info import ReadMany
from harness.boot.task import MOST_TASKS, Task, TaskLayout, read_task
from harness.elf.program import Program
from harness.errors import FormatError

STACK_END_MAGIC = 0x57AC6E9D  # include/uapi/linux/magic.h
_WORD = 0xFFFF_FFFF_FFFF_FFFF


class Sleepers(Struct, frozen=True):
    """What a dump has of tasks.

    Attributes:
        tasks: those that do not run.
        running: how many do.
        without_stack: how many have ended.
    """

    tasks: tuple[Task, ...]
    running: int
    without_stack: int


def find_sleepers(
    program: Program, layout: TaskLayout, read_many: ReadMany
) -> Sleepers:
    """Return the tasks of ``program``, whose memory ``read_many`` reads.

    Raises:
        FormatError: no list of its init_task leads to tasks.
    """
    init_task, lists = _empty_lists(program)
    found: list[int] = []
    most = 0
    for at in lists:
        members = _members(init_task, at, layout, read_many)
        if (marked := sum(members.values())) > most:
            found, most = list(members), marked
    if not found:
        raise FormatError(f"{program.name}: no list of its init_task leads to tasks")
    running = _running(program, layout, read_many)
    tasks = [
        read_task(read_many, layout, address, number)
        for number, address in enumerate([init_task, *found])
        if address not in running
    ]
    here = tuple(task for task in tasks if task is not None)
    return Sleepers(here, len(running), len(tasks) - len(here))


def _empty_lists(program: Program) -> tuple[int, list[int]]:
    """Return where init_task is, and offsets in it of lists that are linked as empty."""
    row = program.symbols.find_index("init_task")
    if row is None:
        raise FormatError(f"{program.name} has no symbol init_task")
    address = int(program.symbols.address[row])
    data = program.read(address, int(program.symbols.size[row]) & -8)
    words = np.frombuffer(data.tobytes(), "<u8")
    linked = np.uint64(address - program.slide & _WORD)
    own = linked + np.arange(len(words), dtype=np.uint64) * np.uint64(8)
    empty = (words[:-1] == own[:-1]) & (words[1:] == own[:-1])
    return address, [8 * row for row in np.flatnonzero(empty).tolist()]


def _members(
    init_task: int, offset: int, layout: TaskLayout, read_many: ReadMany
) -> dict[int, bool]:
    """Return the tasks that the list at ``offset`` leads to -> whether it has a stack.

    None if one of them is no task.
    """
    tasks: dict[int, bool] = {}
    head = node = init_task + offset
    for _ in range(MOST_TASKS):
        (following,) = _words(read_many, [node])
        if following == head:
            return tasks
        task = following - offset & _WORD
        try:
            back, stack = _words(
                read_many, [following + 8, task + layout.stacks.task_stack & _WORD]
            )
            magic = _words(read_many, [stack])[0] if stack else STACK_END_MAGIC
        except FormatError:
            return {}
        if back != node or magic != STACK_END_MAGIC:
            return {}
        tasks[task] = bool(stack)
        node = following
    return {}


def _running(program: Program, layout: TaskLayout, read_many: ReadMany) -> set[int]:
    """Return the task of every CPU."""
    bases, count = program.symbols.find("__per_cpu_offset"), 1
    if (number := program.symbols.find("nr_cpu_ids")) is not None:
        count = _words(read_many, [number])[0] & 0xFFFF_FFFF
    offsets: tuple[int, ...] = (0,)  # where there can be no other CPU
    if bases is not None:
        offsets = _words(read_many, [bases + 8 * cpu for cpu in range(count)])
    current = layout.stacks.current_task
    return set(_words(read_many, [offset + current & _WORD for offset in offsets]))


def _words(read_many: ReadMany, addresses: list[int]) -> tuple[int, ...]:
    parts = read_many([(address, 8) for address in addresses])
    return tuple(int.from_bytes(part, "little") for part in parts)

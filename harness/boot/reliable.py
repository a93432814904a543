"""Reliable: may livepatch trust the stack of every task that does not run?

It asks stack_trace_save_tsk_reliable(), and cannot go on while one task's answer is
no. That answer is the table's: here it is asked for every task of the stopped guest,
and compared with the unwind that the image's table allows
(arch/x86/kernel/stacktrace.c, kernel/livepatch/transition.c, v6.12).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.call import Errands
from harness.boot.control import broken
from harness.boot.driver import RECORD
from harness.boot.gdb import UnmappedMemory
from harness.boot.point import Guest, StackMemory, frame_lines, name_of
from harness.boot.registers import Registers
from harness.boot.sample import halted, hits
from harness.boot.stack_info import KERNEL_HALF, per_cpu_base
from harness.boot.task import (
    Task,
    TaskFinder,
    TaskLayout,
    read_task,
    task_finder,
    task_layout,
)
from harness.boot.unwind import TRACE_LIMIT, Ended, Trace, unwind_inactive
from harness.elf.orc import OrcType, describe
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding
from harness.text.decode import decode_all
from harness.text.insn import InsnKind

DIFFERS, UNRELIABLE = "runtime/task-differs", "runtime/unreliable"
FUNCTION = "stack_trace_save_tsk_reliable"
QUIET = "do_syscall_64"  # where no task is being switched to or from
_QUIET_BYTES = 64  # of it, that are looked at


class Asked(Struct, frozen=True):
    """One task, unwound by the table and by the guest.

    Attributes:
        host: the unwind by the static table.
        guest: what the guest stored, to where it gave up if it did.
        trusted: the guest says that the stack is reliable.
    """

    task: Task
    host: Trace
    guest: tuple[int, ...]
    trusted: bool

    @property
    def comparable(self) -> bool:
        """The host knows all the text that is on this stack."""
        return self.host.ended is not Ended.MODULE

    @property
    def agrees(self) -> bool:
        """Both say the same."""
        if not self.comparable or not self.host.reliable:
            return not self.comparable or not self.trusted
        return self.trusted and self.guest == self.host.ips


class Reliability(Struct, frozen=True):
    """How a guest is asked about its tasks."""

    function: int
    quiet: int
    finder: TaskFinder
    layout: TaskLayout

    def stops(self, guest: Guest, timeout_s: float) -> Iterator[Registers]:
        """Let the guest run to where it may be asked; yield the state it stops in.

        That is where none of its vCPUs is switching tasks, or making or ending one.
        """
        with contextlib.closing(hits(guest.gdb, [self.quiet], timeout_s)) as found:
            for registers in found:
                if all(self._settled(guest, other) for other in guest.gdb.vcpus()):
                    yield registers

    def _settled(self, guest: Guest, registers: Registers) -> bool:
        """Tell whether a vCPU runs a user's code, waits, or is at ``quiet``, too."""
        return (
            registers.rip < KERNEL_HALF
            or registers.rip == self.quiet
            or halted(guest.program, guest.text, registers)
        )

    def tasks(self, guest: Guest, registers: Registers) -> Iterator[Asked | None]:
        """Ask about every task of the guest, stopped at ``quiet``, but those that run.

        None is a task that has no stack (any more).

        Raises:
            InfraError: a call did not come back.
        """
        running = set(self._running(guest))
        found = list(self.finder.find(guest.gdb, guest.call, registers))
        tasks: list[Task] = []
        for address, pid in found:
            if address in running:
                continue
            try:
                task = read_task(guest.gdb.read_many, self.layout, address, pid)
            except UnmappedMemory:
                task = None
            if task is None:
                yield None
            else:
                tasks.append(task)
        many = self.at_once(guest)
        for first in range(0, len(tasks), many):
            yield from self.ask(guest, registers, tasks[first : first + many])

    def at_once(self, guest: Guest) -> int:
        """Return about how many tasks there is room for to ask at once."""
        return max(guest.call.room // (8 * TRACE_LIMIT + RECORD.size), 1)

    def _running(self, guest: Guest) -> Iterator[int]:
        """Yield the task of every vCPU."""
        for each in guest.gdb.vcpus():
            if (base := per_cpu_base(each)) is not None:
                yield replace(guest.cpu, gs_base=base).task(guest.gdb.read)

    def ask(
        self, guest: Guest, registers: Registers, tasks: Sequence[Task]
    ) -> Iterator[Asked]:
        """Unwind each of ``tasks`` twice.

        Raises:
            InfraError: the calls did not come back.
        """
        errands = Errands(guest.call)
        stores = [errands.place(bytes(8 * TRACE_LIMIT)) for _ in tasks]
        numbers = [
            errands.call(self.function, task.address, store, TRACE_LIMIT)
            for task, store in zip(tasks, stores, strict=True)
        ]
        done = errands.run(guest.gdb, registers)
        for task, store, number in zip(tasks, stores, numbers, strict=True):
            count = done.signed(number)
            stored = done.words(store, TRACE_LIMIT if count < 0 else count)
            told = tuple(itertools.takewhile(bool, stored)) if count < 0 else stored
            yield Asked(task, _by_table(guest, task), told, count >= 0)


def _by_table(guest: Guest, task: Task) -> Trace:
    """Return the unwind of ``task`` by the static table."""
    stacks = task.known_stacks
    memory = StackMemory(guest.gdb, [], stacks)
    return unwind_inactive(task.inactive, guest.text, stacks, memory.read_word)


def reliability(guest: Guest) -> Reliability | None:
    """Return how to ask ``guest``; None if its kernel has no reliable unwinder.

    Raises:
        FormatError: it has one, and switches tasks in a way that we do not know.
    """
    program = guest.program
    function = program.symbols.find(FUNCTION)
    quiet = program.symbols.find(QUIET)
    finder = task_finder(program)
    if function is None or quiet is None or finder is None:
        return None
    layout = task_layout(program, guest.cpu.layout)
    quiet = stopping_place(program, quiet, guest.gdb.breakpoint_bytes)
    return Reliability(function, quiet, finder, layout)


def stopping_place(program: Program, function: int, size: int) -> int:
    """Return where in ``function`` all come by and an instruction has ``size`` bytes.

    Raises:
        FormatError: it branches before.
    """
    insns = decode_all(program.read(function, _QUIET_BYTES), function)
    for row in range(len(insns)):
        insn = insns.at(row)
        if len(insn.code) >= size:
            return insn.address
        if insn.kind is InsnKind.JCC or not insn.kind.falls_through:
            break
    raise FormatError(
        f"{program.location(function)} has no instruction of {size} bytes to stop at"
    )


def breakable(asked: Asked, guest: Guest) -> int | None:
    """Choose an entry that a task's unwind needs: to break it must be seen."""
    for frame in asked.host.frames:
        if frame.index is None or frame.cfa is None:
            continue
        if guest.text.entry(frame.index).type == OrcType.CALL:
            return frame.index
    return None


class Survey(Struct):
    """What was asked of the tasks, and what it came to.

    Attributes:
        stops: how often the guest was stopped for it.
        asked, differ, unreliable, module_on_stack: answers, by what they were.
        without_stack: tasks that have ended.
        most: of tasks, at one stop.
        control: a wrong entry was seen; None while there was no task to see it in.
        findings: one for each answer that is wrong.
    """

    stops: int = 0
    asked: int = 0
    differ: int = 0
    unreliable: int = 0
    module_on_stack: int = 0
    without_stack: int = 0
    most: int = 0
    control: bool | None = None
    findings: list[Finding] = field(default_factory=list)

    def stop(
        self, how: Reliability, guest: Guest, registers: Registers
    ) -> list[Finding]:
        """Ask about all tasks of the guest, which is stopped at ``how.quiet``.

        Returns what is wrong with them.

        Raises:
            InfraError: a call did not come back.
        """
        before, so_far = self.asked, len(self.findings)
        for asked in how.tasks(guest, registers):
            if asked is None:
                self.without_stack += 1
                continue
            self.asked += 1
            self.module_on_stack += not asked.comparable
            self.differ += not asked.agrees
            self.unreliable += not asked.trusted
            if wrong := finding(guest, asked):
                self.findings.append(wrong)
            elif self.control is None:
                self.control = self._control(how, guest, registers, asked)
        self.stops += 1
        self.most = max(self.most, self.asked - before)
        return self.findings[so_far:]

    def _control(
        self, how: Reliability, guest: Guest, registers: Registers, asked: Asked
    ) -> bool | None:
        if (index := breakable(asked, guest)) is None:
            return None
        with broken(guest.gdb, guest.program, index):
            (again,) = how.ask(guest, registers, [asked.task])
            return not again.agrees

    @property
    def counts(self) -> dict[str, int]:
        """How much was done, by name."""
        return {
            "task_stops": self.stops,
            "tasks_asked": self.asked,
            "tasks_differ": self.differ,
            "tasks_unreliable": self.unreliable,
            "tasks_at_a_stop": self.most,
            "tasks_without_stack": self.without_stack,
        }


def finding(guest: Guest, asked: Asked) -> Finding | None:
    """Return what is wrong with the stack of a task; None if nothing is.

    It is placed at the frame that ends the unwind, or leads the two apart.
    """
    if not asked.agrees:
        return _finding(guest, asked, DIFFERS)
    if not asked.trusted and asked.comparable:
        return _finding(guest, asked, UNRELIABLE)
    return None


def _finding(guest: Guest, asked: Asked, rule: str) -> Finding:
    program, host, told = guest.program, asked.host, asked.guest
    number = _first(host.ips, told)
    place = asked.task.inactive.ip
    if frames := host.frames[: max(number, 1)]:
        place = frames[-1].ip if frames[-1].looked_up is None else frames[-1].looked_up
    index = guest.text.find(place)
    declared = "no entry" if index is None else describe(guest.text.state[index])
    location = program.location(place)
    who = f"task {asked.task.pid}" if asked.task.pid else "the idle task"
    by_table = f"the table ends with: {host.ended}"
    if rule == UNRELIABLE:
        message = f"livepatch cannot trust the stack of {who}: {host.ended}"
    elif not asked.trusted:
        message = f"the kernel does not trust the stack of {who}; {by_table}"
    elif not host.reliable:
        message = f"the kernel trusts the stack of {who}; {by_table}"
    else:
        guests = name_of(program, told, number)
        message = (
            f"the kernel unwinds {who} to {guests}, the table to "
            f"{name_of(program, host.ips, number)}"
        )
    return Finding(
        rule=rule,
        location=location,
        message=message,
        declared=declared,
        actual=f"guest: {name_of(program, told, number)}",
        cause=f"{location.symbol}, {declared}",
        window=(
            f"{who} goes on at {program.location(asked.task.inactive.ip)}, {by_table}",
            *frame_lines(program, guest.text, host, told, number),
        ),
    )


def _first(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next(
        (i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other))
    )

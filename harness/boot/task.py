"""Task: one of the guest that does not run, and where its stack goes on.

The layout is found in the image's own __switch_to_asm(), which writes both: it pushes
struct inactive_task_frame (arch/x86/include/asm/switch_to.h) and stores %rsp in
``thread.sp``. Tasks are found as /proc does it, by find_ge_pid() and pid_task().
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from harness.boot.call import Errands, UnwindCall
from harness.boot.driver import RECORD
from harness.boot.gdb import Gdb
from harness.boot.registers import Registers
from harness.boot.stack_info import TASK, GuestStacks, ReadMany, StackLayout
from harness.boot.unwind import Inactive, StackInfo
from harness.elf.program import Program
from harness.errors import FormatError
from harness.text.decode import decode_all
from harness.text.insn import Insn, InsnKind

_SWITCH_BYTES = 64
_STORES = b"\x48\x89\xa7"  # mov %rsp,disp32(%rdi)
_PUSH_RBP = b"\x55"
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_PIDTYPE_PID = 0
MOST_TASKS = 4096


class TaskLayout(Struct, frozen=True):
    """How a kernel keeps what a task that does not run needs to go on.

    Attributes:
        thread_sp: offset of ``thread.sp`` in struct task_struct.
        saved: bytes that __switch_to_asm() pushes; the return address is behind them.
        bp: where %rbp is among them, from ``thread.sp``.
        fresh: where a task begins that has never run.
        switched: where __switch_to_asm() has pushed all of it, and stores %rsp.
        stacks: where a task keeps its stack, and how big it is.
    """

    thread_sp: int
    saved: int
    bp: int
    fresh: int
    switched: int
    stacks: StackLayout


class Task(Struct, frozen=True):
    """A task that does not run.

    Attributes:
        address: its struct task_struct.
        pid: of the initial namespace; 0 is the idle task.
        stack: the only one that its unwind may touch.
        inactive: where it goes on.
    """

    address: int
    pid: int
    stack: StackInfo
    inactive: Inactive

    @property
    def known_stacks(self) -> GuestStacks:
        """What get_stack_info() tells of it."""
        return GuestStacks((self.stack,))


def task_layout(program: Program, stacks: StackLayout) -> TaskLayout:
    """Find the layout in a vmlinux.

    Raises:
        FormatError: its __switch_to_asm() is not what we know.
    """
    address = program.symbols.find("__switch_to_asm")
    if address is None:
        raise FormatError(f"{program.name} has no symbol __switch_to_asm")
    pushes: list[bytes] = []
    for insn in _switch(program, address):
        if insn.code.startswith(_STORES):
            break
        if insn.kind in (InsnKind.PUSH, InsnKind.PUSHF):
            pushes.append(insn.code)
    if not insn.code.startswith(_STORES) or _PUSH_RBP not in pushes:
        raise FormatError(
            f"{program.name}: __switch_to_asm() pushes no %rbp and then stores %rsp"
        )
    saved = 8 * len(pushes)
    fresh = program.symbols.find("ret_from_fork_asm")  # ret_from_fork up to v6.5
    if fresh is None:
        fresh = program.symbols.find("ret_from_fork") or 0
    return TaskLayout(
        thread_sp=int.from_bytes(insn.code[3:7], "little", signed=True),
        saved=saved,
        bp=saved - 8 * (pushes.index(_PUSH_RBP) + 1),
        fresh=fresh,
        switched=insn.address,
        stacks=stacks,
    )


def _switch(program: Program, address: int) -> list[Insn]:
    insns = decode_all(program.read(address, _SWITCH_BYTES), address)
    return [insns.at(row) for row in range(len(insns))]


def read_task(
    read_many: ReadMany, layout: TaskLayout, address: int, pid: int
) -> Task | None:
    """Read the task at ``address``; None if its stack is gone (a zombie)."""
    begin, sp = _words(
        read_many(
            [
                (address + layout.stacks.task_stack & _WORD, 8),
                (address + layout.thread_sp & _WORD, 8),
            ]
        )
    )
    if not begin:
        return None
    stack = StackInfo(TASK, begin, begin + layout.stacks.thread_size, "task")
    bp, ip = _words(read_many([(sp + layout.bp, 8), (sp + layout.saved, 8)]))
    inactive = Inactive(ip, sp + layout.saved + 8, bp, signal=ip == layout.fresh)
    return Task(address, pid, stack, inactive)


class TaskFinder(Struct, frozen=True):
    """The guest's own functions that find its tasks; addresses.

    ``namespace`` is init_pid_ns, ``idle`` the boot CPU's idle task.
    """

    find_ge_pid: int
    pid_task: int
    pid_nr_ns: int
    namespace: int
    idle: int

    def find(
        self, gdb: Gdb, call: UnwindCall, registers: Registers
    ) -> Iterator[tuple[int, int]]:
        """Yield (address, pid) of every task, the idle one first.

        Raises:
            InfraError: a call did not come back.
        """

        def ask(function: int, arguments: Iterable[tuple[int, int]]) -> list[int]:
            errands = Errands(call)
            numbers = [errands.call(function, *each) for each in arguments]
            done = errands.run(gdb, registers)
            return [done.result(number) for number in numbers]

        yield self.idle, 0
        at_once = call.room // RECORD.size
        next_number, seen = 1, 0
        while seen < MOST_TASKS:
            # the next after each number, for few are free: so these are many tasks
            wanted = range(next_number, next_number + at_once)
            told = ask(
                self.find_ge_pid, ((number, self.namespace) for number in wanted)
            )
            if not (pids := list(dict.fromkeys(filter(None, told)))):
                return
            numbers = ask(self.pid_nr_ns, ((pid, self.namespace) for pid in pids))
            tasks = ask(self.pid_task, ((pid, _PIDTYPE_PID) for pid in pids))
            for number, task in zip(numbers, tasks, strict=True):
                if task:
                    yield task, number & 0xFFFF_FFFF
            seen += len(pids)
            if not told[-1]:
                return
            next_number = max(number & 0xFFFF_FFFF for number in numbers) + 1


def task_finder(program: Program) -> TaskFinder | None:
    """Return how to find the tasks of ``program``; None if it has not all of it."""
    found = [
        program.symbols.find(name)
        for name in ("find_ge_pid", "pid_task", "pid_nr_ns", "init_pid_ns", "init_task")
    ]
    places = [place for place in found if place is not None]
    return TaskFinder(*places) if len(places) == len(found) else None


def _words(parts: list[bytes]) -> tuple[int, ...]:
    return tuple(int.from_bytes(part, "little") for part in parts)

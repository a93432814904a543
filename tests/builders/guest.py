"""Guest: a kernel of tests.builders.image as a gdbstub serves it, with an unwinder.

Its vCPU goes round a fixed list of states; when the probe calls
stack_trace_save_regs() it unwinds by the table that is in its own memory. It can be
made blind (it unwinds by the pristine table) or short-sighted (it loses the last
frame), to see what the probe makes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from harness.boot import driver
from harness.boot.kernel_text import KernelText
from harness.boot.packet import frame
from harness.boot.registers import Registers
from harness.boot.stack_info import GuestStacks
from harness.boot.unwind import (
    PT_REGS,
    Inactive,
    StackInfo,
    unwind,
    unwind_inactive,
)
from harness.elf.orc import ENTRY_SIZE, OrcEntry, pack
from tests.builders import image
from tests.builders.rspserver import FakeStub

GS_BASE = 0xFFFF888000000000
TASK = 0xFFFF888000100000
STACK = 0xFFFFC90000000000
ESTACKS = 0xFFFFFE0000009000
IRQ_STACK = 0xFFFFC90000100000
DOUBLE_FAULT_TOP = ESTACKS + 0x3000
ZERO = Registers.parse(bytes(236))
KERNEL = replace(ZERO, cs=0x10, ss=0x18, gs_base=GS_BASE, eflags=0x202)
# The stack at STACK + 0x3000: leaf is called by caller, caller by ret_from_fork_asm.
SP = STACK + 0x3000


def at(offset: int, sp: int = SP) -> Registers:
    """Return the vCPU at ``offset`` in .text."""
    return replace(KERNEL, rip=image.TEXT + offset, rsp=sp)


# All states of the guest, in order; the site's are true for the patched text only.
STATES = [at(0x402), at(0x405), at(0x410), at(0x411, SP - 8), at(0x412), at(0x420)]
STATES.append(at(0xA00))  # a system call begins
# A task that sleeps: leaf called it, caller called leaf, and so on. One has ended.
SLEEPER, SLEEPER_PID, SLEEPER_STACK = TASK + 0x1000, 7, STACK + 0x10000
ZOMBIE, ZOMBIE_PID = TASK + 0x2000, 9


@dataclass
class SimulatedGuest(FakeStub):
    """Serve it with :func:`tests.builders.rspserver.serving`."""

    registers: bytes = STATES[0].pack()
    states: list[Registers] = field(default_factory=lambda: list(STATES))
    blind: bool = False
    short_sighted: bool = False
    booted: bool = True
    stuck: bool = False  # its unwinder stops where no one asked it to
    unmapped_at: int = 0  # where it stands on the user's page tables
    trusts_none: bool = False  # no task's stack is reliable
    error: int = 22  # what it says then
    turn: int = 0
    stops_first_at: int = 0  # a breakpoint inside the unwinder, hit once
    calls: int = 0  # that were made of its functions
    _called: Registers | None = None

    def __post_init__(self) -> None:
        program, _ = image.image()
        for section in program.sections:
            if section.name == ".data..percpu":
                self.load(GS_BASE, section.data.tobytes())
            elif section.alloc:
                self.load(section.address, section.data.tobytes())
        self.load(image.TEXT, image.patched_code())
        self.load(STACK, bytes(0x4000))
        self.load(ESTACKS, bytes(0x6000))
        for task, stack in ((TASK, STACK), (SLEEPER, SLEEPER_STACK), (ZOMBIE, 0)):
            self.load(task, bytes(0x100))
            self.word(task + image.TASK_STACK, stack)
        self._sleeper()
        hot = GS_BASE + image.PER_CPU["pcpu_hot"]
        self.word(hot, TASK)
        self.word(hot + 0x18, IRQ_STACK + 0x4000 - 8)
        self.word(GS_BASE + image.PER_CPU["cea_exception_stacks"], ESTACKS)
        self.word(GS_BASE + image.PER_CPU["cpu_tss_rw"] + 0x24, DOUBLE_FAULT_TOP)
        self.word(SP, image.TEXT + 0x508)
        self.word(SP + 8 + 16, image.TEXT + 0x605)
        state = image.DATA + image.THREAD_SIZE + 0x100
        self.word(state, 3 if self.booted else 0)

    def _sleeper(self) -> None:
        sp = SLEEPER_STACK + 0x3000
        self.load(SLEEPER_STACK, bytes(0x4000))
        self.word(SLEEPER + image.THREAD_SP, sp)
        self.word(sp + image.SAVED, image.TEXT + 0x402)
        self.word(sp + image.SAVED + 8, image.TEXT + 0x508)
        self.word(sp + image.SAVED + 16 + 16, image.TEXT + 0x605)

    def word(self, address: int, value: int) -> None:
        """Write a word of its memory."""
        self.load(address, struct.pack("<Q", value))

    def bytes_at(self, address: int, size: int) -> bytes:
        """Read its memory."""
        return bytes(self.memory[place] for place in range(address, address + size))

    def read_many(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several windows of its memory."""
        return [self.bytes_at(address, size) for address, size in wanted]

    def reply(self, packet: str) -> bytes | None:
        """Run, step or call; all else as any stub."""
        rip = int.from_bytes(self.registers[128:136], "little")
        if packet.startswith("m") and self.unmapped_at == rip:
            return frame("E14")
        answer: bytes | None = super().reply(packet)
        if answer is None or packet not in ("c", "s"):
            return answer
        now = Registers.parse(self.registers)
        if self.stuck:
            return answer
        if now.rip == image.TEXT and packet == "c":
            if self.stops_first_at in self.breakpoints:
                stopped = replace(now, rip=self.stops_first_at)
                self._called, self.stops_first_at = now, 0
                self.registers = stopped.pack()
                return answer
            self._drive(now)
        elif self._called is not None and now.rip in _CALLS:
            self._drive(self._called)
        elif packet == "s":
            self._next()
        else:
            for _ in self.states:
                self._next()
                if Registers.parse(self.registers).rip in self.breakpoints:
                    return answer
            self._next()  # where it is broken into is not where it was
            return b""  # it runs until then
        return answer

    def _next(self) -> None:
        self.turn += 1
        self.registers = self.states[self.turn % len(self.states)].pack()

    def _drive(self, now: Registers) -> None:
        # The loop of harness.boot.driver, which must be in the text.
        assert self.bytes_at(image.TEXT, len(driver.CODE)) == driver.CODE
        assert now.rsp % 16 == 0
        assert now.rsp <= now.rbx
        assert not now.eflags & 0x200
        for number in range(now.rbp):
            record = now.rbx + number * driver.RECORD.size
            rdi, rsi, rdx, function = driver.RECORD.unpack(self.bytes_at(record, 32))
            inside = replace(now, rip=function, rdi=rdi, rsi=rsi, rdx=rdx)
            if function == image.TEXT + driver.POKE:
                self.word(rdi, rsi)
            else:
                self.word(record, getattr(self, _CALLS[function])(inside))
            self.calls += 1
        self._called = None
        end = image.TEXT + driver.END
        assert end in self.breakpoints
        self.registers = replace(now, rip=end, rbp=0).pack()

    def unwind(self, now: Registers) -> int:
        """Unwind a pt_regs, and store what comes of it."""
        packed = struct.unpack("<21Q", self.bytes_at(now.rdi, 0xA8))
        regs = dict(zip(PT_REGS, packed, strict=True))
        stacks = GuestStacks((StackInfo(1, STACK, STACK + 0x4000),))
        trace = unwind(regs, self._text(), stacks, self._read_word)
        ips = trace.ips[:-1] if self.short_sighted else trace.ips
        return self._stored(now, ips[: now.rdx])

    def _stored(self, now: Registers, ips: Sequence[int]) -> int:
        for number, ip in enumerate(ips):
            self.word(now.rsi + 8 * number, ip)
        return len(ips)

    def find_ge_pid(self, now: Registers) -> int:
        """Return the struct pid of that number or the next; here the task's own."""
        assert now.rsi == image.DATA + image.THREAD_SIZE + 0x104
        pids = [pid for pid in _PIDS if pid >= now.rdi]
        return _PIDS[min(pids)] if pids else 0

    def pid_task(self, now: Registers) -> int:
        """Return the task of a struct pid."""
        return now.rdi

    def pid_nr_ns(self, now: Registers) -> int:
        """Return the number of a struct pid."""
        return next(pid for pid, task in _PIDS.items() if task == now.rdi)

    def reliable(self, now: Registers) -> int:
        """Unwind a task that sleeps by the table in memory."""
        if self.trusts_none:
            return (1 << 32) - self.error
        sp = self._read_word(now.rdi + image.THREAD_SP)
        stack = self._read_word(now.rdi + image.TASK_STACK)
        inactive = Inactive(self._read_word(sp + image.SAVED), sp + image.SAVED + 8, 0)
        stacks = GuestStacks((StackInfo(1, stack, stack + 0x4000),))
        trace = unwind_inactive(inactive, self._text(), stacks, self._read_word)
        stored = self._stored(now, trace.ips)
        return stored if trace.reliable else (1 << 32) - 22

    def _read_word(self, address: int) -> int:
        return int.from_bytes(self.bytes_at(address, 8), "little")

    def _text(self) -> KernelText:
        # The table that is in memory now: only sp_offset is ever changed there.
        table = image.ORC + 4 * len(image.TABLE)
        states = []
        for number, (_, entry) in enumerate(image.TABLE):
            offset = self.bytes_at(table + ENTRY_SIZE * number, 2)
            states.append(pack(_with_offset(entry, entry if self.blind else offset)))
        return KernelText(
            ((image.TEXT, image.TEXT + image.TEXT_SIZE),),
            (0, 0),
            [image.TEXT + offset for offset, _ in image.TABLE],
            states,
        )


def _with_offset(entry: OrcEntry, offset: bytes | OrcEntry) -> OrcEntry:
    if isinstance(offset, OrcEntry):
        return entry
    return replace(entry, sp_offset=int.from_bytes(offset, "little", signed=True))


_PIDS = {1: TASK, SLEEPER_PID: SLEEPER, ZOMBIE_PID: ZOMBIE}
_CALLS = {
    image.TEXT + image.FUNCTIONS[function][0]: method
    for function, method in {
        "stack_trace_save_regs": "unwind",
        "find_ge_pid": "find_ge_pid",
        "pid_task": "pid_task",
        "pid_nr_ns": "pid_nr_ns",
        "stack_trace_save_tsk_reliable": "reliable",
    }.items()
}

__all__ = ["STATES", "SimulatedGuest", "at", "frame"]

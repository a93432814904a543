"""Guest: a kernel of tests.builders.image as a gdbstub serves it, with an unwinder.

Its vCPU goes round a fixed list of states; when the probe calls
stack_trace_save_regs() it unwinds by the table that is in its own memory. It can be
made blind (it unwinds by the pristine table) or short-sighted (it loses the last
frame), to see what the probe makes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.boot.gdb import frame
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.boot.stack_info import GuestStacks
from harness.boot.unwind import PT_REGS, StackInfo, unwind
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
    turn: int = 0
    stops_first_at: int = 0  # a breakpoint inside the unwinder, hit once

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
        self.load(TASK, bytes(0x100))
        self.word(TASK + image.TASK_STACK, STACK)
        hot = GS_BASE + image.PER_CPU["pcpu_hot"]
        self.word(hot, TASK)
        self.word(hot + 0x18, IRQ_STACK + 0x4000 - 8)
        self.word(GS_BASE + image.PER_CPU["cea_exception_stacks"], ESTACKS)
        self.word(GS_BASE + image.PER_CPU["cpu_tss_rw"] + 0x24, DOUBLE_FAULT_TOP)
        self.word(SP, image.TEXT + 0x508)
        self.word(SP + 8 + 16, image.TEXT + 0x605)
        state = image.DATA + image.THREAD_SIZE + 0x100
        self.word(state, 3 if self.booted else 0)

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
        if now.rip == image.TEXT + image.FUNCTIONS["stack_trace_save_regs"][0]:
            if self.stops_first_at in self.breakpoints:
                self.stops_first_at = 0
                return answer
            self._unwind(now)
        elif packet == "s":
            self._next()
        else:
            for _ in self.states:
                self._next()
                if Registers.parse(self.registers).rip in self.breakpoints:
                    return answer
            return b""  # it runs until it is broken into
        return answer

    def _next(self) -> None:
        self.turn += 1
        self.registers = self.states[self.turn % len(self.states)].pack()

    def _unwind(self, now: Registers) -> None:
        packed = struct.unpack("<21Q", self.bytes_at(now.rdi, 0xA8))
        regs = dict(zip(PT_REGS, packed, strict=True))
        stacks = GuestStacks((StackInfo(1, STACK, STACK + 0x4000),))
        trace = unwind(regs, self._text(), stacks, self._read_word)
        ips = trace.ips[:-1] if self.short_sighted else trace.ips
        for number, ip in enumerate(ips):
            self.word(now.rsi + 8 * number, ip)
        back = int.from_bytes(self.bytes_at(now.rsp, 8), "little")
        assert back in self.breakpoints
        self.registers = replace(now, rip=back, rsp=now.rsp + 8, rax=len(ips)).pack()

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


__all__ = ["STATES", "SimulatedGuest", "at", "frame"]

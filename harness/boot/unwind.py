"""Unwind: what the kernel's ORC unwinder does, done on the host by the static table.

A mirror of ``arch_stack_walk(regs)``, ``__unwind_start()`` and
``unwind_next_frame()`` of Linux v6.12 (arch/x86/kernel/unwind_orc.c). It is pure:
guest memory comes through a callback, the guest's stacks through :class:`Stacks`, so
that the mirror is tested on crafted tables and never touches a machine.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.kernel_text import KernelText
from harness.elf.orc import OrcEntry, OrcReg, OrcType

TRACE_LIMIT = 64
IRET_FRAME_OFFSET = 0x80
IRET_FRAME_SIZE = 0x28
PT_REGS_SIZE = 0xA8

# struct pt_regs (arch/x86/include/uapi/asm/ptrace.h), the same from v4.14 to v7.3.
PT_REGS = {
    "r15": 0x00,
    "r14": 0x08,
    "r13": 0x10,
    "r12": 0x18,
    "bp": 0x20,
    "bx": 0x28,
    "r11": 0x30,
    "r10": 0x38,
    "r9": 0x40,
    "r8": 0x48,
    "ax": 0x50,
    "cx": 0x58,
    "dx": 0x60,
    "si": 0x68,
    "di": 0x70,
    "orig_ax": 0x78,
    "ip": 0x80,
    "cs": 0x88,
    "flags": 0x90,
    "sp": 0x98,
    "ss": 0xA0,
}
_BASE_REGISTERS = {
    OrcReg.R10: "r10",
    OrcReg.R13: "r13",
    OrcReg.DI: "di",
    OrcReg.DX: "dx",
    OrcReg.AX: "ax",
}
# The fallbacks of orc_find(): a NULL function pointer, and code without a table.
NULL_ENTRY = OrcEntry(8, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.CALL, False)
FP_ENTRY = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)

ReadWord = Callable[[int], int]


class Ended(enum.StrEnum):
    """Why a trace has no further frame."""

    USER = "user-mode registers"
    END_OF_STACK = "end of stack"
    UNDEFINED = "undefined"
    NOT_TEXT = "return address is not kernel text"
    MODULE = "return address is in a module"
    NO_STACK = "not on a known stack"
    NO_REGISTER = "base register was not saved"
    ILLEGAL = "illegal entry"
    WRONG_DIRECTION = "stack going in the wrong direction"
    FULL = "trace is full"


class StackInfo(Struct, frozen=True):
    """One stack of the guest: ``type`` tells stacks apart, as enum stack_type does."""

    type: int
    begin: int
    end: int
    name: str = ""

    def holds(self, address: int, size: int) -> bool:
        """The kernel's on_stack()."""
        return self.begin <= address < self.end and address + size <= self.end


class Stacks(Protocol):
    """The guest's get_stack_info_noinstr() for its current task."""

    def find(self, address: int) -> StackInfo | None:
        """Return the stack that ``address`` is on, or None."""
        ...


class Frame(Struct, frozen=True):
    """One entry of a trace.

    Attributes:
        ip: what the kernel reports.
        looked_up: the address it looks up to go on from here (ip, or ip - 1).
        index: the table's entry found there; None for a fallback or no lookup.
        cfa: where that entry says the caller's stack begins; None if it ended here.
    """

    ip: int
    looked_up: int | None = None
    index: int | None = None
    cfa: int | None = None


class Trace(Struct, frozen=True):
    """A whole unwind: frames, innermost first, and why it ended.

    ``stacks`` are the types of the stacks that it went through; ``kernel_regs`` tells
    that it went through the registers of interrupted kernel code.
    """

    frames: tuple[Frame, ...]
    ended: Ended
    stacks: tuple[int, ...] = ()
    kernel_regs: bool = False

    @property
    def ips(self) -> tuple[int, ...]:
        """What stack_trace_save_regs() would store."""
        return tuple(frame.ip for frame in self.frames)

    @property
    def reliable(self) -> bool:
        """What arch_stack_walk_reliable() says: it came to where a stack may end."""
        return self.ended in (Ended.USER, Ended.END_OF_STACK)


class Inactive(Struct, frozen=True):
    """Where a task that does not run goes on: __unwind_start() without registers.

    Attributes:
        sp: behind struct inactive_task_frame.
        signal: it has never run, and ``ip`` is no return address.
    """

    ip: int
    sp: int
    bp: int
    signal: bool = False


def unwind(
    registers: Mapping[str, int],
    text: KernelText,
    stacks: Stacks,
    read_word: ReadWord,
    limit: int = TRACE_LIMIT,
) -> Trace:
    """Return what stack_trace_save_regs() stores for ``registers`` (pt_regs names).

    ``read_word`` is called only for addresses that are on a stack of ``stacks``, or
    in saved registers there.
    """
    walk = _Walk(text, stacks, read_word)
    trace = _trace(walk, lambda: walk.start(registers), limit)
    return trace if trace.frames else replace(trace, frames=(Frame(registers["ip"]),))


def unwind_inactive(
    task: Inactive,
    text: KernelText,
    stacks: Stacks,
    read_word: ReadWord,
    limit: int = TRACE_LIMIT,
) -> Trace:
    """Return what stack_trace_save_tsk_reliable() stores for a ``task`` that sleeps.

    ``stacks`` has its own stack only, as get_stack_info() has of another task.
    """
    walk = _Walk(text, stacks, read_word)
    return _trace(walk, lambda: walk.start_inactive(task), limit)


def _trace(walk: _Walk, start: Callable[[], None], limit: int) -> Trace:
    frames: list[Frame] = []
    ended = Ended.FULL
    try:
        start()
        for _ in range(limit):
            frame = Frame(walk.ip, walk.lookup_ip, walk.find(), None)
            frames.append(frame)
            frames[-1] = replace(frame, cfa=walk.next_frame())
            walk.check_return_address()
    except _End as end:
        ended = end.why
    return Trace(tuple(frames), ended, tuple(walk.visited), walk.kernel_regs)


class _End(Exception):
    def __init__(self, why: Ended) -> None:
        super().__init__(why)
        self.why = why


class _Walk(Struct):
    # struct unwind_state. ``regs`` and ``prev_regs`` fetch a field of pt_regs by name.
    text: KernelText
    stacks: Stacks
    read_word: ReadWord
    ip: int = 0
    sp: int = 0
    bp: int = 0
    signal: bool = True
    full_regs: bool = True
    regs: Callable[[str], int] | None = None
    prev_regs: Callable[[str], int] | None = None
    info: StackInfo | None = None
    visited: list[int] = field(default_factory=list)
    kernel_regs: bool = False

    def start(self, registers: Mapping[str, int]) -> None:
        # __unwind_start() with regs of kernel mode.
        self.ip, self.sp, self.bp = (registers[name] for name in ("ip", "sp", "bp"))
        self.regs = registers.__getitem__
        self.begin()

    def start_inactive(self, task: Inactive) -> None:
        # __unwind_start() of another task; the loop looks at its return address first.
        self.ip, self.sp, self.bp = task.ip, task.sp, task.bp
        self.signal, self.full_regs = task.signal, False
        self.begin()
        self.check_return_address()

    def begin(self) -> None:
        if not self.enter_stack(self.sp) and not self.enter_stack(
            _align(self.sp, 4096)
        ):
            raise _End(Ended.NO_STACK)

    @property
    def lookup_ip(self) -> int:
        return self.ip if self.signal else self.ip - 1

    def find(self) -> int | None:
        return self.text.find(self.lookup_ip)

    def orc_find(self) -> OrcEntry:
        if self.lookup_ip == 0:
            return NULL_ENTRY
        if (index := self.find()) is None:
            if self.text.in_module(self.lookup_ip):
                raise _End(Ended.MODULE)
            return FP_ENTRY
        return self.text.entry(index)

    def next_frame(self) -> int:
        # unwind_next_frame(); returns the CFA.
        if self.regs and self.regs("cs") & 3:
            raise _End(Ended.USER)
        previous, previous_sp = self.info, self.sp
        entry = self.orc_find()
        if entry.type == OrcType.UNDEFINED:
            raise _End(Ended.UNDEFINED)
        if entry.type == OrcType.END_OF_STACK:
            raise _End(Ended.END_OF_STACK)
        self.signal = entry.signal
        cfa = self.find_cfa(entry)
        self.find_ip(entry, cfa)
        self.find_bp(entry, cfa)
        self.check_direction(previous, previous_sp)
        return cfa

    def find_cfa(self, entry: OrcEntry) -> int:
        offset = entry.sp_offset
        match entry.sp_reg:
            case OrcReg.SP:
                return _wrap(self.sp + offset)
            case OrcReg.BP:
                return _wrap(self.bp + offset)
            case OrcReg.SP_INDIRECT:
                return _wrap(self.deref(self.sp) + offset)
            case OrcReg.BP_INDIRECT:
                return self.deref(_wrap(self.bp + offset))
            case base if base in _BASE_REGISTERS:
                value = self.get_reg(_BASE_REGISTERS[OrcReg(base)])
                if value is None:
                    raise _End(Ended.NO_REGISTER)
                return value
        raise _End(Ended.ILLEGAL)

    def find_ip(self, entry: OrcEntry, cfa: int) -> None:
        match entry.type:
            case OrcType.CALL:
                self.ip = self.deref(_wrap(cfa - 8))
                self.sp = cfa
                self.regs = self.prev_regs = None
            case OrcType.REGS:
                self.access(cfa, PT_REGS_SIZE)
                self.load_regs(cfa)
                self.prev_regs = None
                self.full_regs = True
            case OrcType.REGS_PARTIAL:
                self.access(cfa, IRET_FRAME_SIZE)
                if self.full_regs:
                    self.prev_regs = self.regs
                self.load_regs(_wrap(cfa - IRET_FRAME_OFFSET))
                self.full_regs = False
            case _:
                raise _End(Ended.ILLEGAL)

    def load_regs(self, address: int) -> None:
        read_word = self.read_word

        def fetch(name: str) -> int:
            return read_word(_wrap(address + PT_REGS[name]))

        self.ip, self.sp = fetch("ip"), fetch("sp")
        self.regs = fetch
        self.kernel_regs |= not fetch("cs") & 3

    def find_bp(self, entry: OrcEntry, cfa: int) -> None:
        match entry.bp_reg:
            case OrcReg.UNDEFINED:
                if (value := self.get_reg("bp")) is not None:
                    self.bp = value
            case OrcReg.PREV_SP:
                self.bp = self.deref(_wrap(cfa + entry.bp_offset))
            case OrcReg.BP:
                self.bp = self.deref(_wrap(self.bp + entry.bp_offset))
            case _:
                raise _End(Ended.ILLEGAL)

    def get_reg(self, name: str) -> int | None:
        if self.regs is None:
            return None
        if self.full_regs:
            return self.regs(name)
        return self.prev_regs(name) if self.prev_regs else None

    def check_direction(self, previous: StackInfo | None, previous_sp: int) -> None:
        # Only on one and the same stack must the stack pointer go up.
        info = self.info
        if (
            info is not None
            and previous is not None
            and info.type == previous.type
            and info.holds(self.sp, 8)
            and self.sp <= previous_sp
        ):
            raise _End(Ended.WRONG_DIRECTION)

    def check_return_address(self) -> None:
        # unwind_get_return_address(): the trace ends before what is not text.
        if self.text.holds(self.ip):
            return
        if self.text.in_module(self.ip):
            raise _End(Ended.MODULE)
        user = self.regs is not None and self.regs("cs") & 3
        raise _End(Ended.USER if user else Ended.NOT_TEXT)

    def deref(self, address: int) -> int:
        self.access(address, 8)
        return self.read_word(address)

    def access(self, address: int, size: int) -> None:
        # stack_access_ok(): on this stack, or on another not yet visited.
        if self.info is not None and self.info.holds(address, size):
            return
        info = self.enter_stack(address)
        if info is None or not info.holds(address, size):
            raise _End(Ended.NO_STACK)

    def enter_stack(self, address: int) -> StackInfo | None:
        # get_stack_info(): no stack is visited twice.
        self.info = self.stacks.find(address) if address else None
        if self.info is not None and self.info.type in self.visited:
            self.info = None
        if self.info is not None:
            self.visited.append(self.info.type)
        return self.info


def _wrap(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF


def _align(value: int, size: int) -> int:
    return (value + size - 1) & -size

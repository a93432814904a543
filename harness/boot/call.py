"""Call: make a stopped guest call functions of its own, from the state it stopped in.

They run on the stopped vCPU, and all registers are put back, so that the guest never
knows. Nothing is written below its stack pointer (an entry stack has no room there):
what is called, what it works on and its stack lie on this CPU's double-fault stack,
which nothing else uses.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from harness.boot import driver
from harness.boot.gdb import Gdb, Stop
from harness.boot.registers import Registers
from harness.boot.stack_info import KERNEL_HALF, PAGE_SIZE, CpuStacks
from harness.boot.unwind import PT_REGS, PT_REGS_SIZE
from harness.elf.program import Program
from harness.errors import FormatError, InfraError

CALL_S = 10.0
HEADROOM = 2560  # what is left of the stack for the functions that are called
_EFLAGS_TF, _EFLAGS_IF, _EFLAGS_DF = 1 << 8, 1 << 9, 1 << 10
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18
_NO_SYSCALL = -1


class UnwindCall(Struct, frozen=True):
    """How to call the guest's unwinder.

    Attributes:
        function: address of stack_trace_save_regs().
        driver: where the driver lies.
        stack_top: top of this CPU's double-fault stack.
        stack_size: how much there is of it.
        preempt_count: address of this CPU's preempt count; 0 if this kernel is
            never preempted.
    """

    function: int
    driver: int
    stack_top: int
    stack_size: int = PAGE_SIZE
    preempt_count: int = 0

    @property
    def end(self) -> int:
        """Where the driver's breakpoint is."""
        return self.driver + driver.END

    @property
    def room(self) -> int:
        """How many bytes calls and what they work on may take."""
        return self.stack_size - HEADROOM


def unwind_call(program: Program, cpu: CpuStacks) -> UnwindCall:
    """Find what is to be called in ``program``, on the CPU of ``cpu``.

    Raises:
        FormatError: this kernel has no such function, or no symbols.
    """
    function = program.symbols.find("stack_trace_save_regs")
    if function is None:
        raise FormatError(
            f"{program.name} has no stack_trace_save_regs() that could be called",
            hint="enable CONFIG_STACKTRACE, and keep the symbols of vmlinux",
        )
    top = cpu.double_fault_top
    sizes = [info.end - info.begin for info in cpu.fixed if info.end == top]
    return UnwindCall(
        function,
        driver.place(program),
        top,
        sizes[0] if sizes else PAGE_SIZE,
        _preempt_count(program, cpu.gs_base),
    )


def pt_regs(registers: Registers) -> dict[str, int]:
    """Return the struct pt_regs that a trap here would push, by field name.

    ``cs`` is the kernel's with privilege level 0, under Xen too: user_mode() asks
    for no more.
    """
    named = {
        name: getattr(registers, name if name.startswith("r") else f"r{name}")
        for name in PT_REGS
        if name not in ("orig_ax", "cs", "ss", "flags")
    }
    return named | {
        "orig_ax": _NO_SYSCALL & 0xFFFF_FFFF_FFFF_FFFF,
        "cs": _KERNEL_CS,
        "ss": _KERNEL_SS,
        "flags": registers.eflags,
    }


def packed(regs: dict[str, int]) -> bytes:
    """Return ``regs`` as the guest has them in memory."""
    data = struct.pack("<21Q", *(regs[name] for name in PT_REGS))
    assert len(data) == PT_REGS_SIZE
    return data


class Errands:
    """Calls that the guest is to make one after the other, and what they work on."""

    def __init__(self, call: UnwindCall) -> None:
        self._call = call
        self._data: list[bytes] = []
        self._records: list[bytes] = []
        self.size = 0

    def place(self, data: bytes) -> int:
        """Put ``data`` into the guest's memory for the time of the calls."""
        self._data.append(data + bytes(-len(data) % 8))
        self.size += len(self._data[-1])
        return self._call.stack_top - sum(map(len, self._data))

    def call(self, function: int, *arguments: int) -> int:
        """Call ``function`` with up to three ``arguments``; return the call's number."""
        first, second, third = (*arguments, 0, 0, 0)[:3]
        self._records.append(driver.RECORD.pack(first, second, third, function))
        self.size += driver.RECORD.size
        return len(self._records) - 1

    def poke(self, address: int, word: int) -> None:
        """Write a word to memory before what is called next."""
        self.call(self._call.driver + driver.POKE, address, word)

    def run(self, gdb: Gdb, registers: Registers) -> Done:
        """Make all calls on the stopped vCPU, whose ``registers`` are put back.

        A breakpoint that they run into is removed: it lies in what was called.

        Raises:
            InfraError: they did not come back.
        """
        image = b"".join((*self._records, *reversed(self._data)))
        base = self._call.stack_top - len(image)
        into = called(self._call, registers, base, len(self._records))
        with _not_preempted(gdb, self._call, registers):
            stop = gdb.call(into, [(base, image)], CALL_S)
            return Done(base, _returned(gdb, self._call, registers, stop, base))


class Done(Struct, frozen=True):
    """What errands came back with: the memory that they worked on, from ``base`` up."""

    base: int
    memory: bytes

    def result(self, number: int = 0) -> int:
        """Return what call ``number`` returned."""
        return self.words(self.base + number * driver.RECORD.size, 1)[0]

    def signed(self, number: int = 0) -> int:
        """Return that as a C int."""
        low = self.result(number) & 0xFFFF_FFFF
        return low - (1 << 32) if low >> 31 else low

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return ``count`` words of what was placed at ``address``."""
        return struct.unpack_from(f"<{count}Q", self.memory, address - self.base)


def _returned(
    gdb: Gdb, call: UnwindCall, registers: Registers, stop: Stop, base: int
) -> bytes:
    mine, size = frozenset({call.end}), call.stack_top - base
    if gdb.breakpoints == mine:
        after, memory = gdb.registers_and_memory(base, size, then=registers)
    else:
        after, memory = gdb.registers_and_memory(base, size)
        while stop.trapped and after.rip in gdb.breakpoints - mine:
            gdb.remove_breakpoint(after.rip)
            stop = gdb.go_on(CALL_S)
            after, memory = gdb.registers_and_memory(base, size)
        # %cr2 may be a later fault's by now, which nobody has read yet
        gdb.write_registers(registers.pack_without_control())
    if not stop.trapped or after.rip != call.end:
        raise InfraError(
            f"the guest's unwinder did not come back: called at {registers.rip:#x}, "
            f"stopped at {after.rip:#x} with signal {stop.signal}"
        )
    return memory


def called(call: UnwindCall, registers: Registers, base: int, count: int) -> Registers:
    """Return the registers that enter the driver: interrupts off, kernel GS.

    At ``base`` lie ``count`` records.
    """
    gs_base, k_gs_base = registers.gs_base, registers.k_gs_base
    if gs_base < KERNEL_HALF <= k_gs_base:  # entry code before its swapgs
        gs_base, k_gs_base = k_gs_base, gs_base
    return replace(
        registers,
        rip=call.driver,
        rsp=base & -16,
        rbx=base,
        rbp=count,
        eflags=registers.eflags & ~(_EFLAGS_TF | _EFLAGS_IF | _EFLAGS_DF),
        gs_base=gs_base,
        k_gs_base=k_gs_base,
    )


@contextlib.contextmanager
def _not_preempted(gdb: Gdb, call: UnwindCall, registers: Registers) -> Iterator[None]:
    # The unwinder ends with preempt_enable(), which may schedule: not with interrupts
    # off, but what Xen PV (whose kernel is not in ring 0) takes for that is no flag of
    # the vCPU. So the count is raised meanwhile.
    if not call.preempt_count or not registers.cs & 3:
        yield
        return
    before = gdb.read(call.preempt_count, 4)
    raised = int.from_bytes(before, "little") + 1
    gdb.write(call.preempt_count, raised.to_bytes(4, "little"))
    yield
    gdb.write(call.preempt_count, before)


def _preempt_count(program: Program, gs_base: int) -> int:
    if program.symbols.find("preempt_schedule") is None:
        return 0
    offset = program.symbols.find("__preempt_count")
    if (hot := program.symbols.find("pcpu_hot")) is not None:  # v6.2 to v6.14
        offset = hot + 8
    return 0 if offset is None else gs_base + offset & 0xFFFF_FFFF_FFFF_FFFF

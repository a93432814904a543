"""Call: make a stopped guest unwind itself from exactly the state it is stopped in.

A function of the guest's own (``stack_trace_save_regs()`` for that) is called on the
stopped vCPU and all registers are put back, so that the guest never knows. Nothing is written below its
stack pointer (an entry stack has no room there): arguments, result and return address
live on this CPU's double-fault stack, which nothing else uses.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from harness.boot.gdb import Gdb, Stop
from harness.boot.registers import Registers
from harness.boot.stack_info import KERNEL_HALF, CpuStacks
from harness.boot.unwind import PT_REGS, PT_REGS_SIZE, TRACE_LIMIT
from harness.elf.program import Program
from harness.errors import FormatError, InfraError

CALL_S = 10.0
_EFLAGS_TF, _EFLAGS_IF, _EFLAGS_DF = 1 << 8, 1 << 9, 1 << 10
_KERNEL_CS, _KERNEL_SS = 0x10, 0x18
_NO_SYSCALL = -1
_REGS, _STORE, _RETURN = 0x100, 0x300, 0x308  # below the top of the stack
_STORE_SIZE = 8 * TRACE_LIMIT


class UnwindCall(Struct, frozen=True):
    """How to call the guest's unwinder.

    Attributes:
        function: address of stack_trace_save_regs().
        return_address: text that never runs again, with a breakpoint on it.
        stack_top: top of this CPU's double-fault stack.
        preempt_count: address of this CPU's preempt count; 0 if this kernel is
            never preempted.
    """

    function: int
    return_address: int
    stack_top: int
    preempt_count: int = 0

    @property
    def store(self) -> int:
        """Where a trace is stored: TRACE_LIMIT words."""
        return self.stack_top - _STORE


def unwind_call(program: Program, cpu: CpuStacks) -> UnwindCall:
    """Find what is to be called in ``program``, on the CPU of ``cpu``.

    Raises:
        FormatError: this kernel has no such function, or no symbols.
    """
    function = program.symbols.find("stack_trace_save_regs")
    cold = program.symbols.find("startup_64")
    if function is None or cold is None:
        raise FormatError(
            f"{program.name} has no stack_trace_save_regs() that could be called",
            hint="enable CONFIG_STACKTRACE, and keep the symbols of vmlinux",
        )
    count = _preempt_count(program, cpu.gs_base)
    return UnwindCall(function, cold, cpu.double_fault_top, count)


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


def guest_trace(
    gdb: Gdb, call: UnwindCall, registers: Registers, regs: Mapping[str, int]
) -> tuple[int, ...]:
    """Return what the guest stores for ``regs``, innermost first.

    ``registers`` are those of the stopped vCPU and are set again afterwards. A
    breakpoint that the call itself runs into is removed: it lies in the unwinder.

    Raises:
        InfraError: the call did not come back.
    """
    packed = struct.pack("<21Q", *(regs[name] for name in PT_REGS))
    assert len(packed) == PT_REGS_SIZE
    place = call.stack_top - _REGS
    arguments = (place, call.store, TRACE_LIMIT, 0)
    done = invoke(
        gdb, call, registers, call.function, arguments, writes=[(place, packed)]
    )
    return done.trace(done.rax & 0xFFFF_FFFF)


class Returned(Struct, frozen=True):
    """What a function of the guest came back with.

    Attributes:
        rax: its result.
        store: what lay at :attr:`UnwindCall.store` then.
    """

    rax: int
    store: bytes

    @property
    def signed(self) -> int:
        """The result as a C int."""
        low = self.rax & 0xFFFF_FFFF
        return low - (1 << 32) if low >> 31 else low

    def trace(self, count: int) -> tuple[int, ...]:
        """Return the first ``count`` words of the store."""
        return struct.unpack_from(f"<{min(count, TRACE_LIMIT)}Q", self.store)


def invoke(
    gdb: Gdb,
    call: UnwindCall,
    registers: Registers,
    function: int,
    arguments: Sequence[int],
    *,
    writes: Sequence[tuple[int, bytes]] = (),
) -> Returned:
    """Call ``function`` on the stopped vCPU, whose ``registers`` are put back.

    Up to four ``arguments`` go into registers; ``writes`` are made before.

    Raises:
        InfraError: the call did not come back.
    """
    back = (call.stack_top - _RETURN, call.return_address.to_bytes(8, "little"))
    into = called(call, registers, function, arguments)
    with _not_preempted(gdb, call, registers):
        stop = gdb.call(into, [*writes, back], CALL_S)
        after, saved = _returned(gdb, call, registers, stop)
    return Returned(after.rax, saved)


def _returned(
    gdb: Gdb, call: UnwindCall, registers: Registers, stop: Stop
) -> tuple[Registers, bytes]:
    mine = frozenset({call.return_address})
    if gdb.breakpoints == mine:
        after, saved = gdb.registers_and_memory(call.store, _STORE_SIZE, then=registers)
    else:
        after, saved = gdb.registers_and_memory(call.store, _STORE_SIZE)
        while stop.trapped and after.rip in gdb.breakpoints - mine:
            gdb.remove_breakpoint(after.rip)
            stop = gdb.run_for(CALL_S)
            after, saved = gdb.registers_and_memory(call.store, _STORE_SIZE)
        gdb.write_registers(registers)
    if not stop.trapped or after.rip != call.return_address:
        raise InfraError(
            f"the guest's unwinder did not come back: called at {registers.rip:#x}, "
            f"stopped at {after.rip:#x} with signal {stop.signal}"
        )
    return after, saved


def called(
    call: UnwindCall, registers: Registers, function: int, arguments: Sequence[int]
) -> Registers:
    """Return the registers that enter ``function``: interrupts off, kernel GS."""
    gs_base, k_gs_base = registers.gs_base, registers.k_gs_base
    if gs_base < KERNEL_HALF <= k_gs_base:  # entry code before its swapgs
        gs_base, k_gs_base = k_gs_base, gs_base
    rdi, rsi, rdx, rcx = (*arguments, 0, 0, 0, 0)[:4]
    return replace(
        registers,
        rip=function,
        rsp=call.stack_top - _RETURN,
        rdi=rdi,
        rsi=rsi,
        rdx=rdx,
        rcx=rcx,
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

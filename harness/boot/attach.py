"""Attach: from a gdbstub to a running kernel whose unwinder can be asked."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.boot.call import unwind_call
from harness.boot.gdb import Gdb
from harness.boot.kaslr import moved_by, required
from harness.boot.kernel_text import KernelText
from harness.boot.point import Guest
from harness.boot.registers import Registers
from harness.boot.sample import usable
from harness.boot.stack_info import cpu_stacks, per_cpu_base, stack_layout
from harness.elf.program import Program
from harness.errors import InfraError

POLL_S = 0.05
RUNNING = 2  # enum system_states: init memory is being freed, or later
_NEVER = "this kernel was not seen to run within {:g} s"


@dataclass(frozen=True, slots=True)
class Up:
    """A kernel that runs: its program and text where they are, and the stopped vCPU."""

    program: Program
    text: KernelText
    registers: Registers


def wait_until_up(
    gdb: Gdb, linked: Program, text: KernelText, deadline: float, deadline_s: float
) -> Up:
    """Let the guest run until its kernel is done with booting; it stops in its text.

    Raises:
        InfraError: that did not happen before ``deadline`` (time.monotonic()).
    """
    state = required(linked, "system_state")
    seen = False
    while time.monotonic() < deadline:
        registers = gdb.registers()
        for begin, end in text.ranges:
            by = moved_by(gdb, linked, begin, end, registers.rip)
            if by is None:
                continue
            seen = True
            if int.from_bytes(gdb.read(state + by, 4), "little") < RUNNING:
                continue
            up = Up(linked.slid(by), text.slid(by), registers)
            if usable(up.program, up.text, registers):
                return up
        gdb.run_for(POLL_S * (0.1 if seen else 1))
    message = "the kernel did not finish booting within {:g} s" if seen else _NEVER
    raise InfraError(
        message.format(deadline_s), hint="is this the vmlinux of what was booted?"
    )


def attach(gdb: Gdb, program: Program, text: KernelText, registers: Registers) -> Guest:
    """Find the stopped guest's stacks and prepare the call of its unwinder.

    The call's breakpoint is inserted; whoever attaches removes it.

    Raises:
        FormatError: ``program`` lacks what that takes.
        InfraError: the vCPU has no per-CPU area yet.
    """
    if (base := per_cpu_base(registers)) is None:
        raise InfraError(
            f"the guest has no per-CPU area: gs_base {registers.gs_base:#x}"
        )
    cpu = cpu_stacks(stack_layout(program), base, gdb.read)
    call = unwind_call(program, cpu)
    gdb.insert_breakpoint(call.return_address)
    return Guest(gdb, program, text, cpu, call)

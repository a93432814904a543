"""Attach: from a gdbstub to a running kernel whose unwinder can be asked."""

from __future__ import annotations

import time

from harness.boot.call import unwind_call
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import KernelText
from harness.boot.point import Guest
from harness.boot.registers import Registers
from harness.boot.sample import usable
from harness.boot.stack_info import cpu_stacks, per_cpu_base, stack_layout
from harness.elf.program import Program
from harness.errors import FormatError, InfraError

POLL_S = 0.05
BANNER_BYTES = 128  # release, compiler and build number
RUNNING = 2  # enum system_states: init memory is being freed, or later
_NEVER = "no kernel was seen at its linked address within {:g} s"


def wait_until_up(
    gdb: Gdb, program: Program, text: KernelText, deadline: float, deadline_s: float
) -> Registers:
    """Let the guest run until its kernel is done with booting; it stops in its text.

    Raises:
        InfraError: that did not happen before ``deadline`` (time.monotonic()).
    """
    banner = _required(program, "linux_banner")
    state = _required(program, "system_state")
    expected = program.read(banner, BANNER_BYTES).tobytes()
    seen = False
    while time.monotonic() < deadline:
        registers = gdb.registers()
        if (
            text.holds(registers.rip)
            and gdb.read_or_none(banner, BANNER_BYTES) == expected
        ):
            seen = True
            running = int.from_bytes(gdb.read(state, 4), "little") >= RUNNING
            if running and usable(program, text, registers):
                return registers
        gdb.run_for(POLL_S * (0.1 if seen else 1))
    message = "the kernel did not finish booting within {:g} s" if seen else _NEVER
    raise InfraError(
        message.format(deadline_s),
        hint="is nokaslr on its command line, and is this the vmlinux that runs?",
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


def _required(program: Program, name: str) -> int:
    if (address := program.symbols.find(name)) is None:
        raise FormatError(
            f"{program.name} has no symbol {name}",
            hint="the probe needs a vmlinux with its symbols",
        )
    return address

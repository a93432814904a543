"""Attach: from a gdbstub to a running kernel whose unwinder can be asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot import driver
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

RUNNING = 2  # enum system_states: init memory is being freed, or later
_NEVER = "this kernel was not seen to run within {:g} s"


class Up(Struct, frozen=True):
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
        for number, registers in enumerate(gdb.vcpus()):
            gdb.select(number)
            for begin, end in text.ranges:
                by = moved_by(gdb, linked, begin, end, registers.rip)
                if by is None:
                    continue
                seen = True
                data = gdb.read_or_none(state + by, 4)  # a user's tables may lack it
                if data is None or int.from_bytes(data, "little") < RUNNING:
                    continue
                up = Up(linked.slid(by), text.slid(by), registers)
                if usable(up.program, up.text, registers):
                    return up
        gdb.run_for(gdb.poll_s * (0.25 if seen else 2.5))
    message = "the kernel did not finish booting within {:g} s" if seen else _NEVER
    raise InfraError(
        message.format(deadline_s), hint="is this the vmlinux of what was booted?"
    )


@contextlib.contextmanager
def attached(
    gdb: Gdb, program: Program, text: KernelText, registers: Registers
) -> Iterator[Guest]:
    """Find the stopped guest's stacks, and keep the driver in it that makes calls.

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
    with driver.installed(gdb, call.driver):
        yield Guest(gdb, program, text, cpu, call)


class Cpus(Struct):
    """A guest as each of its CPUs has it: stacks and scratch memory are a CPU's own.

    ``first`` is the one that was attached to; others are found when they stop.
    """

    first: Guest
    others: dict[int, Guest] = field(default_factory=dict)

    def of(self, registers: Registers) -> Guest:
        """Return the guest on the CPU that has ``registers``."""
        first = self.first
        base = per_cpu_base(registers)
        if base is None or base == first.cpu.gs_base:
            return first
        if base not in self.others:
            cpu = cpu_stacks(first.cpu.layout, base, first.gdb.read)
            call = unwind_call(first.program, cpu)
            self.others[base] = replace(first, cpu=cpu, call=call)
        return self.others[base]

    def __len__(self) -> int:
        return 1 + len(self.others)

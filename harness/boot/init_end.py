"""Init_end: where a kernel is done with booting and its init memory is still there.

That is where it calls free_initmem() (kernel_init() of init/main.c): its text is
patched, nothing of it is freed, no program runs yet.
"""

from __future__ import annotations

import time

from harness.boot.gdb import Gdb
from harness.boot.kaslr import required
from harness.boot.wire import GdbTimeout
from harness.elf.program import Program
from harness.errors import InfraError, UserError

SYMBOL = "free_initmem"
SCHEDULING, FREEING = 1, 2  # enum system_states


def address(program: Program) -> int:
    """Return where that is.

    Raises:
        UserError: ``program`` does not tell.
    """
    found = program.symbols.find(SYMBOL)
    if found is None:
        raise UserError(f"{program.name} has no symbol {SYMBOL}, expected a vmlinux")
    return found


def run_there(gdb: Gdb, program: Program, timeout_s: float) -> None:
    """Let the guest run from reset to there; it is left stopped, without breakpoints.

    A stub whose breakpoints are bytes of the text (``gdb.writes_text``) must have seen
    the kernel already.

    Raises:
        InfraError: it did not get there within ``timeout_s``.
    """
    end = address(program)
    deadline = time.monotonic() + timeout_s
    if gdb.writes_text:
        _run_to_initcalls(gdb, program, deadline)
    gdb.insert_breakpoint(end)
    gdb.cont()
    gdb.wait(max(deadline - time.monotonic(), 0.0))
    gdb.remove_breakpoint(end)


def not_seen() -> InfraError:
    """Return the error of those who wanted a guest there that did not come in time."""
    return InfraError(
        "the guest was not seen to reach the end of its init",
        hint="a busy machine may be no more than slow: give it longer, by --timeout",
    )


def _run_to_initcalls(gdb: Gdb, program: Program, deadline: float) -> None:
    """Let it run until alternative_instructions() is done, which writes text for good.

    That is before rest_init() has set SYSTEM_SCHEDULING; initcalls come later.
    """
    state = required(program, "system_state")
    while (now := _word(gdb, state)) < SCHEDULING:
        if time.monotonic() > deadline:
            raise GdbTimeout("the kernel did not come to its initcalls in time")
        gdb.run_for(gdb.poll_s)
    if now >= FREEING:
        raise InfraError(f"the kernel ran past {SYMBOL}() before it could be stopped")


def _word(gdb: Gdb, at: int) -> int:
    """Return the word ``at``, as whichever vCPU sees the kernel; 0 if none does yet."""
    for number in range(len(gdb.vcpus())):
        gdb.select(number)
        if (data := gdb.read_or_none(at, 4)) is not None:
            return int.from_bytes(data, "little")
    return 0

"""Init_end: where a kernel is done with booting and its init memory is still there.

That is where it calls free_initmem() (kernel_init() of init/main.c): its text is
patched, nothing of it is freed, no program runs yet.
"""

from __future__ import annotations

from harness.boot.gdb import Gdb
from harness.elf.program import Program
from harness.errors import UserError

SYMBOL = "free_initmem"


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

    Raises:
        InfraError: it did not get there within ``timeout_s``.
    """
    end = address(program)
    gdb.insert_breakpoint(end)
    gdb.cont()
    gdb.wait(timeout_s)
    gdb.remove_breakpoint(end)

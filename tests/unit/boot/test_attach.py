"""A guest as each of its CPUs has it."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from harness.boot.attach import Cpus, attached
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import kernel_text
from tests.builders import guest as simulated
from tests.builders import image
from tests.builders.guest import GS_BASE, SimulatedGuest
from tests.builders.rspserver import serving

OTHER_GS, OTHER_TOP = GS_BASE + 0x100000, simulated.ESTACKS + 0x5000


def test_every_cpu_has_stacks_of_its_own(tmp_path: Path) -> None:
    """They are found once; a CPU in a user's code is known by its other base."""
    program, table = image.image()
    served = SimulatedGuest()
    size = max(image.PER_CPU.values()) + 0x100
    served.load(OTHER_GS, served.bytes_at(GS_BASE, size))
    served.word(OTHER_GS + image.PER_CPU["cpu_tss_rw"] + 0x24, OTHER_TOP)
    path = tmp_path / "gdb.sock"
    with serving(served, path), Gdb.connect(path, timeout_s=5) as gdb:
        first = gdb.registers()
        text = kernel_text(program, table)
        with attached(gdb, program, text, first) as guest:
            cpus = Cpus(guest)
            assert cpus.of(first) is cpus.first
            other = cpus.of(replace(first, gs_base=OTHER_GS))
            user = replace(first, rip=0x401000, gs_base=0, k_gs_base=OTHER_GS)
            assert cpus.of(user) is other
    assert cpus.first.call.stack_top == simulated.DOUBLE_FAULT_TOP
    assert other.call.stack_top == OTHER_TOP
    assert other.call.driver == cpus.first.call.driver
    assert len(cpus) == 2

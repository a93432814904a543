"""The third opinion on real kernels: drgn unwinds the tasks of a dump as we do."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import boot
from harness.boot.debugger import debugger
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.readback.dump import DumpMemory
from harness.boot.third import Third, third_opinion
from harness.elf.core import parse_core
from harness.elf.file import map_file
from harness.elf.load import load
from harness.elf.orc import ENTRY_SIZE, parse_orc
from harness.elf.program import Program
from harness.pytest_plugin import Kernel
from harness.variant import Platform

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(
        importlib.util.find_spec("drgn") is None, reason="SKIP: drgn is not installed"
    ),
]

HELD = MachineConfig(hold_s=120, debugged=True)
HELD_WITHIN_S, SETTLE_S = 60.0, 0.5
SWITCHES = "__schedule"  # every task that sleeps has been switched away in it


@pytest.fixture
def dumps(
    kernel: Kernel, kernel_toolbox: Toolbox, tmp_path: Path
) -> Iterator[list[Path]]:
    """Dumps of one stop while the workload runs: by page tables, and of physical memory."""
    build = kernel.build
    if build.bzimage is None or not build.kernels:
        pytest.skip(f"SKIP: {build.root} has no bzImage and vmlinux to boot")
    if kernel.platform is Platform.KVM:
        pytest.skip("SKIP: a dump would be of the nested guest's host")
    ready = boot.Kernel(build.bzimage, build.kernels[0], build.modules)
    made: list[Path] = []
    with boot.session(kernel_toolbox, ready, kernel.platform, HELD) as session:
        session.start()
        with debugger(session.machine) as gdb:
            machine, ends = session.machine, time.monotonic() + HELD_WITHIN_S
            while "hold" not in machine.evidence().marks:
                assert time.monotonic() < ends
                gdb.run_for(SETTLE_S)
            gdb.run_for(SETTLE_S)
            for name, paging in (("paging", True), ("physical", False)):
                if kernel.platform is Platform.XEN and not paging:
                    continue  # a domain's memory is scattered
                inside = f"{machine.inside}/{name}"
                machine.qmp.command(
                    "dump-guest-memory", paging=paging, protocol=f"file:{inside}"
                )
                made.append(tmp_path / name)
                made[-1].write_bytes(machine.read(name))
    yield made
    for path in made:  # a quarter of a gigabyte each
        path.unlink()


def told(program: Program, core: Path) -> Third:
    """What drgn says of ``core``."""
    memory = DumpMemory(parse_core(map_file(core), core.name), program)
    return third_opinion(program, core, memory)


def spoilt(program: Program) -> Program:
    """Return the image with every entry of SWITCHES eight bytes too large."""
    table, section = parse_orc(program), program.section(".orc_unwind")
    row = program.symbols.find_index(SWITCHES)
    assert table is not None
    assert section is not None
    assert row is not None
    first = int(program.symbols.address[row])
    inside = (table.ip >= first) & (table.ip < first + int(program.symbols.size[row]))
    data = section.data.copy()
    for index in inside.nonzero()[0].tolist():
        data[ENTRY_SIZE * index] += 8
    changed = replace(section, data=data)
    sections = tuple(changed if each is section else each for each in program.sections)
    return replace(program, sections=sections)


def test_drgn_sees_the_same_frames(kernel: Kernel, dumps: list[Path]) -> None:
    """Of every task that sleeps, in either kind of dump; with a wrong table neither."""
    program = load(kernel.build.kernels[0])
    for core in dumps:
        result = told(program, core)
        assert (result.reason, result.notes) == ("", ())
        assert result.counts["agree"] == result.counts["tasks_asked"] > 20
        assert result.counts["frames"] > 100
        assert result.counts["tasks_running"] >= 1
        assert result.counts["control_reported"] == 1
    wrong = told(spoilt(program), dumps[0])
    assert wrong.counts["unreliable"] + wrong.counts["differ"] > 20
    assert wrong.notes

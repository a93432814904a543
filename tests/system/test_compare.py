"""The comparison on a real kernel: it must see what is wrong, and say what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from harness.boot import boot
from harness.boot.compare import CompareResult, probe
from harness.boot.debugger import debugger
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig, MissingMachine
from harness.boot.needs import Needs
from harness.boot.traces import check_traces
from harness.elf.load import load
from harness.elf.orc import ENTRY_SIZE, OrcType, parse_orc
from harness.elf.program import Program
from harness.pytest_plugin import Kernel
from harness.stages.again import again
from harness.variant import Platform

pytestmark = pytest.mark.boot

FEW = Needs(points=200, entry_context=0, inside_replacement=0)
HELD = MachineConfig(hold_s=120, debugged=True)
WRONG = "do_syscall_64"  # every system call goes through it


def bootable(kernel: Kernel) -> boot.Kernel:
    """Return what a boot takes of ``kernel``."""
    build = kernel.build
    if build.bzimage is None or not build.kernels:
        pytest.skip(f"SKIP: {build.root} has no bzImage and vmlinux to boot")
    return boot.Kernel(build.bzimage, build.kernels[0], build.modules)


@contextmanager
def running(
    toolbox: Toolbox, kernel: Kernel, config: MachineConfig = HELD
) -> Iterator[tuple[Machine, Gdb]]:
    """Yield the machine that runs ``kernel`` on its platform, and its stub."""
    with boot.session(toolbox, bootable(kernel), kernel.platform, config) as session:
        session.start()
        with debugger(session.machine) as gdb:
            yield session.machine, gdb


def run(
    gdb: Gdb, program: Program, progress: Callable[..., None] | None = None
) -> CompareResult:
    """Probe a little."""

    def quiet(what: str, done: int = 0, total: int | None = None) -> None:
        if progress is not None:
            progress(what, done, total)

    deadline_s = 300 if gdb.writes_text else 120  # through a nested host
    return probe(gdb, program, deadline_s=deadline_s, needs=FEW, progress=quiet)


def probed(
    toolbox: Toolbox, kernel: Kernel, program: Program, config: MachineConfig = HELD
) -> CompareResult:
    """Boot and probe a little; a nested guest that was lost is tried again, as ever."""

    def once() -> CompareResult:
        with running(toolbox, kernel, config) as (_, gdb):
            return run(gdb, program)

    result, _ = again(kernel.platform, once, lambda result: result.reason)
    assert result.reason == ""
    return result


def spoilt(program: Program) -> Program:
    """Return the image with every frame of WRONG eight bytes too large."""
    table = parse_orc(program)
    section = program.section(".orc_unwind")
    row = program.symbols.find_index(WRONG)
    assert table is not None
    assert section is not None
    assert row is not None
    first = int(program.symbols.address[row])
    inside = (table.ip >= first) & (table.ip < first + int(program.symbols.size[row]))
    data = section.data.copy()
    for index in (inside & (table.type == OrcType.CALL)).nonzero()[0].tolist():
        data[ENTRY_SIZE * index] += 8
    changed = replace(section, data=data)
    sections = tuple(changed if each is section else each for each in program.sections)
    return replace(program, sections=sections)


def test_wrong_static_table_is_found(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """A table that differs from the running one is found twice: whole, and in use."""
    program = load(bootable(kernel).vmlinux)
    result = probed(kernel_toolbox, kernel, spoilt(program))
    differs = [f for f in result.findings if f.rule == "runtime/unwind-differs"]
    assert {f.location.symbol for f in differs} == {WRONG}
    assert sum(f.occurrences for f in differs) == result.counts["differ"] > 0
    assert all(len(f.window) <= 25 for f in differs)
    assert max(len(line) for f in differs for line in f.window) <= 100
    (table,) = [f for f in result.findings if f.rule == "runtime/table-differs"]
    assert table.location.symbol == WRONG
    assert result.counts["control_reported"] == 1


def test_a_kernel_that_moves_itself(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """With KASLR all agrees as well, wherever the kernel has put itself."""
    if kernel.platform is Platform.XEN:
        pytest.skip("SKIP: a PV guest of Xen is where the hypervisor loads it")
    moves = replace(HELD, kaslr=True)
    result = probed(kernel_toolbox, kernel, load(bootable(kernel).vmlinux), moves)
    assert result.findings == ()
    assert result.counts["agree"] == result.counts["points"] >= FEW.points
    assert result.counts["tasks_asked"] > 20


def test_two_cpus(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """Wherever either of them is stopped; while one makes our calls the other is held."""
    if kernel.platform is not Platform.NATIVE:
        pytest.skip("SKIP: of our machines only the native one has two CPUs to step")
    both = replace(HELD, smp=2)
    result = probed(kernel_toolbox, kernel, load(bootable(kernel).vmlinux), both)
    assert result.findings == ()
    assert result.counts["vcpus"] == 2
    assert result.counts["agree"] == result.counts["points"] >= FEW.points
    assert result.counts["control_reported"] == result.counts["control_clean"] == 1
    assert result.counts["task_stops"] == FEW.task_stops
    assert result.counts["tasks_asked"] > 20


def test_guest_that_is_killed_is_no_verdict(
    kernel: Kernel, kernel_toolbox: Toolbox
) -> None:
    """A machine that dies under the probe leaves what was seen, and the reason."""
    program = load(bootable(kernel).vmlinux)
    with running(kernel_toolbox, kernel) as (machine, gdb):

        def kill(what: str, done: int, total: int | None) -> None:
            if done:
                machine.qmp.quit()

        result = run(gdb, program, kill)
    assert result.reason.startswith("the guest ended while it was probed")
    assert 0 < result.counts["points"] < FEW.points
    assert result.findings == ()


def test_traces_of_its_own(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """What the kernel prints of its stacks is what a right table gives."""
    ready = bootable(kernel)
    try:
        result = boot.boot(kernel_toolbox, ready, kernel.platform)
    except MissingMachine as exc:
        pytest.skip(f"MISS: {exc}")
    checked = check_traces(result.evidence.texts, load(ready.vmlinux))
    assert checked.findings == ()
    assert checked.reason == ""
    assert checked.counts["proc_traces"] > 20
    assert checked.counts["console_traces"] > 20
    assert checked.counts["calls_direct"] > 100

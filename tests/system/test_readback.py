"""The text of a real kernel: every byte is predicted, and what is wrong is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.boot import boot
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig, MissingMachine
from harness.boot.readback.dump import DumpMemory
from harness.boot.readback.memory import memory_of
from harness.boot.readback.taken import Taken, take
from harness.boot.readback.verdict import Verdict, judge
from harness.elf.alternative import parse_alternatives
from harness.elf.core import parse_core
from harness.elf.feature import parse_cpufeatures
from harness.elf.file import map_file
from harness.elf.program import Program
from harness.pytest_plugin import Kernel
from harness.text.patch.capability import find_capability
from harness.variant import Platform

pytestmark = pytest.mark.boot

SMAP = 9 * 32 + 20
LINKED = 0xFFFFFFFF81000000


Three = tuple[Taken, ...]  # of a nested guest there is no dump
DEBUGGED = MachineConfig(debugged=True)


@pytest.fixture(scope="module")
def read_before() -> dict[Path, Three]:
    """What each kernel has been read as: once is enough."""
    return {}


@pytest.fixture
def taken(
    kernel: Kernel,
    kernel_toolbox: Toolbox,
    tmp_path: Path,
    read_before: dict[Path, Three],
) -> Three:
    """The kernel in memory: as it is, with a wrong site, and in a dump."""
    if found := read_before.get(kernel.build.root):
        return found
    three = read(kernel, kernel_toolbox, tmp_path / "core")
    return read_before.setdefault(kernel.build.root, three)


def read(kernel: Kernel, toolbox: Toolbox, core: Path) -> Three:
    """Boot ``kernel`` and read it three times."""
    build = kernel.build
    if build.bzimage is None or not build.kernels:
        pytest.skip(f"SKIP: {build.root} has no bzImage and vmlinux to boot")
    seen: list[Taken] = []

    def look(machine: Machine, gdb: Gdb, program: Program) -> None:
        memory = memory_of(machine, gdb)
        seen.append(take(program, memory, init=True))
        at = site_of(program)
        gdb.write(at, b"\xf4")
        seen.append(take(program, memory, init=True))
        gdb.write(at, seen[0].image.read(at, 1).tobytes())
        if machine.plan.outer_nonce:
            return  # a dump would be of its host
        name = f"{machine.inside}/core"
        machine.qmp.command("dump-guest-memory", paging=True, protocol=f"file:{name}")
        core.write_bytes(machine.read("core"))
        dump = DumpMemory(parse_core(map_file(core), "core"), program)
        seen.append(take(program, dump, init=True))

    ready = boot.Kernel(build.bzimage, build.kernels[0], build.modules)
    try:
        with boot.session(toolbox, ready, kernel.platform, DEBUGGED) as session:
            session.start(look)
    except MissingMachine as exc:
        pytest.skip(f"MISS: {exc}")
    return tuple(seen)


def test_a_kernel_that_chose_its_address_is_predicted_there(
    kernel: Kernel, kernel_toolbox: Toolbox
) -> None:
    """With KASLR each address in its text is another; PV guests of Xen stay."""
    if kernel.platform is Platform.XEN:
        pytest.skip("SKIP: a PV guest of Xen is where the hypervisor loads it")
    build = kernel.build
    assert build.bzimage is not None
    seen: list[Taken] = []

    def look(machine: Machine, gdb: Gdb, program: Program) -> None:
        seen.append(take(program, memory_of(machine, gdb), init=True))

    ready = boot.Kernel(build.bzimage, build.kernels[0], build.modules)
    config = replace(DEBUGGED, kaslr=True)
    with boot.session(kernel_toolbox, ready, kernel.platform, config) as session:
        session.start(look)
    verdict = judged(kernel, seen[0])
    assert seen[0].linked.symbols.find("_text") != LINKED
    assert verdict.findings == ()
    assert verdict.counts["text_control"] == 1


def site_of(program: Program) -> int:
    """Where an alternative site begins that is text for good."""
    alternatives = parse_alternatives(program)
    first, last = program.symbols.find("_stext"), program.symbols.find("_etext")
    assert alternatives is not None
    assert first is not None
    assert last is not None
    sites = np.sort(alternatives.site_address)
    inside = (sites >= np.uint64(first)) & (sites < np.uint64(last))
    return int(sites[inside][0])


def judged(kernel: Kernel, taken: Taken) -> Verdict:
    """The verdict on what was read of ``kernel``."""
    header = kernel.build.cpufeatures
    assert header is not None
    names = parse_cpufeatures(Path(header).read_text())
    return judge(taken, names, kernel.platform)


def test_every_byte_is_predicted(kernel: Kernel, taken: Three) -> None:
    """Nothing is left unexplained, and the control's byte was seen."""
    verdict = judged(kernel, taken[0])
    assert verdict.findings == ()
    assert verdict.reason == ""
    assert verdict.counts["text_bytes"] > 2_000_000
    assert verdict.counts["text_differing"] > 10_000
    explained = verdict.difference.explained
    assert sum(explained.values()) == verdict.counts["text_differing"]


def test_a_wrong_byte_in_a_site_is_found(kernel: Kernel, taken: Three) -> None:
    """That it lies where the kernel patches is no excuse."""
    program = taken[1].linked
    (finding,) = judged(kernel, taken[1]).findings
    assert finding.location.address == site_of(program)
    assert finding.cause.startswith("alternative, ")


def test_a_machine_with_another_feature_has_another_text(
    kernel: Kernel, taken: Three
) -> None:
    """The model hangs on what the machine says: one bit is a hundred findings."""
    image = taken[0].image
    alternatives = parse_alternatives(taken[0].linked)
    assert alternatives is not None
    byte = find_capability(taken[0].linked, alternatives) + SMAP // 8
    sections = []
    for section in image.sections:
        data = section.data.copy()
        if section.address <= byte < section.end:
            data[byte - section.address] ^= 1 << SMAP % 8
        sections.append(replace(section, data=data))
    lying = replace(taken[0], image=replace(image, sections=tuple(sections)))
    assert len(judged(kernel, lying).findings) > 100


def test_a_dump_has_the_same_text(kernel: Kernel, taken: Three) -> None:
    """What is read of a dump is what is read of the guest."""
    if len(taken) < 3:
        pytest.skip("SKIP: no dump is made of a nested guest")
    guest, dump = judged(kernel, taken[0]), judged(kernel, taken[2])
    assert dump.counts == guest.counts
    assert dump.findings == ()

"""The shadow stack on a real kernel: what it decodes, and what it must see."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.shadow.judge import RULES
from harness.boot.shadow.shadow import shadow
from harness.elf.load import load
from harness.elf.orc import OrcType, parse_orc
from harness.elf.program import Program
from harness.pytest_plugin import Kernel
from harness.text.decode import decode_program
from harness.text.effect import Form, effects_of
from harness.text.insn import InsnKind, Insns
from harness.variant import Platform
from tests.system.test_compare import WRONG, bootable, spoilt
from tests.unit.boot.shadow.machine import COMPILER, library

# InsnKind -> enum flow of plugin/insn.h; what is not here is PLAIN.
FLOWS = {
    InsnKind.JMP: {1},
    InsnKind.JCC: {1},
    InsnKind.JMP_INDIRECT: {2},
    InsnKind.CALL: {3},
    InsnKind.CALL_INDIRECT: {4},
    InsnKind.RET: {5},
    InsnKind.END: {6, 7},  # iret; sysret and sysexit
}
# What the effect of an instruction on %rsp is, of those that write it or %rbp.
PUSHES, POPS = -8, 8
KEEPS = (Form.MOV_BP_SP, Form.LOAD_BP, Form.SET_BP, Form.STORE_BP, Form.NONE)
BRANCHES = (InsnKind.CALL, InsnKind.CALL_INDIRECT, InsnKind.RET, InsnKind.END)
SYSCALL = b"\x0f\x05"


def sp_deltas(insns: Insns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return what each instruction adds to %rsp, and where that is a constant."""
    true = np.zeros(len(insns), np.int64)
    fixed = ~insns.of_kind(*BRANCHES)
    effects = effects_of(insns)
    form = effects.form
    constant = np.isin(form, (Form.MOVE, Form.PUSH_BP, Form.POP_BP, *KEEPS))
    moved = np.where(form == Form.MOVE, effects.delta, 0)
    moved[form == Form.PUSH_BP], moved[form == Form.POP_BP] = PUSHES, POPS
    true[effects.row], fixed[effects.row] = moved, constant
    return true, fixed


@pytest.mark.static
@pytest.mark.skipif(not COMPILER, reason="no C compiler on this host")
def test_the_plugin_decodes_as_the_verifier_does(kernel: Kernel) -> None:
    """Every instruction of the kernel: where control goes, what is added to %rsp."""
    if not kernel.build.kernels:
        pytest.skip(f"SKIP: {kernel.build.root} has no vmlinux")
    insns = decode_program(load(kernel.build.kernels[0]))
    insns = insns.take(np.flatnonzero(~insns.of_kind(InsnKind.BAD)))
    count = len(insns)
    code = np.ascontiguousarray(insns.code[np.arange(count)])
    flows, known = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    targets, delta = np.zeros(count, np.uint64), np.zeros(count, np.int32)
    columns = (code, insns.address, insns.size, flows, targets, known, delta)
    pointers = [ctypes.c_void_p(column.ctypes.data) for column in columns]
    library().decode_many(ctypes.c_size_t(count), *pointers)

    for kind in InsnKind:
        rows = insns.of_kind(kind)
        allowed = FLOWS.get(kind, {0})
        odd = rows & ~np.isin(flows, list(allowed))
        odd &= ~((code[:, 0] == SYSCALL[0]) & (code[:, 1] == SYSCALL[1]))
        where = [hex(at) for at in insns.address[odd][:5].tolist()]
        assert not odd.any(), (kind, where)
    direct = insns.of_kind(InsnKind.CALL, InsnKind.JMP, InsnKind.JCC)
    assert (targets[direct] == insns.target[direct]).all()
    true, fixed = sp_deltas(insns)
    wrong = (known != 0) & (~fixed | (delta != true))
    assert not wrong.any(), [hex(at) for at in insns.address[wrong][:5].tolist()]
    # It is there to save time, so that most must be known.
    assert known.sum() > 0.95 * fixed.sum()


def changed(program: Program) -> npt.NDArray[np.int64]:
    """Return the rows of the sorted table that ``spoilt`` makes wrong."""
    table, row = parse_orc(program), program.symbols.find_index(WRONG)
    assert table is not None
    assert row is not None
    table, first = table.sorted(), program.symbols.address[row]
    inside = (table.ip >= first) & (table.ip < first + program.symbols.size[row])
    return np.flatnonzero(inside & (table.type == OrcType.CALL))


@pytest.mark.boot
def test_entries_that_are_wrong_are_seen(
    kernel: Kernel, kernel_toolbox: Toolbox
) -> None:
    """Each of one function that was executed, and nothing else but what is known."""
    subject = bootable(kernel)
    program = load(subject.vmlinux)
    result = shadow(
        kernel_toolbox, subject, kernel.platform, MachineConfig(), spoilt(program)
    )

    assert not result.reason
    wrong = [f for f in result.findings if "error_entry" not in f.cause]
    assert {f.location.symbol for f in wrong} == {WRONG}
    assert {f.rule for f in wrong} == {RULES["cfa"]}
    rows = result.seen.executed[changed(program)]
    assert (rows > 0).any()
    assert not result.seen.verified[changed(program)].any()


def spoilt_module(module: Path, directory: Path) -> Path:
    """Return ``module`` with 8 added to where each call's frame is, by its table."""
    content = module.read_bytes()
    section = load(module).section(".orc_unwind")
    assert section is not None
    table = section.data.tobytes()
    assert content.count(table) == 1
    entries = np.frombuffer(table, "<i2").reshape(-1, 3).copy()
    entries[entries[:, 0] > 0, 0] += 8
    made = directory / module.name
    made.write_bytes(content.replace(table, entries.tobytes()))
    return made


@pytest.mark.boot
def test_modules_are_checked_by_tables_of_their_own(
    kernel: Kernel, kernel_toolbox: Toolbox, tmp_path: Path
) -> None:
    """Those that are right say nothing; one that is wrong is found, and it alone."""
    if kernel.platform is Platform.KVM:
        pytest.skip(
            "SKIP: no plugin reads the memory that a nested guest's tables are in"
        )
    subject = bootable(kernel)
    wrong = [each for each in subject.modules if each.name.startswith("test_min_heap")]
    if not wrong:
        pytest.skip("SKIP: it has no module whose init does much")
    others = tuple(each for each in subject.modules if each not in wrong)
    subject = replace(subject, modules=(*others, spoilt_module(wrong[0], tmp_path)))
    program = load(subject.vmlinux)
    result = shadow(kernel_toolbox, subject, kernel.platform, MachineConfig(), program)

    assert not result.reason
    assert result.counts["modules_with_a_table"] == len(subject.modules)
    assert result.counts["verified_in_modules"] > 1000
    found = [f for f in result.findings if "error_entry" not in f.cause]
    assert found
    assert {f.location.object for f in found} == {"test_min_heap.ko"}


@pytest.mark.boot
def test_several_cpus_raise_no_alarm(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """Each has its own state; what one leaves on a stack another finds there."""
    if kernel.platform is Platform.KVM:
        pytest.skip("SKIP: a nested guest has two CPUs without asking")
    if kernel.platform is Platform.XEN:
        pytest.skip(
            "SKIP: where a CPU comes back, xen_cpu_bringup_again has no pt_regs"
        )
    subject, config = bootable(kernel), MachineConfig(smp=2)
    program = load(subject.vmlinux)
    result = shadow(kernel_toolbox, subject, kernel.platform, config, program)

    assert not result.reason
    assert {f.cause.split(" under ")[0] for f in result.findings} <= {
        "callee error_entry"
    }

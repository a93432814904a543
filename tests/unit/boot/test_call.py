"""The call of the guest's unwinder: what is set up, and what is put back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import driver
from harness.boot.call import Errands, UnwindCall, called, packed, pt_regs, unwind_call
from harness.boot.gdb import Gdb
from harness.boot.registers import Registers
from harness.boot.stack_info import cpu_stacks, stack_layout
from harness.boot.unwind import PT_REGS, TRACE_LIMIT
from harness.errors import FormatError, InfraError
from tests.builders import guest as simulated
from tests.builders import image
from tests.builders.guest import SimulatedGuest
from tests.builders.rspserver import serving


@contextmanager
def stopped(directory: Path, guest: SimulatedGuest) -> Iterator[tuple[Gdb, UnwindCall]]:
    """Yield a client of ``guest`` and the call, its breakpoint in place."""
    path = directory / "gdb.sock"
    with serving(guest, path), Gdb.connect(path, timeout_s=5) as gdb:
        program, _ = image.image()
        cpu = cpu_stacks(stack_layout(program), simulated.GS_BASE, guest.bytes_at)
        call = unwind_call(program, cpu)
        with driver.installed(gdb, call.driver):
            yield gdb, call


def guest_trace(gdb: Gdb, call: UnwindCall, registers: Registers) -> tuple[int, ...]:
    """Return what the guest stores for ``registers``, innermost first."""
    errands = Errands(call)
    regs = errands.place(packed(pt_regs(registers)))
    store = errands.place(bytes(8 * TRACE_LIMIT))
    number = errands.call(call.function, regs, store, TRACE_LIMIT)
    done = errands.run(gdb, registers)
    return done.words(store, done.result(number))


def test_pt_regs_has_every_field() -> None:
    """The saved state is the stopped one; cs is the kernel's even under Xen."""
    numbers = {name: 100 + i for i, name in enumerate(("rax", "rbx", "r8", "r13"))}
    state = replace(simulated.at(0x400), **numbers, cs=0xE033)
    regs = pt_regs(state)
    assert sorted(regs, key=PT_REGS.__getitem__) == list(PT_REGS)
    assert (regs["ax"], regs["bx"], regs["r8"], regs["r13"]) == (100, 101, 102, 103)
    assert (regs["ip"], regs["sp"]) == (state.rip, state.rsp)
    assert regs["cs"] & 3 == 0


def test_called_enters_with_interrupts_off() -> None:
    """The driver is given its list, and the stack below it; IF, DF and TF are clear."""
    state = replace(simulated.KERNEL, eflags=0x702)
    entered = called(UnwindCall(0x1000, 0x2000, 0x9000), state, 0x8CF8, 3)
    assert entered.eflags == 0x2
    assert (entered.rip, entered.rbx, entered.rbp) == (0x2000, 0x8CF8, 3)
    assert entered.rsp == 0x8CF0


def test_called_before_swapgs() -> None:
    """In entry code the two GS bases are swapped for the call."""
    state = replace(simulated.KERNEL, gs_base=0x7F00, k_gs_base=simulated.GS_BASE)
    entered = called(UnwindCall(0, 0, 0x9000), state, 0, 1)
    assert (entered.gs_base, entered.k_gs_base) == (simulated.GS_BASE, 0x7F00)


def test_guest_is_left_as_it_was(tmp_path: Path) -> None:
    """All registers are put back; only the scratch stack was written to."""
    guest = SimulatedGuest()
    before = dict(guest.memory)
    with stopped(tmp_path, guest) as (gdb, call):
        registers = gdb.registers()
        ips = guest_trace(gdb, call, registers)
        assert gdb.registers() == registers
    assert ips == (image.TEXT + 0x402, image.TEXT + 0x508, image.TEXT + 0x605)
    changed = {place for place, byte in guest.memory.items() if before[place] != byte}
    top = simulated.DOUBLE_FAULT_TOP
    assert changed
    assert min(changed) >= top - 0x400
    assert max(changed) < top


def test_breakpoint_in_the_unwinder_is_dropped(tmp_path: Path) -> None:
    """A probe point that the call runs into is removed, and the call goes on."""
    guest = SimulatedGuest()
    inside = image.TEXT + image.FUNCTIONS["stack_trace_save_regs"][0]
    with stopped(tmp_path, guest) as (gdb, call):
        gdb.insert_breakpoint(inside)
        registers = gdb.registers()
        guest.stops_first_at = inside
        assert len(guest_trace(gdb, call, registers)) == 3
        assert gdb.breakpoints == {call.end}


@pytest.mark.parametrize("ambush", [False, True], ids=["alone", "ambush"])
def test_a_fault_that_nobody_has_read_yet_stays(tmp_path: Path, ambush: bool) -> None:
    """The call is made from before it; its %cr2 must not come back with that state."""
    guest = SimulatedGuest()
    with stopped(tmp_path, guest) as (gdb, call):
        if ambush:
            gdb.insert_breakpoint(image.TEXT)
        before = gdb.registers()
        gdb.write_registers(replace(before, cr2=0xFAB000))
        guest_trace(gdb, call, before)
        assert before.cr2 != 0xFAB000
        assert gdb.registers().cr2 == 0xFAB000


def test_preemptible_kernel_under_xen(tmp_path: Path) -> None:
    """There the preempt count is raised for the call, and put back."""
    guest = SimulatedGuest(states=[replace(simulated.at(0x402), cs=0xE033)] * 2)
    count = simulated.GS_BASE + image.PER_CPU["pcpu_hot"] + 8
    guest.load(count, b"\x05\0\0\x80")
    with stopped(tmp_path, guest) as (gdb, call):
        gdb.step()
        preemptible = replace(call, preempt_count=count)
        registers = gdb.registers()
        assert guest_trace(gdb, preemptible, registers)
    assert f"M{count:x},4:06000080" in guest.seen
    assert guest.bytes_at(count, 4) == b"\x05\0\0\x80"


def test_preemptible_kernel_is_known_by_its_scheduler() -> None:
    """Where there is no preempt_schedule() nothing has to be held back."""
    layout = stack_layout(image.image()[0])
    cpu = cpu_stacks(layout, simulated.GS_BASE, SimulatedGuest().bytes_at)
    cooperative, _ = image.image()
    assert unwind_call(cooperative, cpu).preempt_count == 0
    preemptible, _ = image.image(more={"preempt_schedule": 16})
    expected = simulated.GS_BASE + image.PER_CPU["pcpu_hot"] + 8
    assert unwind_call(preemptible, cpu).preempt_count == expected


def test_preempt_count_is_left_alone_elsewhere(tmp_path: Path) -> None:
    """In ring 0 interrupts are off, which is enough; so is a kernel without."""
    guest = SimulatedGuest()
    with stopped(tmp_path, guest) as (gdb, call):
        assert call.preempt_count == 0
        count = simulated.GS_BASE + image.PER_CPU["pcpu_hot"] + 8
        registers = gdb.registers()
        preemptible = replace(call, preempt_count=count)
        assert guest_trace(gdb, preemptible, registers)
    assert not any(packet.startswith(f"M{count:x}") for packet in guest.seen)


def test_call_that_does_not_come_back(tmp_path: Path) -> None:
    """A call that stops anywhere else is an error that says where."""
    with stopped(tmp_path, SimulatedGuest(stuck=True)) as (gdb, call):
        registers = gdb.registers()
        with pytest.raises(InfraError, match="did not come back: called at"):
            guest_trace(gdb, call, registers)


def test_kernel_without_the_function() -> None:
    """A kernel that cannot be asked is refused with the option that it lacks."""
    program, _ = image.image(symbols={"_stext": 0})
    layout = stack_layout(image.image()[0])
    cpu = cpu_stacks(layout, simulated.GS_BASE, SimulatedGuest().bytes_at)
    with pytest.raises(FormatError, match="no stack_trace_save_regs") as caught:
        unwind_call(program, cpu)
    assert "CONFIG_STACKTRACE" in str(caught.value.hint)


def test_pt_regs_layout_is_the_kernels() -> None:
    """ip, flags, sp where arch/x86/include/uapi/asm/ptrace.h has them."""
    assert struct.calcsize("<21Q") == 0xA8
    assert (PT_REGS["bp"], PT_REGS["di"], PT_REGS["ip"]) == (0x20, 0x70, 0x80)
    assert (PT_REGS["cs"], PT_REGS["sp"], PT_REGS["ss"]) == (0x88, 0x98, 0xA0)

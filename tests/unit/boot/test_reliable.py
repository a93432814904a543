"""Reliable: every task that sleeps is asked about, and a wrong answer is a finding."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot.attach import attached as attached_to
from harness.boot.call import HEADROOM
from harness.boot.driver import RECORD
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import kernel_text
from harness.boot.point import Guest
from harness.boot.reliable import Survey, reliability, stopping_place
from harness.boot.stack_info import stack_layout
from harness.boot.task import task_layout
from harness.errors import FormatError
from tests.builders import guest as simulated
from tests.builders import image
from tests.builders.guest import SimulatedGuest
from tests.builders.rspserver import serving

ENTRIES = [offset for offset, _ in image.TABLE]


@contextmanager
def attached(directory: Path, served: SimulatedGuest) -> Iterator[Guest]:
    """Yield ``served`` as the probe sees it."""
    program, table = image.image()
    path = directory / "gdb.sock"
    with serving(served, path), Gdb.connect(path, timeout_s=5) as gdb:
        registers = gdb.registers()
        text = kernel_text(program, table)
        with attached_to(gdb, program, text, registers) as guest:
            yield guest


def survey(directory: Path, served: SimulatedGuest) -> Survey:
    """Ask ``served`` about its tasks at one stop."""
    told = Survey()
    with attached(directory, served) as guest:
        how = reliability(guest)
        assert how is not None
        for registers in how.stops(guest, 0.05):
            told.stop(how, guest, registers)
    return told


def spoil(served: SimulatedGuest, offset: int, sp_offset: int) -> None:
    """Give the running table's entry at ``offset`` of .text another sp_offset."""
    at = image.ORC + 4 * len(image.TABLE) + 6 * ENTRIES.index(offset)
    served.load(at, struct.pack("<h", sp_offset))


def test_an_honest_guest(tmp_path: Path) -> None:
    """The sleeper is asked about, the running task is not; a zombie has no stack."""
    told = survey(tmp_path, SimulatedGuest())
    assert told.findings == []
    assert (told.stops, told.asked, told.differ, told.unreliable) == (1, 1, 0, 0)
    assert told.without_stack == 2  # the zombie, and init_task, which never slept
    assert told.control is True


@pytest.mark.parametrize(
    ("rip", "asked"),
    [(0x401000, True), (image.TEXT + 0x402, False)],
    ids=["user", "kernel"],
)
def test_no_other_vcpu_may_be_in_the_kernel(
    tmp_path: Path, rip: int, asked: bool
) -> None:
    """It could be switching tasks; what a user runs, runs, and is not asked about."""
    told = Survey()
    with attached(tmp_path, SimulatedGuest()) as guest:
        how = reliability(guest)
        assert how is not None
        other = replace(simulated.KERNEL, rip=rip)
        guest.gdb.vcpus = lambda: (guest.gdb.registers(), other)  # type: ignore[method-assign]
        for registers in how.stops(guest, 0.05):
            told.stop(how, guest, registers)
    assert told.asked == int(asked)


def test_a_guest_with_a_wrong_entry(tmp_path: Path) -> None:
    """It does not trust what the image's table says it may; the place is named."""
    served = SimulatedGuest()
    spoil(served, 0x500, 32)
    told = survey(tmp_path, served)
    (finding,) = told.findings
    assert finding.rule == "runtime/task-differs"
    assert str(finding.location) == "caller+0x7"
    assert finding.message.startswith("the kernel does not trust the stack of task 7")
    assert told.differ == told.unreliable == 1
    assert told.control is None  # nothing was right that could be spoiled


def test_a_stack_that_cannot_be_trusted(tmp_path: Path) -> None:
    """Both agree that it ends nowhere: livepatch would wait for ever."""
    served = SimulatedGuest()
    served.word(simulated.SLEEPER_STACK + 0x3000 + image.SAVED + 8, 0x1234)
    told = survey(tmp_path, served)
    (finding,) = told.findings
    assert finding.rule == "runtime/unreliable"
    assert "livepatch cannot trust the stack of task 7" in finding.message
    assert "not kernel text" in finding.message
    assert str(finding.location) == "leaf+0x1"
    assert 1 < len(finding.window) <= 25
    assert f"{simulated.SLEEPER:x}" not in finding.key


def test_a_stack_that_lies_nowhere(tmp_path: Path) -> None:
    """A stack pointer beside the task's stack: there is not one frame."""
    served = SimulatedGuest()
    beside = simulated.STACK + 0x2000
    served.word(simulated.SLEEPER + image.THREAD_SP, beside)
    served.word(beside + image.SAVED, image.TEXT + 0x402)
    (finding,) = survey(tmp_path, served).findings
    assert finding.rule == "runtime/unreliable"
    assert finding.message.endswith("not on a known stack")
    assert str(finding.location) == "leaf+0x2"


def test_a_guest_that_trusts_nothing(tmp_path: Path) -> None:
    """A kernel whose answer is always no differs from its table."""
    told = survey(tmp_path, SimulatedGuest(trusts_none=True))
    assert [finding.rule for finding in told.findings] == ["runtime/task-differs"]


def test_any_error_is_a_no(tmp_path: Path) -> None:
    """Whatever the kernel calls it: a negative count is no trace."""
    told = survey(tmp_path, SimulatedGuest(trusts_none=True, error=38))
    assert (told.asked, told.unreliable) == (1, 1)


def test_a_blind_guest(tmp_path: Path) -> None:
    """The control fails where a wrong entry changes nothing."""
    assert survey(tmp_path, SimulatedGuest(blind=True)).control is False


def test_a_kernel_without_it(tmp_path: Path) -> None:
    """No reliable unwinder, nobody to ask."""
    program, _ = image.image(symbols={"__switch_to_asm": 0xB00})
    with attached(tmp_path, SimulatedGuest()) as guest:
        other = Guest(guest.gdb, program, guest.text, guest.cpu, guest.call)
        assert reliability(other) is None


def test_a_stop_takes_an_instruction_that_is_long_enough() -> None:
    """Of one byte (push %rbp without IBT) where a breakpoint is a jump: the next one."""
    program, _ = image.image()
    begin = image.TEXT + image.SITE - 2
    assert stopping_place(program, begin, 1) == begin
    assert stopping_place(program, begin, 2) == begin + 2
    with pytest.raises(FormatError, match="tail has no instruction of 9 bytes"):
        stopping_place(program, image.TEXT + 0x800, 9)


def test_tasks_are_found_a_few_at_a_time(tmp_path: Path) -> None:
    """As many as there is room to ask for; none is left out, or found twice."""
    with attached(tmp_path, SimulatedGuest()) as guest:
        how = reliability(guest)
        assert how is not None
        small = replace(guest.call, stack_size=HEADROOM + 2 * RECORD.size)
        found = list(how.finder.find(guest.gdb, small, guest.gdb.registers()))
        assert found == list(
            how.finder.find(guest.gdb, guest.call, guest.gdb.registers())
        )
    assert [pid for _, pid in found] == [0, 1, 7, 9]


def test_the_layout_is_what_switch_to_does() -> None:
    """%rbp is pushed first: behind %rbx and %r12, before the return address."""
    program, _ = image.image()
    layout = task_layout(program, stack_layout(program))
    assert (layout.thread_sp, layout.saved, layout.bp) == (0x40, 24, 16)
    assert layout.fresh == image.TEXT + 0x600


def test_an_unknown_switch() -> None:
    """Code that stores no %rsp there is refused."""
    stacks = stack_layout(image.image()[0])
    program, _ = image.image(symbols={"__switch_to_asm": 0x400})
    with pytest.raises(FormatError, match="__switch_to_asm"):
        task_layout(program, stacks)
    nowhere, _ = image.image(symbols={"_stext": 0})
    with pytest.raises(FormatError, match="no symbol __switch_to_asm"):
        task_layout(nowhere, stacks)

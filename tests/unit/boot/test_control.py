"""The control: an entry is broken in the guest and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.boot import driver
from harness.boot.call import unwind_call
from harness.boot.control import broken, control_entry, differing_entries, run_control
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import kernel_text
from harness.boot.point import Guest, check_point, in_entry_context
from harness.boot.stack_info import cpu_stacks, stack_layout
from harness.elf.orc import ENTRY_SIZE
from tests.builders import image
from tests.builders.guest import GS_BASE, SimulatedGuest, at
from tests.builders.rspserver import serving

TABLE = image.ORC + 4 * len(image.TABLE)
CALLER = [offset for offset, _ in image.TABLE].index(0x500)


@contextmanager
def stopped(directory: Path, guest: SimulatedGuest) -> Iterator[Guest]:
    """Yield ``guest`` as a probe sees it."""
    program, table = image.image()
    path = directory / "gdb.sock"
    with serving(guest, path), Gdb.connect(path, timeout_s=5) as gdb:
        cpu = cpu_stacks(stack_layout(program), GS_BASE, gdb.read)
        call = unwind_call(program, cpu)
        with driver.installed(gdb, call.driver):
            yield Guest(gdb, program, kernel_text(program, table), cpu, call)


def test_entry_of_the_caller_is_chosen(tmp_path: Path) -> None:
    """Not the stopped function's own entry, and none that ends the trace."""
    with stopped(tmp_path, SimulatedGuest()) as guest:
        point = check_point(guest, guest.gdb.registers())
        assert control_entry(point, guest) == CALLER


def test_no_entry_in_a_trace_without_callers(tmp_path: Path) -> None:
    """A trace of one frame has nothing to break."""
    with stopped(tmp_path, SimulatedGuest(states=[at(0x601)])) as guest:
        guest.gdb.step()
        point = check_point(guest, guest.gdb.registers())
        assert control_entry(point, guest) is None
        assert in_entry_context(guest, point)


def test_planted_fault_is_reported_and_gone(tmp_path: Path) -> None:
    """The finding is placed at the call whose entry was broken."""
    simulated = SimulatedGuest()
    with stopped(tmp_path, simulated) as guest:
        result = run_control(guest, guest.gdb.registers(), CALLER)
    assert result.passed
    assert result.reported is not None
    assert str(result.reported.location) == "caller+0x7"
    assert result.reported.declared == "sp+24 call"
    assert simulated.bytes_at(TABLE + ENTRY_SIZE * CALLER, 2) == b"\x18\0"


def test_blind_guest_fails_the_control(tmp_path: Path) -> None:
    """A fault that nobody sees is the control's own failure."""
    with stopped(tmp_path, SimulatedGuest(blind=True)) as guest:
        result = run_control(guest, guest.gdb.registers(), CALLER)
    assert not result.passed
    assert result.reported is None


def test_entry_is_put_back_after_an_error(tmp_path: Path) -> None:
    """Whatever happens in between, the guest's table is whole again."""
    simulated = SimulatedGuest()

    def fail_inside(guest: Guest) -> None:
        with broken(guest.gdb, guest.program, CALLER):
            assert simulated.bytes_at(TABLE + ENTRY_SIZE * CALLER, 2) == b"\x20\0"
            raise ZeroDivisionError

    with stopped(tmp_path, simulated) as guest, pytest.raises(ZeroDivisionError):
        fail_inside(guest)
    assert simulated.bytes_at(TABLE + ENTRY_SIZE * CALLER, 2) == b"\x18\0"


def test_differing_entries(tmp_path: Path) -> None:
    """Addresses and states are both compared."""
    simulated = SimulatedGuest()
    with stopped(tmp_path, simulated) as guest:
        assert differing_entries(guest.gdb, guest.program) == []
        simulated.load(image.ORC + 4 * 2, b"\xff")
        simulated.load(TABLE + ENTRY_SIZE * 5 + 4, b"\xff")
        assert differing_entries(guest.gdb, guest.program) == [2, 5]

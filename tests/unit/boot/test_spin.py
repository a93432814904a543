"""Breakpoints that are jumps in the guest's own text, and a guest of two vCPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot.packet import frame
from harness.boot.spin import SPIN, SpinGdb, first_size
from harness.boot.wire import GdbTimeout
from harness.errors import InfraError
from tests.builders.rspserver import serving
from tests.builders.spinstub import SpinStub

A, B, SHORT = 0x1000, 0x2000, 0x3000
NOP4, PUSH = bytes.fromhex("66 0f 1f 00"), b"\x55"


@contextmanager
def connected(directory: Path, *roads: list[int]) -> Iterator[tuple[SpinGdb, SpinStub]]:
    """Yield a client of a guest whose vCPUs go along ``roads``."""
    stub = SpinStub(roads=[list(road) for road in roads])
    for address, code in ((A, NOP4), (B, NOP4), (SHORT, PUSH)):
        stub.load(address, code.ljust(16, b"\x90"))
    path = directory / "gdb.sock"
    with serving(stub, path), SpinGdb.connect(path, timeout_s=5) as gdb:
        assert isinstance(gdb, SpinGdb)
        yield gdb, stub


def test_a_breakpoint_is_a_jump_to_itself(tmp_path: Path) -> None:
    """It is in the text while it is there, and the text is whole afterwards."""
    with connected(tmp_path, [0]) as (gdb, stub):
        gdb.insert_breakpoint(A)
        assert (stub.at(A), gdb.breakpoints) == (SPIN, {A})
        gdb.remove_breakpoint(A)
        assert (stub.at(A), gdb.breakpoints) == (NOP4[:2], frozenset())
        assert gdb.read(A, 16) == NOP4.ljust(16, b"\x90")


def test_an_earlier_clients_guest_is_stopped_first(tmp_path: Path) -> None:
    """It may run yet, and its stub not say that it stops: nothing hangs on that."""
    with connected(tmp_path, [0]) as (_, stub):
        assert "?" not in stub.seen
    silent = SpinStub(roads=[[0]], script={"qAttached": frame("E01")})
    path = tmp_path / "other.sock"
    with (
        serving(silent, path),
        pytest.raises(InfraError, match="sent b'E01' for qAttached"),
        SpinGdb.connect(path, timeout_s=5),
    ):
        pass


def test_no_jump_is_put_over_two_instructions(tmp_path: Path) -> None:
    """Somebody may stand at the second: one is refused, of many it is left out."""
    with connected(tmp_path, [0]) as (gdb, stub):
        with pytest.raises(InfraError, match="the instruction there has one byte"):
            gdb.insert_breakpoint(SHORT)
        gdb.insert_breakpoints([SHORT, A])
        assert gdb.breakpoints == {A}
        assert stub.at(SHORT) == b"\x55\x90"


def test_what_the_guest_has_patched_meanwhile_stays(tmp_path: Path) -> None:
    """What was there before is not what it wants there now."""
    with connected(tmp_path, [0]) as (gdb, stub):
        gdb.insert_breakpoint(A)
        stub.load(A, b"\xe9\x01")
        gdb.remove_breakpoint(A)
        assert stub.at(A) == b"\xe9\x01"


@pytest.mark.parametrize(("blind", "resumed"), [({0}, 0), ({0, 1}, 3)])
def test_text_is_written_where_it_is_mapped(
    tmp_path: Path, blind: set[int], resumed: int
) -> None:
    """Through another vCPU, or a little later: a user's page tables have no kernel."""
    with connected(tmp_path, [0], [0]) as (gdb, stub):
        gdb.insert_breakpoint(A)
        stub.blind = blind
        gdb.remove_breakpoints([A])
        assert (stub.at(A), len(stub.resumed)) == (NOP4[:2], resumed)


def test_the_vcpu_that_came_to_a_breakpoint_is_selected(tmp_path: Path) -> None:
    """Others are somewhere; both can be seen."""
    with connected(tmp_path, [0, 1, 2, 3], [0, 5, A]) as (gdb, _):
        gdb.insert_breakpoint(A)
        assert gdb.run_for(5).trapped
        assert gdb.registers().rip == A
        assert [registers.rip for registers in gdb.vcpus()] == [2, A]
        gdb.select(0)
        assert gdb.registers().rip == 2


def test_a_guest_that_comes_nowhere_is_stopped_in_time(tmp_path: Path) -> None:
    """Without a breakpoint it is broken into once; it is no trap."""
    with connected(tmp_path, [0, 1, 2], [0]) as (gdb, stub):
        assert not gdb.run_for(0.01).trapped
        assert stub.resumed == ["c"]
        assert gdb.vcpus()[0].rip == 1


def test_a_wait_has_an_end_and_the_guest_runs_on(tmp_path: Path) -> None:
    """As behind every stub."""
    with connected(tmp_path, [0], [0]) as (gdb, stub):
        gdb.insert_breakpoint(A)
        gdb.cont()
        with pytest.raises(
            GdbTimeout, match=r"no vCPU came to a breakpoint in 0\.02 s"
        ):
            gdb.wait(0.02)
        assert len(stub.resumed) >= 2


def test_a_call_runs_one_vcpu_and_no_other(tmp_path: Path) -> None:
    """What the other does meanwhile could be what is looked at."""
    with connected(tmp_path, [7, 8, 9], [7, 8, 3, A]) as (gdb, stub):
        gdb.run_for(0)
        gdb.select(1)
        gdb.insert_breakpoint(A)
        registers = replace(gdb.registers(), rip=B, rax=5)
        assert gdb.call(registers, [(0x5000, b"regs")], 5).trapped
        assert set(stub.resumed[1:]) == {"vCont;c:02"}
        assert (gdb.registers().rip, gdb.registers().rax) == (A, 5)
        assert gdb.read(0x5000, 4) == b"regs"
        assert [one.rip for one in gdb.vcpus()] == [8, 8]  # as they stopped


def test_a_call_goes_on_alone(tmp_path: Path) -> None:
    """Where it ran into a breakpoint, and that was removed, the other is held, too."""
    with connected(tmp_path, [7, 8, 9], [7, 8, A]) as (gdb, stub):
        gdb.run_for(0)
        gdb.select(1)
        gdb.insert_breakpoints([A, B])
        assert gdb.call(replace(gdb.registers(), rip=B), [], 5).trapped
        gdb.remove_breakpoint(B)
        assert gdb.go_on(5).trapped
        assert set(stub.resumed[1:]) == {"vCont;c:02"}
        assert [one.rip for one in gdb.vcpus()] == [8, 8]


def test_a_call_that_does_not_come_back_is_no_trap(tmp_path: Path) -> None:
    """It is broken into at its deadline."""
    with connected(tmp_path, [0, 1]) as (gdb, _):
        gdb.insert_breakpoint(A)
        assert not gdb.call(replace(gdb.registers(), rip=B), [], 0.01).trapped


def test_it_cannot_be_stepped(tmp_path: Path) -> None:
    """A step would run away: nobody gets one."""
    with connected(tmp_path, [0]) as (gdb, _):
        assert not gdb.steps
        with pytest.raises(InfraError, match="cannot be stepped"):
            gdb.step()
        with pytest.raises(InfraError, match="cannot be stepped"):
            gdb.step_registers()


def test_its_host_is_served_while_it_runs(tmp_path: Path) -> None:
    """A nested guest's host may have to be woken."""
    with connected(tmp_path, [0]) as (gdb, _):
        served: list[int] = []
        gdb.idle = lambda: served.append(1)
        gdb.run_for(3 * gdb.IDLE_S)
        assert len(served) >= 2


@pytest.mark.parametrize(("code", "size"), [("55", 1), ("90 eb", 1), ("660f1f00", 4)])
def test_size_of_the_first_instruction(code: str, size: int) -> None:
    """Whatever follows it."""
    assert first_size(bytes.fromhex(code)) == size

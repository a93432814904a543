"""The gdbstub client against a stub of our own, whole and broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot.gdb import Gdb
from harness.boot.packet import frame
from harness.boot.registers import Registers
from harness.boot.wire import GdbTimeout, LostGuest
from harness.errors import InfraError
from tests.builders.rspserver import FakeStub, serving

BLOB = bytes(range(236)) + b"fpu state"


@contextmanager
def connected(
    directory: Path, script: Mapping[str, bytes | None] | None = None
) -> Iterator[tuple[Gdb, FakeStub]]:
    """Yield a client and the stub it is connected to."""
    stub = FakeStub(BLOB, script=script or {})
    path = directory / "gdb.sock"
    with serving(stub, path), Gdb.connect(path, timeout_s=5) as gdb:
        yield gdb, stub


def test_registers_keep_every_byte() -> None:
    """What was read is what is written back, FPU state included."""
    assert Registers.parse(BLOB).pack() == BLOB


def test_registers_have_the_layout_of_the_core_set() -> None:
    """rip follows the 16 GPRs, selectors take 4 bytes, the rest 8."""
    registers = Registers.parse(BLOB)
    word = int.from_bytes
    assert registers.rsp == word(BLOB[56:64], "little")
    assert registers.rip == word(BLOB[128:136], "little")
    assert registers.eflags == word(BLOB[136:140], "little")
    assert registers.gs_base == word(BLOB[172:180], "little")
    assert registers.efer == word(BLOB[228:236], "little")
    assert registers.rest == b"fpu state"


def test_registers_without_control() -> None:
    """Writing %cr3 would cost a TLB, so a call leaves it out, and all behind."""
    registers = Registers.parse(BLOB)
    data = registers.pack_without_control()
    assert data == BLOB[: len(data)]
    assert len(data) == 188
    assert data.endswith(registers.k_gs_base.to_bytes(8, "little"))


def test_short_registers_are_an_error() -> None:
    """A stub of another architecture is refused with both sizes."""
    with pytest.raises(InfraError, match="sent 64 bytes of registers, expected at"):
        Registers.parse(bytes(64))


def test_write_registers(tmp_path: Path) -> None:
    """One changed register reaches the stub, the others stay."""
    with connected(tmp_path) as (gdb, stub):
        changed = replace(gdb.registers(), rip=0xFFFFFFFF81000000)
        gdb.write_registers(changed)
        assert gdb.registers() == changed
        assert stub.registers == changed.pack()


def test_memory_longer_than_a_packet(tmp_path: Path) -> None:
    """Long reads and writes are split and joined."""
    data = bytes(i % 251 for i in range(10_000))
    with connected(tmp_path) as (gdb, stub):
        gdb.write(0x1000, data)
        assert gdb.read(0x1000, len(data)) == data
        assert sum(packet.startswith("M") for packet in stub.seen) == 6


def test_read_many_keeps_the_windows_apart(tmp_path: Path) -> None:
    """Windows come back in the order in which they were asked for."""
    with connected(tmp_path) as (gdb, stub):
        stub.load(0x1000, b"x" * 3000)
        stub.load(0x9000, b"y" * 5)
        assert gdb.read_many([(0x9000, 5), (0x1000, 3000)]) == [b"y" * 5, b"x" * 3000]


def test_unmapped_memory(tmp_path: Path) -> None:
    """Unmapped memory is an error that names it, or None where that is asked."""
    with connected(tmp_path) as (gdb, _):
        assert gdb.read_or_none(0x5000, 8) is None
        with pytest.raises(InfraError, match=r"0x5000\+0x8 is not mapped"):
            gdb.read(0x5000, 8)


def test_breakpoints_are_inserted_once(tmp_path: Path) -> None:
    """The stub counts breakpoints, so each is inserted and removed once."""
    with connected(tmp_path) as (gdb, stub):
        gdb.insert_breakpoints([0x10, 0x20])
        gdb.insert_breakpoint(0x20)
        gdb.remove_breakpoint(0x10)
        assert gdb.breakpoints == stub.breakpoints == {0x20}
        assert sum(packet.startswith("Z0,20") for packet in stub.seen) == 1


def test_step_and_break_in(tmp_path: Path) -> None:
    """A step traps; a guest that runs on is broken into."""
    with connected(tmp_path, {"c": b""}) as (gdb, _):
        assert gdb.step().trapped
        assert gdb.run_for(0.01).signal == 2


def test_monitor_output_is_decoded(tmp_path: Path) -> None:
    """An HMP command's output comes in hex packets before OK."""
    answer = frame("O" + b"hello ".hex()) + frame("O" + b"there".hex()) + frame("OK")
    with connected(tmp_path, {"qRcmd": answer}) as (gdb, _):
        assert gdb.monitor("info version") == "hello there"


def test_physical_memory_mode(tmp_path: Path) -> None:
    """Physical addressing is QEMU's own packet."""
    with connected(tmp_path) as (gdb, stub):
        gdb.physical(True)
        assert stub.seen[-1] == "Qqemu.PhyMemMode:1"


def test_stub_that_dies_midway(tmp_path: Path) -> None:
    """A connection that closes in the middle of an answer is a lost guest."""
    with (
        connected(tmp_path, {"m": None}) as (gdb, _),
        pytest.raises(LostGuest, match="closed the connection"),
    ):
        gdb.read(0x1000, 8)


def test_guest_that_powers_off(tmp_path: Path) -> None:
    """QEMU's exit packet is a lost guest, too."""
    with (
        connected(tmp_path, {"c": frame("W00")}) as (gdb, _),
        pytest.raises(LostGuest, match="the machine ended"),
    ):
        gdb.run_for(5)


def test_garbage_checksum(tmp_path: Path) -> None:
    """A damaged packet is an error, not data."""
    with (
        connected(tmp_path, {"g": b"$00ff#00"}) as (gdb, _),
        pytest.raises(InfraError, match="checksum 00, expected 2c"),
    ):
        gdb.registers()


def test_answer_that_is_not_hex(tmp_path: Path) -> None:
    """A wrong answer is quoted."""
    with (
        connected(tmp_path, {"g": frame("nonsense")}) as (gdb, _),
        pytest.raises(InfraError, match="'nonsense', expected hex"),
    ):
        gdb.registers()


def test_refused_breakpoint(tmp_path: Path) -> None:
    """A refusal names the request."""
    with (
        connected(tmp_path, {"Z": frame("E22")}) as (gdb, _),
        pytest.raises(InfraError, match="refused Z0,10,1: 'E22'"),
    ):
        gdb.insert_breakpoint(0x10)


def test_silent_guest(tmp_path: Path) -> None:
    """A guest that does not stop is told apart from one that is gone."""
    with connected(tmp_path, {"c": b""}) as (gdb, _):
        gdb.cont()
        with pytest.raises(GdbTimeout, match=r"a stop in 0\.05 s"):
            gdb.wait(0.05)


def test_stop_reason_of_an_earlier_client(tmp_path: Path) -> None:
    """A guest that somebody let run tells two stop reasons; neither is data."""
    twice = frame("T05thread:01;") * 2
    with connected(tmp_path, {"?": twice}) as (gdb, _):
        assert gdb.registers().pack() == BLOB


def test_peer_that_is_no_gdbstub(tmp_path: Path) -> None:
    """What does not tell a stop reason is refused at once."""
    with (
        pytest.raises(InfraError, match="for a stop reason"),
        connected(tmp_path, {"?": frame("hello")}),
    ):
        pass


def test_nobody_listens(tmp_path: Path) -> None:
    """Connecting has a deadline."""
    with (
        pytest.raises(GdbTimeout, match="no gdbstub listens"),
        Gdb.connect(tmp_path / "absent.sock", timeout_s=0.05),
    ):
        pass


def test_long_socket_path(tmp_path: Path) -> None:
    """A path longer than a Unix socket's 108 bytes works."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    link = tmp_path / "short"
    link.symlink_to(deep)
    stub = FakeStub(BLOB)
    with (
        serving(stub, link / "s"),
        Gdb.connect(deep / "s", timeout_s=5) as gdb,
    ):
        assert gdb.registers().pack() == BLOB


def test_of_several_vcpus_one_runs_in_a_step_and_in_a_call(tmp_path: Path) -> None:
    """What the others do meanwhile could be what is looked at; a stop selects its own."""
    script = {
        "qfThreadInfo": frame("m02,01"),
        "Hg": frame("OK"),
        "vCont": frame("T05thread:02;"),
        "c": frame("T05thread:01;"),
    }
    with connected(tmp_path, script) as (gdb, stub):
        assert len(gdb.vcpus()) == 2
        gdb.step()
        gdb.step_registers()
        gdb.select(0)
        gdb.call(gdb.registers(), [], 5)
        gdb.run_for(5)
        gdb.go_on(5)
        resumed = [packet for packet in stub.seen if packet[0] in "cv"]
        selected = [packet for packet in stub.seen if packet.startswith("Hg")]
    assert resumed == [
        *("vCont;s:01", "vCont;s:02", "vCont;c:01"),
        *("c", "vCont;c:01"),
    ]
    assert selected == ["Hg01", "Hg02", "Hg01", "Hg01"]


def test_one_vcpu_is_resumed_as_ever(tmp_path: Path) -> None:
    """There is nobody to hold."""
    with connected(tmp_path, {}) as (gdb, stub):
        assert gdb.vcpus() == (gdb.registers(),)
        gdb.step()
        gdb.call(gdb.registers(), [], 5)
        assert [packet for packet in stub.seen if packet[0] in "csv"] == ["s", "c"]

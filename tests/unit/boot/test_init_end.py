"""Where a kernel is done with booting and its init memory is still there."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import init_end
from harness.boot.gdb import Gdb
from harness.boot.spin import SPIN, SpinGdb
from harness.errors import InfraError, UserError
from tests.builders.rspserver import FakeStub, serving
from tests.builders.running import TEXT, Kernel
from tests.builders.spinstub import ZERO, SpinStub


def test_the_guest_is_stopped_there_and_left_without_breakpoints(
    tmp_path: Path,
) -> None:
    """A breakpoint at free_initmem(), once."""
    program = Kernel(functions={"free_initmem": 0x40}).linked()
    stub = FakeStub(registers=bytes(236))
    with serving(stub, tmp_path / "gdb"), Gdb.connect(tmp_path / "gdb") as gdb:
        init_end.run_there(gdb, program, 5)
        assert gdb.breakpoints == frozenset()
    place = f"{TEXT + 0x40:x},1"
    assert [p for p in stub.seen if p[:1] in "Zzc"] == [
        f"Z0,{place}",
        "c",
        f"z0,{place}",
    ]


class Patcher(SpinStub):
    """A kernel whose state goes on whenever it was resumed."""

    state: int = 0
    at_end: int = 0

    def reply(self, packet: str) -> bytes | None:
        """Answer; be at the end of init once there is a breakpoint."""
        answer: bytes | None = super().reply(packet)
        if packet == "c":
            self.memory[self.state] += 1
            if self.at(self.at_end) == SPIN:
                self.vcpus[0] = replace(ZERO, rip=self.at_end).pack()
        return answer


@pytest.mark.parametrize("begins_at", [0, 2])
def test_text_is_not_touched_before_it_is_patched(
    tmp_path: Path, begins_at: int
) -> None:
    """A breakpoint that is a jump waits for initcalls; behind the end it is too late."""
    functions = {"free_initmem": 0x40, "system_state": 0x80}
    program = Kernel(functions=functions).linked()
    stub = Patcher(roads=[[0]])
    stub.at_end, stub.state = TEXT + 0x40, TEXT + 0x80
    stub.load(stub.at_end, b"\x66\x0f\x1f\x00".ljust(16, b"\x90"))
    stub.load(stub.state, bytes([begins_at, 0, 0, 0]))
    with serving(stub, tmp_path / "gdb"), SpinGdb.connect(tmp_path / "gdb") as gdb:
        if begins_at:
            with pytest.raises(InfraError, match=r"ran past free_initmem\(\)"):
                init_end.run_there(gdb, program, 5)
            return
        init_end.run_there(gdb, program, 5)
        assert gdb.registers().rip == stub.at_end
        assert gdb.breakpoints == frozenset()
    writes = [p for p in stub.seen if p.startswith("M")]
    assert writes == [f"M{stub.at_end:x},2:ebfe", f"M{stub.at_end:x},2:660f"]
    assert stub.resumed[0] == "c"  # before anything was written


def test_a_kernel_without_symbols_does_not_tell() -> None:
    """Nobody would stop."""
    with pytest.raises(UserError, match="no symbol free_initmem"):
        init_end.address(Kernel().linked())

"""Where a kernel is done with booting and its init memory is still there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot import init_end
from harness.boot.gdb import Gdb
from harness.errors import UserError
from tests.builders.rspserver import FakeStub, serving
from tests.builders.running import TEXT, Kernel


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


def test_a_kernel_without_symbols_does_not_tell() -> None:
    """Nobody would stop."""
    with pytest.raises(UserError, match="no symbol free_initmem"):
        init_end.address(Kernel().linked())

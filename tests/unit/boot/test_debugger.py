"""The stub that sees the kernel, at the machine's own QEMU or in a nested host."""

from __future__ import annotations

import types
from pathlib import Path
from typing import cast

import pytest

from harness.boot.debugger import debugger
from harness.boot.evidence import parse
from harness.boot.gdb import Gdb
from harness.boot.machine import Machine, Plan
from harness.boot.spin import SpinGdb
from harness.errors import InfraError
from tests.builders.rspserver import FakeStub, serving
from tests.builders.spinstub import SpinStub


def machine(
    directory: Path, said: bytes, *, spins: bool, alive: bool = True
) -> Machine:
    """Return one whose nested host, if it has one, has ``said`` something."""
    plan = Plan(("qemu",), {}, "1", 256, 60, outer_nonce="2" * spins, spins=spins)
    return cast(
        Machine,
        types.SimpleNamespace(
            plan=plan,
            gdb_socket=directory / "gdb",
            remaining_s=5.0,
            alive=lambda: alive,
            outer_evidence=lambda: parse(said, "2"),
            read=lambda name: b"kvm_amd: not there\n",
        ),
    )


def test_a_machine_of_its_own(tmp_path: Path) -> None:
    """Its stub has breakpoints that work."""
    stub = FakeStub(bytes(236))
    with (
        serving(stub, tmp_path / "gdb"),
        debugger(machine(tmp_path, b"", spins=False)) as gdb,
    ):
        assert type(gdb) is Gdb


def test_a_nested_guest_that_runs(tmp_path: Path) -> None:
    """Its host is up: the stub is asked, and breakpoints are spins."""
    said = b"2 hello\n2 mark running\n"
    with (
        serving(SpinStub(roads=[[1], [2]]), tmp_path / "gdb"),
        debugger(machine(tmp_path, said, spins=True)) as gdb,
    ):
        assert isinstance(gdb, SpinGdb)
        assert [registers.rip for registers in gdb.vcpus()] == [1, 2]


def test_a_host_that_does_not_come_up(tmp_path: Path) -> None:
    """Its last words are told; nobody waits for a stub that is not there."""
    dead = machine(tmp_path, b"2 hello\n", spins=True, alive=False)
    with (
        pytest.raises(InfraError, match=r"did not come up\nkvm_amd: not there"),
        debugger(dead),
    ):
        pass


def test_a_host_that_cannot_pass_on_its_stub(tmp_path: Path) -> None:
    """It says so, and why; nobody waits for what will never answer."""
    said = b"2 hello\n2 lack stub the port to the outside: ENOENT\n2 mark running\n"
    with (
        pytest.raises(InfraError, match="without the port to the outside: ENOENT"),
        debugger(machine(tmp_path, said, spins=True)),
    ):
        pass

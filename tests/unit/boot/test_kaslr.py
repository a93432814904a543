"""How far from its linked address a running kernel is."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import kaslr
from harness.boot.gdb import Gdb
from harness.boot.registers import Registers
from harness.elf.program import Program
from harness.errors import InfraError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, OBJECT, ElfWriter
from tests.builders.rspserver import FakeStub, serving

TEXT = 0xFFFFFFFF81000000
SLIDE = 0x1A200000
BANNER = b"Linux version 6.12.0-test".ljust(128, b"\0")


def a_kernel() -> Program:
    """Its text and its banner."""
    writer = ElfWriter(ET_EXEC)
    data = BANNER + b"\x90" * 0x300000
    text = writer.section(".text", data, flags=ALLOC | EXEC, address=TEXT)
    writer.symbol("linux_banner", text, TEXT, 128, OBJECT)
    writer.symbol("_stext", text, TEXT)
    writer.symbol("start_kernel", text, TEXT + 0x250040)
    writer.symbol("_einittext", text, TEXT + len(data))
    return writer.program("vmlinux")


def stub_at(rip: int) -> FakeStub:
    """A guest that is stopped there, its kernel moved by SLIDE."""
    registers = replace(Registers.parse(bytes(236)), rip=rip)
    stub = FakeStub(registers=registers.pack())
    stub.load(TEXT + SLIDE, BANNER)
    return stub


def test_is_told_by_the_banner(tmp_path: Path) -> None:
    """Several slides have that place in text; one has the banner where it must be."""
    stub = stub_at(TEXT + SLIDE + 0x280000)
    with serving(stub, tmp_path / "gdb"), Gdb.connect(tmp_path / "gdb") as gdb:
        assert kaslr.find_slide(gdb, a_kernel(), 5) == SLIDE


def test_it_is_stopped_at_its_start_wherever_that_is(tmp_path: Path) -> None:
    """There is a breakpoint for each slide, and none is left."""
    stub = stub_at(TEXT + SLIDE + 0x250040)
    with serving(stub, tmp_path / "gdb"), Gdb.connect(tmp_path / "gdb") as gdb:
        assert kaslr.run_to_start(gdb, a_kernel(), 5) == SLIDE
    laid = [packet for packet in stub.seen if packet.startswith("Z0")]
    assert f"Z0,{TEXT + SLIDE + 0x250040:x},1" in laid
    assert len(laid) == 503
    assert not stub.breakpoints


def test_a_guest_that_never_gets_there_is_no_verdict(tmp_path: Path) -> None:
    """In firmware all the time."""
    stub = stub_at(0xFFF0)
    with (
        serving(stub, tmp_path / "gdb"),
        Gdb.connect(tmp_path / "gdb") as gdb,
        pytest.raises(InfraError, match="no kernel of vmlinux was seen"),
    ):
        kaslr.find_slide(gdb, a_kernel(), 0.1)


def test_how_far_a_kernel_may_have_moved() -> None:
    """As far as puts the stopped instruction into its text, in whole steps."""
    small, large = (TEXT, TEXT + 0x2000), (TEXT, TEXT + 0x500000)
    assert list(kaslr.slides(*small, TEXT + 0x10)) == [0]
    assert list(kaslr.slides(*small, TEXT + 0x400000)) == [0x400000]
    assert list(kaslr.slides(*small, TEXT + 0x402000)) == []
    assert list(kaslr.slides(*small, TEXT - 0x200000)) == []
    assert list(kaslr.slides(*large, TEXT + 0x480000)) == [0, 0x200000, 0x400000]

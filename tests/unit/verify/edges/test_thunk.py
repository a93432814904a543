"""Thunks: indirect calls and jumps that go through one."""

from __future__ import annotations

from harness.elf.program import Program
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PC32,
    R_PLT32,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
)
from tests.builders.flow import (
    IN,
    PUSHED,
    kernel,
    rules,
)

THUNK = (
    "e801000000" + "cc" + "48890424" + "c3"
)  # call 1f; int3; 1: mov %rax,(%rsp); ret
THUNK_ROWS = [(6, UND), (16, IN), (17, UND)]


def test_retpoline() -> None:
    """A jump by a thunk is indirect: it leaves the function."""
    code = "e901000000" + "cc" + THUNK
    symbols = [("f", 0, 5), ("thunk", 6, 11)]
    assert rules(kernel(code, [(0, IN), *THUNK_ROWS], symbols)) == []
    code = "53" + "eb03" + "cccccc" + THUNK
    rows = [(0, IN), (1, PUSHED), *THUNK_ROWS]
    assert rules(kernel(code, rows, symbols)) == ["text/retpoline f+0x1"]


def test_call_by_a_thunk() -> None:
    """A call of a thunk is an indirect call, whatever entry the thunk has."""
    code = "e801000000" + "c3" + THUNK
    symbols = [("f", 0, 6), ("thunk", 6, 11)]
    assert rules(kernel(code, [(0, IN), *THUNK_ROWS], symbols)) == []


def test_call_of_another_objects_thunk() -> None:
    """A jump that .retpoline_sites names is indirect, whatever is there."""

    def module(*, listed: bool) -> Program:
        writer = ElfWriter()
        text = writer.section(
            ".text", bytes.fromhex("53e900000000"), flags=ALLOC | EXEC
        )
        writer.symbol("f", text, 0, 6)
        thunk = writer.symbol("thunk", UNDEF, kind=0)
        writer.relocation(text, 2, R_PLT32, thunk, -4)
        if listed:
            sites = writer.section(".retpoline_sites", bytes(4))
            home = writer.symbol("", text, kind=3, binding=0)
            writer.relocation(sites, 0, R_PC32, home, 1)
        add_orc(writer, text, [(0, IN), (1, PUSHED), (6, UND)])
        return writer.program("f.o")

    assert rules(module(listed=False)) == ["text/tail f+0x1"]
    assert rules(module(listed=True)) == ["text/retpoline f+0x1"]

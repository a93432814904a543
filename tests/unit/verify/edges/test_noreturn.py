"""Functions that never return, proved from their code."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.elf.load import parse
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.verify.check import check
from harness.verify.edges.flow import flow_of
from harness.verify.many import check_many
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PC32,
    R_PLT32,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
)
from tests.builders.flow import TABLE, columns_of, kernel, relative, rules

IN = call(8)


def calling(callee: str, *sections: tuple[str, bytes, int]) -> Program:
    """f ends with a call of g, whose code is ``callee``."""
    size = len(callee) // 2
    code = "53e801000000" + "cc" + callee
    rows = [(0, IN), (1, call(16)), (6, UND), (7, IN), (7 + size, UND)]
    return kernel(code, rows, [("f", 0, 6), ("g", 7, size)], sections)


@pytest.mark.parametrize(
    "callee",
    [
        "0f0b",  # ud2
        "ebfe",  # an endless loop
        "31c0" + "7402" + "ebfe" + "0f0b",
        "90" + "e8faffffff" + "cc",  # it calls itself
        "31c0" + "cc",
    ],
)
def test_proved(callee: str) -> None:
    """No way leads from the callee to a return: nothing is due behind the call."""
    assert rules(calling(callee)) == []


@pytest.mark.parametrize(
    "callee",
    [
        "c3",
        "7401" + "cc" + "c3",
        "ffe0",  # an indirect tail call
        "e8f4ffffff" + "c3",  # what it calls may come back
    ],
)
def test_refuted(callee: str) -> None:
    """A way leads to a return: behind the call a state is missing."""
    assert "text/step f+0x1" in rules(calling(callee))


def test_a_warning_is_no_end() -> None:
    """ud2 with a warning goes on to the return behind it."""
    entry = relative(TABLE, 7).ljust(10, b"\0") + struct.pack("<H", 1)
    program = calling("0f0bc3", ("__bug_table", entry, TABLE))
    assert "text/step f+0x1" in rules(program)
    silent = relative(TABLE, 7).ljust(12, b"\0")
    assert rules(calling("0f0bc3", ("__bug_table", silent, TABLE))) == []


def test_two_that_call_each_other() -> None:
    """Neither can return before the other: neither ever does."""
    # f: push; call g; g: call h; h: call g
    code = "53e800000000" + "e800000000" + "e8f6ffffff"
    rows = [(0, IN), (1, call(16)), (6, IN), (16, UND)]
    program = kernel(code, rows, [("f", 0, 6), ("g", 6, 5), ("h", 11, 5)])
    assert rules(program) == []


def test_a_jump_with_a_live_frame_is_no_way_out() -> None:
    """Only in the entry state is an indirect jump a tail call."""
    code = "53e801000000" + "cc" + "53" + "ffe0"
    rows = [(0, IN), (1, call(16)), (6, UND), (7, IN), (8, call(16)), (10, UND)]
    program = kernel(code, rows, [("f", 0, 6), ("g", 7, 3)])
    assert "text/step f+0x1" not in rules(program)


def test_a_last_call_ends_where_both_states_agree() -> None:
    """No step fails behind it, yet control does not run on into the next function.

    That is a part of another one, whose stack is less deep under the same state.
    """
    # f: push %rbp; mov %rsp,%rbp; push %rbx; call die
    # g.cold: pop %rbp; ret; g: push %rbp; mov %rsp,%rbp; jmp g.cold; die: ud2
    code = "55 4889e5 53 e808000000" + "5d c3" + "55 4889e5 ebf8" + "0f0b"
    framed = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
    rows = [(0, IN), (1, call(16, -16)), (4, framed), (11, IN)]
    rows += [(13, call(16, -16)), (16, framed), (18, IN), (20, UND)]
    names = [("f", 0, 10), ("g.cold", 10, 2), ("g", 12, 6), ("die", 18, 2)]
    assert rules(kernel(code, rows, names)) == []


def module(name: str, *, exports: str = "") -> bytes:
    """A module whose last instruction calls ``name``; ``exports`` is what it offers."""
    writer = ElfWriter()
    code = bytes.fromhex("e800000000")
    text = writer.section(".text", code, flags=ALLOC | EXEC)
    function = writer.symbol(exports or "f", text, 0, 5)
    away = writer.symbol(name, UNDEF, kind=0)
    writer.relocation(text, 1, R_PLT32, away, -4)
    add_orc(writer, text, [(0, IN), (5, UND)])
    if exports:
        strings = writer.section("__ksymtab_strings", exports.encode() + b"\0")
        table = writer.section("__ksymtab", bytes(12))
        writer.relocation(table, 0, R_PC32, function)
        named = writer.symbol("", strings, kind=3, binding=0)
        writer.relocation(table, 4, R_PC32, named)
    return writer.build()


def exporting(code: str) -> bytes:
    """A kernel that exports ``die``, whose code this is."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex(code), flags=ALLOC | EXEC)
    function = writer.symbol("die", text, 0, len(code) // 2)
    add_orc(writer, text, [(0, IN), (len(code) // 2, UND)])
    strings = writer.section("__ksymtab_strings", b"die\0")
    table = writer.section("__ksymtab", bytes(12))
    writer.relocation(table, 0, R_PC32, function)
    writer.relocation(table, 4, R_PC32, writer.symbol("", strings, kind=3, binding=0))
    return writer.build()


def test_modules_rely_on_their_kernel(tmp_path: Path) -> None:
    """What a module needs of the kernel is answered by the kernel's own code."""
    (tmp_path / "a.ko").write_bytes(module("die"))
    kernels = {"silent": exporting("0f0b"), "back": exporting("c3")}
    for name, data in kernels.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / "a.ko"]
    (alone,) = check_many(paths, archived=False)
    assert alone.verdict is not None
    assert not alone.verdict.findings
    assert [r.name for r in alone.verdict.reliances] == ["die"]
    (good,) = check_many(paths, beside=[tmp_path / "silent"], archived=False)
    assert good.verdict is not None
    assert (good.verdict.findings, good.verdict.reliances) == ((), ())
    (bad,) = check_many(paths, beside=[tmp_path / "back"], archived=False)
    assert bad.verdict is not None
    assert [f.key for f in bad.verdict.findings] == ["text/step:callee die"]


def test_a_last_call_relies_on_its_kernel(tmp_path: Path) -> None:
    """Where the next function starts in the call's state, too."""
    writer = ElfWriter()
    code = bytes.fromhex("e800000000" + "c3")
    text = writer.section(".text", code, flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 5)
    writer.symbol("g", text, 5, 1)
    writer.relocation(text, 1, R_PLT32, writer.symbol("die", UNDEF, kind=0), -4)
    add_orc(writer, text, [(0, IN), (6, UND)])
    (tmp_path / "a.ko").write_bytes(writer.build())
    (tmp_path / "back").write_bytes(exporting("c3"))
    paths, beside = [tmp_path / "a.ko"], [tmp_path / "back"]

    (found,) = check_many(paths, beside=beside, archived=False)

    assert found.verdict is not None
    assert [(f.key, f.message) for f in found.verdict.findings] == [
        (
            "text/step:callee die",
            "another function starts behind this call, which may come back",
        )
    ]


def test_modules_rely_on_modules(tmp_path: Path) -> None:
    """A module's function never returns if what it calls never does."""
    (tmp_path / "a.ko").write_bytes(module("halt"))
    (tmp_path / "b.ko").write_bytes(module("die", exports="halt"))
    (tmp_path / "vmlinux").write_bytes(exporting("0f0b"))
    paths = [tmp_path / name for name in ("a.ko", "b.ko", "vmlinux")]
    for checked in check_many(paths, archived=False):
        assert checked.verdict is not None
        assert (checked.verdict.findings, checked.verdict.reliances) == ((), ())


def test_the_kernel_given_with_one_program(tmp_path: Path) -> None:
    """One module is validated against a kernel that is loaded already."""
    one = parse(module("die"), "a.ko", tmp_path / "a.ko")
    for code, count in (("0f0b", 0), ("c3", 1)):
        vmlinux = parse(exporting(code), "vmlinux", tmp_path / "vmlinux")
        assert len(check(one, vmlinux=vmlinux).findings) == count


def test_rows_of_calls_that_end() -> None:
    """The calls are known by their rows."""
    assert flow_of(columns_of(calling("0f0b"))).ends.tolist() == [1]

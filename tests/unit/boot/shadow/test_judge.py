"""What the plugin left becomes columns, counts and findings."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from msgspec.structs import replace

from harness.boot.shadow import judge
from harness.boot.shadow.code import Code, code_of
from harness.boot.shadow.record import Mismatch, parse
from harness.elf.orc import OrcFormat, OrcReg, OrcTable, OrcType
from harness.elf.program import Program
from harness.errors import InfraError
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    UND,
    ElfWriter,
    add_orc,
    call,
)

GOOD = {"misread": 0, "control_seen": 1, "control_clean": 1}


def report(**counts: int) -> bytes:
    lines = [f"{name} {count}" for name, count in {**GOOD, **counts}.items()]
    return "\n".join([*lines, "end", ""]).encode()


def places(*rows: tuple[int, ...]) -> bytes:
    """Return what is left of (pc, verified, other, row of the table)."""
    whole = [(*row, 0)[:4] for row in rows]
    return b"".join(struct.pack("<3Qq16s", *row, b"\x90") for row in whole)


def module(name: str, first_row: int, *ip: int) -> bytes:
    return struct.pack(f"<56s2Q{len(ip)}Q", name.encode(), first_row, len(ip), *ip)


def test_the_record_is_sorted_columns() -> None:
    """The plugin writes in the order of its hash."""
    line = b"mismatch cfa 0x10 1 7 0x100 0x108 0xf8 0xc 0 0x9\n"
    found = parse(line + report(), places((0x20, 1, 2), (0x10, 3, 4)))

    assert found.pc.tolist() == [0x10, 0x20]
    assert found.verified.tolist() == [3, 1]
    assert found.other.tolist() == [4, 2]
    assert found.executed.tolist() == [7, 3]
    assert found.code.tolist() == [[0x90] + [0] * 15] * 2
    assert found.mismatches == (Mismatch("cfa", 16, 1, 7, 256, 264, 248, 12, 0, 9),)
    assert found.counts == GOOD


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"", b""),
        (b"verified 1\n", b""),
        (report(), b"1234567"),
        (b"verified x\nend\n", b""),
        (b"mismatch cfa 0x10 1 7\nend\n", b""),
        (b"mismatch\nend\n", b""),
    ],
)
def test_a_record_that_is_not_whole_is_no_verdict(text: bytes, rows: bytes) -> None:
    """QEMU was killed while it wrote, or did not write at all."""
    with pytest.raises(InfraError, match="plugin"):
        parse(text, rows)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({}, ""),
        ({"misread": 1}, "took %rsp for unchanged 1 times"),
        ({"modules_unread": 2}, "the tables of 2 modules"),
        ({"control_seen": 0}, "control did not fail"),
        ({"control_clean": 0}, "not verified again"),
    ],
)
def test_what_makes_a_run_no_verdict(counts: dict[str, int], reason: str) -> None:
    """Our own faults are never the kernel's."""
    found = parse(report(**counts), places((0x10, 5, 0)))

    assert reason in judge.reason_against(found, least=5)
    assert bool(judge.reason_against(found, least=5)) == bool(reason)
    assert "only 5 claims" in judge.reason_against(replace(found, counts=GOOD), least=6)


BASE, LOADED = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000


def orc_table() -> OrcTable:
    """entry: regs(partial) at +0, call at +4; handler: no state."""
    kinds = [OrcType.REGS_PARTIAL, OrcType.CALL, OrcType.UNDEFINED]
    return OrcTable(
        ip=np.array([BASE, BASE + 4, BASE + 8], dtype=np.uint64),
        sp_offset=np.array([8, 16, 0], dtype=np.int16),
        bp_offset=np.zeros(3, dtype=np.int16),
        sp_reg=np.array([OrcReg.SP, OrcReg.SP, 0], dtype=np.uint8),
        bp_reg=np.zeros(3, dtype=np.uint8),
        type=np.array(kinds, dtype=np.uint8),
        signal=np.array([True, False, False]),
        raw=np.zeros(3, dtype=np.uint16),
        format=OrcFormat.V3,
        from_header=True,
    )


def linked() -> Program:
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", bytes(16), address=BASE, flags=ALLOC | EXEC)
    writer.symbol("entry", text, BASE, 8)
    writer.symbol("callee", text, BASE + 8, 8)
    return writer.program("vmlinux")


def test_each_entry_has_its_counts() -> None:
    """An instruction counts for the entry that holds there, foreign text for none."""
    rows = [(BASE, 1, 0, 0), (BASE + 2, 10, 5, 0), (BASE + 9, 0, 7, 2)]
    rows += [(BASE + 0x99, 0, 3, -1), (LOADED, 6, 1, 4), (LOADED + 1, 0, 2, 4)]
    loaded = module("late", 5, LOADED + 64) + module("early", 3, LOADED - 8, LOADED)
    found, table = parse(report(), places(*rows), loaded), orc_table()
    seen = judge.seen(found, table)

    assert seen.executed.tolist() == [16, 0, 7]
    assert seen.verified.tolist() == [11, 0, 0]
    counts = judge.counts(found, table, seen)
    assert counts["verified"] == 17
    assert counts["modules_with_a_table"] == 2
    assert counts["verified_in_modules"] == 6
    assert counts["module_entries_verified"] == 1
    assert [one.name for one in found.modules] == ["early", "late"]
    assert (counts["without_a_state"], counts["without_a_table"]) == (7, 3)


def mismatch(pc: int, row: int, claim: str = "cfa", **more: int) -> bytes:
    usual = {"count": 2, "claimed": 0x100, "truth": 0x178, "rsp": 0xF8}
    usual |= {"previous": BASE, "returned": 0, "caller": 0, **more}
    words = ("mismatch", claim, pc, row, *usual.values())
    return " ".join(map(str, words)).encode() + b"\n"


def test_a_finding_for_each_entry_that_was_wrong() -> None:
    """Its instructions are places of one; what would be right is said."""
    lines = mismatch(BASE + 2, 0) + mismatch(BASE, 0) + mismatch(BASE + 4, 1, truth=0)
    found = parse(lines + report(), b"")
    first, second = judge.findings(found, Code(linked(), orc_table()), "native")

    assert str(first.location) == "entry"
    assert first.declared == "sp+8 regs(partial)"
    assert first.actual == "sp+128 regs(partial)"
    assert any("entry+0x2: 2 times" in line for line in first.window)
    assert (second.declared, second.actual) == ("sp+16 call", "no frame is there")
    assert first.cause == second.cause == ""


def test_a_callee_that_moved_the_stack_is_the_cause() -> None:
    """In the words of the static finding, so that one entry of the baseline has both."""
    found = parse(mismatch(BASE, 0, returned=BASE + 8) + report(), b"")
    (finding,) = judge.findings(found, Code(linked(), orc_table()), "native")

    assert finding.key == "shadow/cfa:callee callee under sp+8 regs(partial)"


@pytest.mark.parametrize(
    ("register", "truth", "cause"),
    [
        (OrcReg.DX, 0x108, "offset ignored under dx+8 regs(partial)"),
        (OrcReg.DX, 0x110, ""),
        (OrcReg.SP, 0x108, ""),
    ],
)
def test_an_offset_that_the_unwinder_ignores(
    register: OrcReg, truth: int, cause: str
) -> None:
    """Only where it adds none, and only if the offset is all that is missing."""
    table = replace(orc_table(), sp_reg=np.array([register, OrcReg.SP, 0], np.uint8))
    lines = mismatch(BASE, 0, truth=truth) + mismatch(BASE + 2, 0, truth=truth)
    (finding,) = judge.findings(
        parse(lines + report(), b""), Code(linked(), table), "native"
    )

    assert finding.cause == cause
    assert finding.actual.endswith("added its offset") == bool(cause)


def test_a_lost_frame_pointer_is_a_rule_of_its_own() -> None:
    """The same entry may be wrong in both."""
    lines = mismatch(BASE, 0) + mismatch(BASE, 0, "bp", claimed=1, truth=0xBEEF)
    found = parse(lines + report(), b"")
    first, second = judge.findings(found, Code(linked(), orc_table()), "native")

    assert (first.rule, second.rule) == ("shadow/bp", "shadow/cfa")
    assert first.actual == "%rbp was 0xbeef at the call"


def test_a_finding_in_a_module_is_where_its_file_has_it() -> None:
    """Its rows are those of its file, wherever each of its sections was loaded."""
    writer = ElfWriter()
    first = writer.section(".text", b"\x90\xc3", flags=ALLOC | EXEC)
    second = writer.section(".init.text", b"\x90\xc3", flags=ALLOC | EXEC)
    writer.symbol("early", second, 0, 2)
    writer.symbol("late", first, 0, 2)
    add_orc(writer, second, [(0, call(8)), (1, call(24)), (2, UND)])
    ip = (LOADED, LOADED + 1, LOADED + 2)
    line = mismatch(LOADED + 1, 4, truth=0x108)
    found = parse(line + report(), b"", module("a_b", 3, *ip))
    files = {"a-b.ko": writer.build()}
    code = code_of(linked(), orc_table(), files, found.modules)
    (finding,) = judge.findings(found, code, "native")

    assert str(finding.location) == "early+0x1"
    assert finding.location.object == "a-b.ko"
    assert (finding.declared, finding.actual) == ("sp+24 call", "sp+32 call")
    assert any("behind entry" in line for line in finding.window)
    twice = module("a_b", 6, *ip) + module("a_b", 3, *ip)
    again = parse(line + report(), b"", twice).modules
    (finding,) = judge.findings(
        found, code_of(linked(), orc_table(), files, again), "native"
    )
    assert finding.declared == "sp+24 call"
    with pytest.raises(InfraError, match="'a_b' with 3 entries"):
        code_of(linked(), orc_table(), {}, found.modules)


def test_modules_that_are_cut_are_no_verdict() -> None:
    """QEMU was killed while it wrote them."""
    whole = module("m", 3, LOADED)
    for size in (len(whole) - 1, 40):
        with pytest.raises(InfraError, match="more of modules"):
            parse(report(), b"", whole[:size])

"""Alternative sites: what must be found, and what must not."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.patch.nops import K8_NOPS
from harness.verify.check import check
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_orc,
    call,
    regs,
)
from tests.builders.site import ALWAYS, SITE, SMAP, XENPV, Replacement, a_site

PV_CALL = bytes.fromhex("ff1500000000")  # call *pv_ops+n(%rip)
PUSHF_POP = bytes.fromhex("9c58")  # pushf; pop %rax
SAVE_FL = Replacement(PUSHF_POP, XENPV, flags=1)
PUSHED = call(16)


def found(program: Program) -> tuple[Finding, ...]:
    """The findings about sites of a whole validation."""
    findings = check(program).findings
    return tuple(f for f in findings if not f.rule.startswith("text/"))


def rules(program: Program) -> list[str]:
    """Their rules, with the offset in the site."""
    return [f"{f.rule}+{f.location.offset - SITE}" for f in found(program)]


def test_paravirt_site_with_its_entries_is_clean() -> None:
    """`pushf; pop` under `call *pv_ops`, table as objtool writes it: no finding."""
    inside = [(1, PUSHED), (2, call(8))]
    assert rules(a_site(PV_CALL, [SAVE_FL], inside)) == []


def test_missing_entry_of_a_replacement() -> None:
    """BUGS C.1 #2: without the entry behind pushf, native unwinds wrongly there."""
    (finding,) = found(a_site(PV_CALL, [SAVE_FL]))
    assert finding.rule == "alternative/state"
    assert str(finding.location) == "victim+0x5"
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")
    assert finding.variant == "replacement 1 of 1 (not XENPV)"
    assert finding.platforms == ("kvm", "native", "vsmp")


def test_undefined_entry_inside_original_nops() -> None:
    """BUGS C.1 #1: an undefined entry in NOPs that nothing else gave a state."""
    inside = [(1, UND), (2, call(8))]
    program = a_site(b"\x90" * 3, [Replacement(bytes.fromhex("0f01ca"))], inside)
    (finding,) = found(program)
    assert finding.rule == "alternative/entry"
    assert (finding.declared, finding.actual) == ("(und)", "sp+8 call")


def test_two_replacements_clash() -> None:
    """BUGS C.1 #4: replacements of one site are compared with each other, too."""
    push_pop = Replacement(bytes.fromhex("5058"))
    cld_cld = Replacement(bytes.fromhex("fcfc"), XENPV)
    inside = [(1, PUSHED)]
    (finding,) = found(a_site(b"\x90" * 2, [push_pop, cld_cld], inside))
    assert finding.rule == "alternative/conflict"
    assert finding.variant == "replacement 2 of 2 (XENPV)"
    assert finding.platforms == ("xen",)
    assert any("replacement 1 SMAP: sp+16 call" in line for line in finding.window)


# 4 bytes without effect under 12 bytes of padding; at +12 the original has pushed.
PADDED = Replacement(bytes.fromhex("0f0100fc"))
PUSH_AT_11 = bytes.fromhex("0f1f8400000000000f0100" + "50" + "58" + "fcfcfc")
AT_12 = [(12, PUSHED), (13, call(8))]


def test_padding_of_twelve_bytes_as_two_nops() -> None:
    """BUGS C.1 #5: NOPs of 8 and 4 bytes have a boundary where another text pushed."""
    (finding,) = found(a_site(PUSH_AT_11, [PADDED], AT_12, size=12))
    assert finding.rule == "alternative/conflict"
    assert finding.location.offset - SITE == 12
    assert finding.variant.startswith("replacement 1")


def test_padding_of_twelve_bytes_as_a_jump() -> None:
    """The same site is right where the kernel jumps over so long a padding."""
    assert rules(a_site(PUSH_AT_11, [PADDED], AT_12, size=14)) == []


def test_entry_at_a_boundary_of_a_replacement_only() -> None:
    """BUGS C.1 #13: an entry inside the original's one instruction is legal."""
    inside = [(1, PUSHED), (2, call(8))]
    program = a_site(PV_CALL, [SAVE_FL], inside)
    assert not [f for f in found(program) if f.rule.startswith("table/")]


def test_entry_that_fits_no_text() -> None:
    """A state in the padding that no text ever has is nobody's."""
    inside = [(1, PUSHED), (2, call(8)), (4, call(24)), (5, call(8))]
    assert rules(a_site(PV_CALL, [SAVE_FL], inside)) == ["alternative/entry+4"]


def test_entry_at_no_boundary_of_any_text() -> None:
    """An entry where no instruction of any text starts is reported as such."""
    nopw = Replacement(bytes.fromhex("660f1f440000"))
    inside = [(4, PUSHED), (5, call(8))]
    found_rules = rules(a_site(PV_CALL, [nopw], inside))
    assert "table/boundary+4" in found_rules
    assert "table/boundary+5" in found_rules


def test_the_january_example() -> None:
    """LKML 20210104154818.GB3040: the call's frame unwinds by the pop's entry."""
    inline = Replacement(bytes.fromhex("9c" + "0f1f4000" + "58"))  # pushf; nopl; pop
    inside = [(1, PUSHED)]
    (finding,) = found(a_site(PV_CALL, [inline], inside))
    assert finding.rule == "alternative/ret-1"
    assert finding.variant == "original"
    assert (finding.declared, finding.actual) == ("sp+16 call", "sp+8 call")
    assert finding.location.offset - SITE == 5


def test_direct_call_is_shorter() -> None:
    """A paravirt call made direct returns at +5: its last byte is +4."""
    direct = Replacement(bytes.fromhex("e800000000"), ALWAYS, flags=2)
    inline = Replacement(bytes.fromhex("9c" + "0f1f00" + "58"), XENPV, flags=1)
    inside = [(1, PUSHED), (5, call(8))]
    (finding,) = found(a_site(PV_CALL, [direct, inline], inside))
    assert finding.rule == "alternative/ret-1"
    assert finding.variant == "replacement 1 of 2 (ALWAYS)"


def test_text_that_leaves_the_site_unbalanced() -> None:
    """A replacement that pushes and does not pop leaves the site wrong."""
    (finding,) = found(a_site(b"\x90\x90", [Replacement(b"\x50\xfc")], [(1, PUSHED)]))
    assert finding.rule == "alternative/end"
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")


def test_hidden_push_under_a_frame_pointer() -> None:
    """Where the CFA is counted from %rbp, a lost pop shows in %rsp alone."""
    frame = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
    program = a_site(b"\xfc\xfc", [Replacement(b"\x50\xfc")], start=frame, after=frame)
    (finding,) = found(program)
    assert finding.rule == "alternative/stack"
    assert "-8 bytes" in finding.message


def test_return_stack_stuffing() -> None:
    """Calls within the site push; nobody returns to the int3 behind them."""
    stuffing = bytes.fromhex("e801000000cc" + "4883c408")  # call 1f; int3; 1: add $8
    inside = [(6, PUSHED)]
    program = a_site(b"\xeb\x08" + b"\x90" * 8, [Replacement(stuffing)], inside)
    assert rules(program) == []


def test_jump_out_with_another_state() -> None:
    """A jump out of the site must find at its target what it brings."""
    # push; jmp other, which is at 0x20 of .text
    jump = b"\x50\xe9" + (0x20 - (SITE + 6)).to_bytes(4, "little")
    program = a_site(
        jump + b"\xcc",
        [Replacement(bytes.fromhex("0f1f8000000000"))],
        [(1, PUSHED)],
        functions=[
            ("filler", b"\xc3", [(0, call(8))]),
            ("other", b"\xc3", [(0, call(8))]),
        ],
    )
    (finding,) = found(program)
    assert finding.rule == "alternative/exit"
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")


def test_callee_that_moves_the_stack() -> None:
    """A callee's own table tells that it returns with %rsp moved (error_entry).

    Another state at the call is another bug.
    """
    # push over the return address, as error_entry() does: xchg, push, ret
    helper = ("saver", bytes.fromhex("5056c3"), [(0, call(8)), (2, regs(8))])
    length = 8
    behind = SITE + length + 1
    at = behind + (-behind % 16)
    code = b"\xe8" + (at - (SITE + 5)).to_bytes(4, "little") + b"\xfc\xfc\xfc"
    program = a_site(code, [Replacement(b"\xfc")], after=regs(0), functions=[helper])
    findings = found(program)
    states = [f for f in findings if f.variant == "original"]
    assert [f.rule for f in states] == ["alternative/state"]
    assert states[0].cause == "callee saver under sp+8 call"
    assert (states[0].declared, states[0].actual) == ("sp+8 call", "sp+0 regs")


def test_torn_replacement() -> None:
    """A replacement that is cut off inside an instruction is no text."""
    program = a_site(b"\x90" * 3, [Replacement(bytes.fromhex("ff1500"))])
    assert [f.rule for f in found(program)] == ["alternative/boundary"]


def test_undefined_site_is_counted_as_blind() -> None:
    """Where the table says nothing at the start, nothing is judged, and it shows."""
    verdict = check(a_site(b"\x90\x90", [Replacement(b"\x50\xfc")], start=UND))
    assert not [f for f in verdict.findings if not f.rule.startswith("text/")]
    assert verdict.counts["blind sites"] == 1


def test_same_defect_has_one_cause() -> None:
    """Frame size and place do not make another cause; another offset does."""
    one = found(a_site(PV_CALL, [SAVE_FL]))[0]
    bigger = found(a_site(PV_CALL, [SAVE_FL], start=call(40), after=call(40)))[0]
    assert one.cause == bigger.cause
    clash = found(a_site(PV_CALL, [SAVE_FL], [(1, PUSHED), (2, PUSHED)]))
    assert one.cause not in {finding.cause for finding in clash}


@pytest.mark.parametrize("size", [12, 13, 14])
def test_evidence_fits(size: int) -> None:
    """Every window is at most 25 lines of 100 columns, with one arrow."""
    program = a_site(b"\xfc" * 60, [Replacement(b"\x50" + b"\xfc" * 50)], size=size)
    findings = found(program)
    assert findings
    for finding in findings:
        assert len(finding.window) <= 25
        assert max(map(len, finding.window)) <= 100
        assert sum(line.startswith("->") for line in finding.window) == 1
        assert finding.window[0].rstrip().endswith("ORC")


def site_calling(
    function: tuple[str, bytes, Sequence[tuple[int, OrcEntry]]],
    inside: Sequence[tuple[int, OrcEntry]],
    after: OrcEntry,
) -> Program:
    """A site whose original is a call of ``function`` and whose replacement ends."""
    behind = SITE + 5 + 1
    at = behind + (-behind % 16)
    original = b"\xe8" + (at - (SITE + 5)).to_bytes(4, "little")
    dead = Replacement(bytes.fromhex("0f0b"))
    return a_site(original, [dead], inside, after=after, functions=[function])


def test_callee_that_never_returns() -> None:
    """Behind a call that does not return no state is wrong."""
    dead = ("dead", bytes.fromhex("0f0b"), [(0, call(8))])
    assert rules(site_calling(dead, [], call(40))) == []
    back = ("back", b"\xc3", [(0, call(8))])
    assert rules(site_calling(back, [], call(40))) == ["alternative/end+5"]


def test_callee_whose_exits_differ() -> None:
    """Where a callee's own table gives no one answer, the site's is taken."""
    odd = ("odd", bytes.fromhex("7401c3c3"), [(0, regs(8)), (3, regs(16))])
    assert rules(site_calling(odd, [], regs(0))) == []


def test_loop_that_grows_the_stack() -> None:
    """A path back to an instruction must bring the state that was there."""
    loop = Replacement(bytes.fromhex("50" + "75fd" + "58"))  # 1: push; jne 1b; pop
    program = a_site(b"\x90" * 4, [loop], [(1, PUSHED)])
    (finding,) = found(program)
    assert finding.rule == "alternative/loop"
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")


def test_unknown_write_of_the_stack_pointer() -> None:
    """After `mov %rax,%rsp` the text does not tell: the table's word is taken."""
    switch = Replacement(bytes.fromhex("4889c4"))
    assert rules(a_site(b"\x90" * 3, [switch])) == []
    pushed = Replacement(bytes.fromhex("4889c4" + "50"))
    # known again from the push on
    assert rules(a_site(b"\xfc" * 4, [pushed])) == ["alternative/end+4"]


def test_text_that_never_runs_excuses_nothing() -> None:
    """The table fits a replacement for "not ALWAYS": wrong for the one that runs."""
    never = Replacement(bytes.fromhex("5058"), ALWAYS, flags=1)
    program = a_site(b"\x90" * 2, [Replacement(b"\xfc\xfc"), never], [(1, PUSHED)])
    (finding,) = found(program)
    assert finding.rule == "alternative/state"
    assert finding.variant == "replacement 1 of 2 (SMAP)"
    program = a_site(b"\x90" * 2, [Replacement(b"\xfc\xfc"), never])
    assert rules(program) == []


def test_return_with_a_word_too_many() -> None:
    """A replacement that pushes and returns goes nowhere."""
    program = a_site(b"\xfc\xfc", [Replacement(bytes.fromhex("50c3"))])
    rules_ = {f.rule for f in found(program)}
    assert "alternative/exit" in rules_
    early = Replacement(bytes.fromhex("c3"))
    assert rules(a_site(b"\xfc\xfc", [early])) == []


def a_kernel(
    original: bytes,
    replacement: bytes,
    inside: Sequence[tuple[int, OrcEntry]],
    *,
    size: int = 14,
    rodata: bytes = b"",
    tail: bytes = b"\xc3",
) -> Program:
    """A linked kernel with one site at the start of ``victim``."""
    writer = ElfWriter(ET_EXEC)
    base = 0xFFFFFFFF81000000
    text = original + tail
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=base)
    writer.symbol("victim", section, base, len(text))
    if rodata:
        writer.section(".rodata", rodata, address=base + 0x4000)
    code = base + 0x1000
    writer.section(
        ".altinstr_replacement", replacement, flags=ALLOC | EXEC, address=code
    )
    row = Alternative(0, 0, SMAP, len(original), len(replacement))
    table = base + 0x2000
    fields = bytearray(row.pack(size))
    fields[0:4] = struct.pack("<i", base - table)
    fields[4:8] = struct.pack("<i", code - (table + 4))
    writer.section(".altinstructions", bytes(fields), address=table)
    entries = [(0, call(8)), *inside, (len(text), UND)]
    add_orc(writer, section, entries, address=base + 0x3000)
    return writer.program("vmlinux")


# pushf; pop %rax; clac over five NOPs: smap_save()
SMAP_SAVE = bytes.fromhex("9c580f01ca")


def test_nops_that_wait_for_their_replacement() -> None:
    """Until alternatives are applied, the original's NOPs run under its entries."""
    inside = [(1, PUSHED), (2, call(8))]
    (finding,) = found(a_kernel(b"\x90" * 5, SMAP_SAVE, inside))
    assert finding.key == "alternative/unpatched:NOPs under SMAP"
    assert (finding.declared, finding.actual) == ("sp+16 call", "sp+8 call")
    assert finding.variant == "original, before its NOPs are merged"
    # a module's sites are patched before it runs
    assert rules(a_site(b"\x90" * 5, [Replacement(SMAP_SAVE)], inside)) == []


def test_replacement_whose_nops_are_merged_in_place() -> None:
    """E2 writes NOPs of one byte first: each is a place to be interrupted at."""
    # the original pushes at +4; the replacement has padding there
    original = bytes.fromhex("0f1f4000" + "50" + "58")
    inside = [(5, PUSHED), (6, call(8))]
    (finding,) = found(a_kernel(original, b"\xfc", inside, size=12))
    assert finding.rule == "alternative/unpatched"
    assert finding.variant.startswith("replacement 1 of 1 (SMAP)")
    assert found(a_kernel(original, b"\xfc", inside)) == ()


def test_nops_of_another_vendor() -> None:
    """NOPs of five bytes are two instructions where the CPU is AMD's family 15."""
    original = bytes.fromhex("0f1f00" + "50" + "58")
    inside = [(4, PUSHED), (5, call(8))]
    program = a_kernel(original, b"\x0f\x1f\x00", inside, size=12)
    (finding,) = found(program)  # only 0x90 twice, in place
    assert finding.rule == "alternative/unpatched"
    eight = bytes.fromhex("0f1f4000" + "50" + "58" + "0f1f00")
    inside = [(5, PUSHED), (6, call(8))]
    k8 = b"".join(code for codes in K8_NOPS for code in codes)
    old = a_kernel(eight, b"\xfc", inside, size=12, rodata=k8)
    kinds = {f.rule: f.variant for f in found(old)}
    assert kinds["alternative/state"].endswith(", K8 NOPs")
    assert "alternative/state" not in {
        f.rule for f in found(a_kernel(eight, b"\xfc", inside, size=12))
    }


PUSHES = [(6, PUSHED), (7, call(24)), (8, PUSHED), (9, call(8))]


def test_a_jump_that_lands_near_its_site() -> None:
    """Where addresses need 64 bits, what lies near a site is not in it."""
    jump = b"\xe9" + struct.pack("<i", 7 - (0x1000 + 5))
    program = a_kernel(b"\x90" * 5, jump, PUSHES, tail=b"\x50\x50\x58\x58\xc3")
    assert [f.rule for f in found(program) if "exit" in f.rule] == ["alternative/exit"]


def test_nested_entries_in_a_kernel_that_does_not_know_them() -> None:
    """Before 6.11 each entry is padded to its own length, and a tail stays."""
    entries = [Replacement(b"\xfc", instrlen=2), Replacement(b"\xfc\xfc", XENPV)]
    findings = found(a_site(b"\x90" * 6, entries, size=12))
    (finding,) = [f for f in findings if f.rule == "alternative/boundary"]
    assert "2 and 6 bytes" in finding.message
    assert finding.location.offset == SITE + 2
    assert not [f for f in rules(a_site(b"\x90" * 6, entries)) if "boundary" in f]

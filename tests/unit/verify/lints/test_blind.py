"""Functions of which the table says nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from harness.elf.symbol import STT_FUNC, STT_NOTYPE
from harness.verify.columns import Part, read_columns
from harness.verify.lints.blind import check_blind
from tests.builders.elfwriter import (
    ALLOC,
    END,
    EXEC,
    R_64,
    UND,
    ElfWriter,
    add_orc,
    call,
)
from tests.builders.site import SITE, Replacement, a_site

# push %rbx; xor %eax,%eax; pop %rbx; ret
BODY = bytes.fromhex("53 31c0 5b c3")
NAMES = Features({}, 0, "test")


def parts(program: Program) -> Part:
    """What the check says."""
    columns = read_columns(program, NAMES)
    assert columns is not None
    return check_blind(columns)


def names(program: Program) -> list[str]:
    """The functions that it finds."""
    return [finding.location.symbol for finding in parts(program).findings]


def program(
    pieces: Sequence[tuple[str, bytes, bool]],
    explained: Sequence[int] = (),
    blind: OrcEntry = UND,
    kinds: Mapping[str, int] = MappingProxyType({}),
    known: OrcEntry | None = None,
) -> Program:
    """Pieces of code, 16 bytes apart: (name, code, has a state), "" for no symbol.

    What has no state has the entry ``blind``, what has one ``known`` (sp+8 call);
    ``kinds`` of symbols are by name.
    """
    writer = ElfWriter()
    text, rows = bytearray(), list[tuple[int, OrcEntry]]()
    for _, code, has in pieces:
        rows.append((len(text), (known or call(8)) if has else blind))
        text += code.ljust(16, b"\xcc")
    rows.append((len(text), UND))
    section = writer.section(".text", bytes(text), flags=ALLOC | EXEC)
    for n, (name, code, _) in enumerate(pieces):
        if name:
            kind = kinds.get(name, STT_FUNC)
            writer.symbol(name, section, 16 * n, len(code), kind=kind)
    if explained:
        non_standard = ".discard.func_stack_frame_non_standard"
        table = writer.section(non_standard, bytes(8 * len(explained)))
        local = writer.symbol("", section, kind=3, binding=0)
        for n, at in enumerate(explained):
            writer.relocation(table, 8 * n, R_64, local, at)
    add_orc(writer, section, rows)
    return writer.program("test.o")


def test_a_function_without_a_state() -> None:
    """It is found, its neighbours are not."""
    some = program([("f", BODY, True), ("g", BODY, False), ("h", BODY, True)])
    assert names(some) == ["g"]
    assert parts(some).counts == {"functions": 3, "blind functions": 1}
    (finding,) = parts(some).findings
    assert finding.message.startswith("the table says nothing of its 5 bytes")


def test_a_function_that_ends_the_stack() -> None:
    """The caller is lost as well, unless the function loads a stack of its own."""
    assert names(program([("f", BODY, True), ("g", BODY, False)], blind=END)) == ["g"]
    # mov 0(%rip),%rsp; jmp .; the same behind a push
    start = bytes.fromhex("488b2500000000 ebfe")
    assert names(program([("start_cpu0", start, False)], blind=END)) == []
    assert names(program([("g", b"\x53" + start, False)], blind=END)) == ["g"]
    assert names(program([("g", start, False)])) == ["g"]


def test_an_end_is_not_nothing() -> None:
    """What says nothing of a function has another key than what ends its stack."""
    (end,) = parts(program([("f", BODY, False)], blind=END)).findings
    (nothing,) = parts(program([("f", BODY, False)])).findings
    assert end.key == "blind/end:test.o:f:-:0"
    assert end.message.startswith("the table ends the stack in its 5 bytes")
    assert nothing.key == "blind/function:test.o:f:-:0"
    assert nothing.message.startswith("the table says nothing of its 5 bytes")


def test_an_entry_of_assembly_without_a_state() -> None:
    """What hardware enters is no function to the assembler; without a size it is a label."""
    pieces = [("f", BODY, True), ("asm_exc_nmi", BODY, False)]
    assert names(program(pieces, kinds={"asm_exc_nmi": STT_NOTYPE})) == ["asm_exc_nmi"]
    label = ElfWriter()
    section = label.section(".text", BODY, flags=ALLOC | EXEC)
    label.symbol("label", section, 0, 0, kind=STT_NOTYPE)
    add_orc(label, section, [(0, UND)])
    assert names(label.program("test.o")) == []


def test_padding_needs_no_state() -> None:
    """A function of traps and NOPs only is none that can be unwound."""
    assert names(program([("f", b"\xcc" * 5, False), ("g", BODY, True)])) == []


def test_a_function_that_is_nothing_but_a_bug() -> None:
    """Who reports it unwinds from there: abort() is an ud2, and an int3 is none."""
    bug = bytes.fromhex("f30f1efa 0f0b")
    assert names(program([("f", BODY, True), ("abort", bug, False)])) == ["abort"]
    assert names(program([("f", BODY, True), ("abort", bug, True)])) == []
    assert names(program([("f", BODY, True), ("g", b"\xcc", False)])) == []


def test_the_source_explains() -> None:
    """STACK_FRAME_NON_STANDARD, as long as the object has it."""
    pieces = [("f", BODY, True), ("g", BODY, False)]
    explained = program(pieces, explained=[16])
    assert names(explained) == []
    assert parts(explained).counts["blind functions"] == 1
    assert names(program(pieces, explained=[0])) == ["g"]


def test_what_is_left_of_a_weak_function() -> None:
    """A cold part that only code without a symbol and without a state jumps to."""
    jump = b"\xe9\x0b\0\0\0"  # over its padding, to the next piece
    assert names(program([("", jump, False), ("f.cold", BODY, False)])) == []
    assert names(program([("f", jump, False), ("f.cold", BODY, False)])) == [
        "f",
        "f.cold",
    ]
    assert names(program([("", jump, True), ("f.cold", BODY, False)])) == ["f.cold"]
    assert names(program([("", BODY, False), ("f.cold", BODY, False)])) == ["f.cold"]


def turns(
    code: str, *rows: tuple[int, OrcEntry], labels: Sequence[int] = ()
) -> list[tuple[int, str, str]]:
    """Where one function's states turn: (offset, what it has, what leads there)."""
    writer = ElfWriter()
    text = bytes.fromhex(code)
    section = writer.section(".text", text, flags=ALLOC | EXEC)
    writer.symbol("f", section, 0, len(text))
    for at in labels:
        writer.symbol(f"label{at}", section, at, 0, kind=STT_NOTYPE)
    add_orc(writer, section, [*rows, (len(text), UND)])
    findings = parts(writer.program("test.o")).findings
    return [
        (finding.location.address, finding.declared, finding.actual)
        for finding in findings
        if finding.rule == "blind/step"
    ]


# endbr64; mov $-38,%eax; sysretl; int3
ENTRY = "f30f1efa b8daffffff 0f07 cc"


def test_an_end_that_turns_into_nothing() -> None:
    """No instruction makes one of the other: an entry is gone, or too early or late."""
    assert turns(ENTRY, (0, END)) == []
    assert turns(ENTRY, (0, UND)) == []
    assert turns(ENTRY, (0, END), (9, UND)) == [(9, "(und)", "end")]
    assert turns(ENTRY, (0, UND), (4, END)) == [(4, "end", "(und)")]
    assert turns(ENTRY, (0, END), (4, UND), (9, END)) == [
        (4, "(und)", "end"),
        (9, "end", "(und)"),
    ]


def test_a_state_behind_an_end() -> None:
    """A hint tells of the frame from there on: other rules follow it."""
    assert turns(ENTRY, (0, END), (4, call(8))) == []


def test_nothing_behind_what_does_not_go_on() -> None:
    """Padding has no state, behind a return, a hypercall and a call that ends."""
    hypercall = "b817000000 0f05"  # of xen_iret: mov $23,%eax; syscall
    assert turns(ENTRY, (0, END), (11, UND)) == []
    assert turns(f"{hypercall} cc", (0, END), (7, UND)) == []
    assert turns(f"{hypercall} 90", (0, END), (7, UND)) == []
    assert turns(f"{hypercall} 90 c3", (0, END), (7, UND), labels=[8]) == []
    assert turns(f"{hypercall} 90 c3", (0, END), (7, UND)) == [(7, "(und)", "end")]
    assert turns(call_and("cc"), (0, END), (5, UND)) == []
    assert turns(call_and("90"), (0, END), (5, UND)) == []
    assert turns(call_and("c3"), (0, END), (5, UND)) == [(5, "(und)", "end")]
    assert turns(call_and("90"), (0, UND), (5, END)) == [(5, "end", "(und)")]


def call_and(behind: str) -> str:
    """A call of the next instruction, and that."""
    return f"e800000000 {behind}"


def test_padding_in_front_of_an_entry() -> None:
    """It has no state, where a symbol follows; in the middle of code it has one."""
    padded = "c3 90 b8daffffff 0f07"
    assert turns(padded, (0, UND), (2, END), labels=[2]) == []
    assert turns(padded, (0, UND), (2, END)) == [(2, "end", "(und)")]


def test_a_preamble_in_front_of_a_function() -> None:
    """It has no state (kCFI), and leads to what begins with the stack's end."""
    preamble = bytes.fromhex("b878563412")  # mov $0x12345678,%eax
    pieces = [("", preamble.rjust(16, b"\x90"), False), ("f", BODY, True)]
    assert not parts(program(pieces, blind=UND)).findings
    ends = program(pieces, known=END)
    assert [finding.rule for finding in parts(ends).findings] == ["blind/end"]


def test_a_jump_to_an_end() -> None:
    """A jump changes nothing either."""
    jump = "eb01 cc 0f07"
    assert turns(jump, (0, END)) == []
    assert turns(jump, (0, UND), (3, END)) == [(3, "end", "(und)")]
    assert turns(jump, (0, END), (3, UND)) == [(3, "(und)", "end")]
    assert turns(jump, (0, END), (3, call(8))) == []


def test_a_jump_of_a_replacement() -> None:
    """It has no state where it lies, and runs in its site, which has one."""
    jump = bytes.fromhex("e900000000")
    blank = a_site(jump, [Replacement(jump)])
    text, replacement = map(blank.section, (".text", ".altinstr_replacement"))
    assert text is not None
    assert replacement is not None
    to_site = text.address + SITE - (replacement.address + len(jump))
    jump = b"\xe9" + struct.pack("<i", to_site)
    assert not parts(a_site(jump, [Replacement(jump)], start=END, after=END)).findings

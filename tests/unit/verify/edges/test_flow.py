"""Edges between instructions: each kind where it holds, and where it does not."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.verify.check import check
from harness.verify.edges.doubt import Rule
from tests.builders.elfwriter import (
    ALLOC,
    END,
    EXEC,
    R_PC32,
    R_PLT32,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
    regs,
)
from tests.builders.flow import (
    RODATA,
    TABLE,
    TEXT,
    flow,
    kernel,
    orphans,
    relative,
    rules,
)

F = [("f", 0, 0x20)]
IN, PUSHED = call(8), call(16)
FRAME = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)


def test_step() -> None:
    """A push moves the frame: the next entry must say so."""
    code = "53" + "5b" + "c3"
    assert rules(kernel(code, [(0, IN), (1, PUSHED), (2, IN), (3, UND)], F)) == []
    assert rules(kernel(code, [(0, IN), (3, UND)], F)) == ["text/step f"]


def test_step_says_both_sides() -> None:
    """Declared is the table's entry, actual what the instruction leads to."""
    program = kernel("53" + "5b" + "c3", [(0, IN), (3, UND)], F)
    (finding,) = flow(program).findings
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")
    assert any(line.startswith("-> f ") for line in finding.window)
    assert max(map(len, finding.window)) <= 100
    assert len(finding.window) <= 25


def test_the_window_tells_an_end_from_nothing() -> None:
    """The end of the stack is a state that the table has; no state is none."""
    program = kernel("53" + "5b" + "c3", [(0, IN), (1, END), (2, UND)], F)
    window = "\n".join(flow(program).findings[0].window)

    assert re.search(r"f\+0x1 .* end$", window, re.MULTILINE)
    assert re.search(r"f\+0x2 .* \(und\)$", window, re.MULTILINE)


def test_step_off_the_end() -> None:
    """Control must not run on where the table ends."""
    assert rules(kernel("9090", [(0, IN), (2, UND)], F)) == ["text/step f+0x1"]
    assert rules(kernel("90c3" + "90", [(0, IN), (2, UND)], F)) == []


@pytest.mark.parametrize(
    ("preamble", "function", "expected"),
    [
        ("b878563412" + "90", [(6, UND)], []),
        ("5590909090" + "90", [(6, UND)], ["text/step __cfi_f+0x5"]),  # its frame goes
        ("7400909090" + "90", [(6, UND)], ["text/step __cfi_f+0x5"]),  # it is code
        # only the beginning of the function has no state
        ("b878563412" + "90", [(6, UND), (7, IN)], ["text/step __cfi_f+0x5"]),
    ],
)
def test_preamble_of_a_function_without_a_state(
    preamble: str, function: list[tuple[int, OrcEntry]], expected: list[str]
) -> None:
    """kCFI's hash in front of a function is run through into it, as a call enters it."""
    rows = [(0, IN), *function, (8, UND)]
    if preamble.startswith("55"):
        rows.insert(1, (1, PUSHED))
    program = kernel(preamble + "90c3", rows, [("__cfi_f", 0, 6), ("f", 6, 2)])
    assert [rule for rule in rules(program) if "step" in rule] == expected


def test_code_of_a_dropped_weak_function() -> None:
    """No symbol starts it and nothing leads there: it is followed from its beginning."""
    # f: ret; ud2; nop. push %rbx; mov %rsp,%rax; mov %rax,%rsp; pop %rbx; ret
    code = "c3 0f0b 90" + "53 4889e0 4889c4 5b c3"
    rows = [(0, IN), (5, PUSHED), (12, IN), (13, UND)]
    assert rules(kernel(code, rows, [("f", 0, 1)])) == []
    # the same with a push between, of which the table says that it stays
    code = "c3 0f0b 90" + "53 4889e0 50 4889c4 5b c3"
    rows = [(0, IN), (5, PUSHED), (9, call(24)), (13, IN), (14, UND)]
    assert "text/step f+0x9" in rules(kernel(code, rows, [("f", 0, 1)]))


def test_store_of_the_frame_pointer() -> None:
    """`mov %rbp,8(%rsp)` saves it at the place that the entry behind it names."""
    code = "4883ec10" + "48896c2408" + "4883c410" + "c3"
    rows = [(0, IN), (4, call(24)), (9, call(24, -16)), (13, IN), (14, UND)]
    assert "text/step f+0x4" not in rules(kernel(code, rows, F))
    rows[2] = (9, call(24, -24))
    assert rules(kernel(code, rows, F)) == ["text/step f+0x4"]


def test_step_that_drops_signal() -> None:
    """An interrupt's frame stays one: its address is looked up as it is."""
    code = "53" + "5b" + "48cf"  # push; pop; iretq
    rows = [(0, regs(0)), (1, regs(8)), (2, regs(0)), (4, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[1] = (1, replace(regs(8), signal=False))
    assert rules(kernel(code, rows, ())) == ["text/step .text", "text/step .text+0x1"]


def test_step_that_gains_signal() -> None:
    """No instruction makes a trap's frame a fault's."""
    code = "53" + "5b" + "48cf"  # push; pop; iretq
    trap = replace(regs(0), signal=False)
    rows = [(0, trap), (1, replace(regs(8), signal=False)), (2, trap), (4, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[1:3] = [(1, regs(8)), (2, regs(0))]
    assert rules(kernel(code, rows, ())) == ["text/step .text"]


def test_branch_that_gains_registers() -> None:
    """A jump leads from an interrupt's words to no whole pt_regs."""
    code = "4881c480000000" + "eb01" + "cc" + "48cf"  # add $128,%rsp; jmp; int3; iretq
    words = OrcEntry(0, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, True)
    rows = [(0, regs(0)), (7, words), (10, words), (12, UND)]
    assert rules(kernel(code, rows, ())) == []
    rows[2] = (10, regs(-128))
    assert rules(kernel(code, rows, ())) == ["text/branch .text+0x7"]


def test_return_that_may_fault() -> None:
    """That an exception table has a return's place makes it no switch."""
    code = "53" + "c3" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (3, IN), (4, UND)]
    found = rules(kernel(code, rows, F, [ex_table((1, 2))]))
    assert found == ["text/return f+0x1"]


def test_call_of_an_interrupt_that_has_registers() -> None:
    """A call pushes one of the interrupt's words, never the lowest of pt_regs."""
    code = "6a00" * 4 + "e801000000" + "c3" + "48cf"
    words = OrcEntry(0, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, True)
    pushes = [(2 * n, call(8 * n + 8)) for n in range(5)]
    rows = [*pushes, (13, IN), (14, words), (16, UND)]
    assert "text/call f+0x8" not in rules(kernel(code, rows, F))
    rows[-2] = (14, regs(0))
    assert "text/call f+0x8" in rules(kernel(code, rows, F))


def test_branch() -> None:
    """A jump brings its own state to its target."""
    code = "53" + "eb02" + "5bc3" + "c3"  # push; jmp to the last ret
    rows = [(0, IN), (1, PUSHED), (4, IN), (6, UND)]
    assert rules(kernel(code, rows, F)) == ["text/branch f+0x1"]
    good = "53" + "eb00" + "5bc3"
    assert rules(kernel(good, [(0, IN), (1, PUSHED), (4, IN), (5, UND)], F)) == []


def test_call() -> None:
    """What is called starts in the entry state; one callee is one cause."""
    code = "e806000000" * 1 + "e801000000" + "c3" + "c3"
    symbols = [("f", 0, 11), ("g", 11, 1)]
    assert rules(kernel(code, [(0, IN), (12, UND)], symbols)) == []
    found = flow(kernel(code, [(0, IN), (11, PUSHED), (12, UND)], symbols)).findings
    assert {f.rule for f in found} >= {"text/call"}
    calls = [f for f in found if f.rule == "text/call"]
    assert {f.cause for f in calls} == {"callee g"}
    assert calls[0].key == "text/call:callee g"


def test_call_of_nothing() -> None:
    """Nobody answers for what is called where no object has anything."""
    code = "53" + "e800001000" + "5bc3"  # push; call; pop; ret
    rows = [(0, IN), (1, PUSHED), (6, UND)]
    assert rules(kernel(code, rows, F)) == ["text/step f+0x1"]


def test_call_that_only_pushes() -> None:
    """A call to the next instruction leaves its return address on the stack."""
    code = "e801000000" + "cc" + "4883c408" + "c3"
    rows = [(0, IN), (5, UND), (6, PUSHED), (10, IN), (11, UND)]
    assert rules(kernel(code, rows, F)) == []


def test_return() -> None:
    """A return needs the frame as the call made it."""
    assert rules(kernel("53c3", [(0, IN), (1, PUSHED), (2, UND)], F)) == [
        "text/return f+0x1"
    ]


def test_tail() -> None:
    """An indirect jump without a table leaves the function."""
    assert rules(kernel("ffe0", [(0, IN), (2, UND)], F)) == []
    found = rules(kernel("53ffe0", [(0, IN), (1, PUSHED), (3, UND)], F))
    assert found == ["text/tail f+0x1"]


def test_tail_to_another_object() -> None:
    """A jump to an external function is a tail call."""

    def jumping(code: str, *rows: tuple[int, OrcEntry]) -> Program:
        writer = ElfWriter()
        data = bytes.fromhex(code)
        text = writer.section(".text", data, flags=ALLOC | EXEC)
        writer.symbol("f", text, 0, len(data))
        away = writer.symbol("away", UNDEF, kind=0)
        writer.relocation(text, len(data) - 4, R_PLT32, away, -4)
        add_orc(writer, text, [*rows, (len(data), UND)])
        return writer.program("f.o")

    assert rules(jumping("e900000000", (0, IN))) == []
    pushed = jumping("53" + "e900000000", (0, IN), (1, PUSHED))
    assert rules(pushed) == ["text/tail f+0x1"]
    # assembly goes on elsewhere with the registers that it saved
    registers = jumping("90" + "4154" + "e900000000", (0, regs(0)), (3, regs(8)))
    assert rules(registers) == ["text/entry f"]


def test_a_function_that_ends_with_a_call_of_another_object() -> None:
    """Nothing of it is behind the call, so that it does not return, nor does it."""
    code = "e800000000" + "53" + "e8f5ffffff" + "c3"  # f: call away; g: push; call f
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex(code), flags=ALLOC | EXEC)
    for name, place, size in (("f", 0, 5), ("g", 5, 6), ("h", 11, 1)):
        writer.symbol(name, text, place, size)
    away = writer.symbol("away", UNDEF, kind=0)
    writer.relocation(text, 1, R_PLT32, away, -4)
    add_orc(writer, text, [(0, IN), (6, PUSHED), (11, IN), (12, UND)])

    assert rules(writer.program("f.o")) == []


def test_return_address() -> None:
    """An entry within a call changes how its frame is unwound."""
    code = "e801000000" + "c3" + "c3"
    symbols = [("f", 0, 6), ("g", 6, 1)]
    rows = [(0, IN), (3, PUSHED), (5, IN), (7, UND)]
    assert rules(kernel(code, rows, symbols)) == ["text/ret-1 f"]


def test_function() -> None:
    """A function symbol starts in the entry state, or jumps lead to a fragment."""
    rows = [(0, PUSHED), (1, IN), (2, UND)]
    assert rules(kernel("5bc3", rows, F)) == ["text/entry f"]
    code = "53" + "7402" + "5bc3" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (4, IN), (5, PUSHED), (6, IN), (7, UND)]
    symbols = [("f", 0, 5), ("f.cold", 5, 2)]
    assert rules(kernel(code, rows, symbols)) == []


def ex_table(*pairs: tuple[int, int]) -> tuple[str, bytes, int]:
    """Exceptions, (instruction, fixup) offsets."""
    data = b""
    for insn, fixup in pairs:
        data += relative(TABLE + len(data), insn, fixup) + bytes(4)
    return "__ex_table", data, TABLE


def test_ex_table() -> None:
    """A fixup goes on with the frame of what faulted."""
    code = "53" + "488b07" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (5, IN), (6, UND)]
    assert rules(kernel(code, rows, F, [ex_table((1, 4))])) == []
    found = rules(kernel(code, rows, F, [ex_table((1, 5))]))
    assert found == ["text/ex-table f+0x1"]


def test_jump_label() -> None:
    """A static key's branch and what follows it have one state."""
    code = "53" + "0f1f440000" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (7, IN), (8, UND)]

    def labelled(target: int) -> Program:
        data = relative(TABLE, 1, target) + struct.pack("<q", 0)
        return kernel(code, rows, F, [("__jump_table", data, TABLE)])

    assert rules(labelled(6)) == []
    assert rules(labelled(7)) == ["text/jump-label f+0x1"]


def test_jump_label_that_jumps() -> None:
    """It becomes a NOP when its key is turned: what is behind it has one state, too."""
    code = "53" + "eb02" + "5bc3" + "5bc3"  # push; jmp over pop; ret

    def labelled(behind: OrcEntry) -> Program:
        data = relative(TABLE, 1, 5) + struct.pack("<q", 0)
        states = [(3, behind), (4, IN), (5, PUSHED), (6, IN), (7, UND)]
        rows = [(0, IN), (1, PUSHED), *states]
        return kernel(code, rows, F, [("__jump_table", data, TABLE)])

    assert rules(labelled(PUSHED)) == []
    assert rules(labelled(IN)) == ["text/jump-label f+0x1"]


def test_code_that_nothing_leads_to() -> None:
    """A fixup without its entry, unless a jump to anywhere is in the function."""
    code = "488b07" + "c3" + "31c0c3"
    rows = [(0, IN), (7, UND)]
    assert orphans(kernel(code, rows, F, [ex_table((0, 4))])) == []
    assert orphans(kernel(code, rows, F, [ex_table((0, 3))])) == ["f+0x4"]
    assert orphans(kernel(code, rows, [("f", 0, 4)])) == []
    anywhere = "ffe0" + "c3" + "31c0c3"
    assert orphans(kernel(anywhere, [(0, IN), (6, UND)], F)) == []


@pytest.mark.parametrize("size", [8, 12, 16])
def test_warning(size: int) -> None:
    """Behind a ud2 that warns the code goes on; behind any other it ends."""
    code = "0f0b" + "c3"

    def with_flags(flags: int) -> Program:
        entry = relative(TABLE, 0).ljust({8: 4, 12: 10, 16: 14}[size], b"\0")
        entry = (entry + struct.pack("<H", flags)).ljust(size, b"\0")
        rows = [(0, IN), (2, PUSHED), (3, UND)]
        return kernel(code, rows, F, [("__bug_table", entry, TABLE)])

    assert "text/bug f" in rules(with_flags(1))
    assert "text/bug f" not in rules(with_flags(0))


def test_static_call() -> None:
    """A static call in tail position may become a return."""
    code = "53" + "e901000000" + "cc" + "c3"
    rows = [(0, IN), (1, PUSHED), (6, UND), (7, PUSHED), (8, UND)]

    def site(flags: int) -> Program:
        data = struct.pack("<ii", TEXT + 1 - TABLE, 0x1000 + flags)
        return kernel(code, rows, F, [(".static_call_sites", data, TABLE)])

    assert "text/static-call f+0x1" in rules(site(1))
    assert "text/static-call f+0x1" not in rules(site(0))


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


def switch(states: list[tuple[int, OrcEntry]], *cases: int) -> Program:
    """A switch: push; jmp *table(,%rax,8); two cases that pop and return."""
    table = struct.pack("<i", RODATA - (1 << 64)).hex()
    code = "53" + "ff24c5" + table + "5bc3" + "5bc3"
    data = b"".join(struct.pack("<Q", TEXT + case) for case in cases)
    rows = [(0, IN), (1, PUSHED), *states, (12, UND)]
    return kernel(code, rows, F, [(".rodata", data + bytes(8), RODATA)])


def test_jump_table() -> None:
    """All cases of a switch have the state of its jump."""
    good = [(9, IN), (10, PUSHED), (11, IN)]
    program = switch(good, 8, 10)
    assert rules(program) == []
    assert flow(program).counts["jump table edges"] == 2
    assert rules(switch(good, 8, 11)) == ["text/jump-table f+0x1"]


def test_a_table_goes_on_behind_what_cannot_be() -> None:
    """clang's table of x & 5 has entries that are no place: all its cases are led to."""
    good = [(0, IN), (1, PUSHED), (9, IN), (10, PUSHED), (11, IN), (12, UND)]
    assert orphans(switch(good, 8, 0x400000, 10)) == []
    assert orphans(switch(good, 8)) == ["f+0xa"]


def test_jump_table_behind_a_base() -> None:
    """The table's address may be in a register."""
    away = (RODATA - (TEXT + 8)).to_bytes(4, "little").hex()
    code = "53" + f"488d3d{away}" + "488b3cc7" + "ffe7" + "5bc3" + "5bc3"

    def program(*cases: int) -> Program:
        data = b"".join(struct.pack("<Q", TEXT + case) for case in cases) + bytes(8)
        rows = [(0, IN), (1, PUSHED), (15, IN), (16, PUSHED), (17, IN), (18, UND)]
        return kernel(code, rows, F, [(".rodata", data, RODATA)])

    assert rules(program(14, 16)) == []
    assert flow(program(14, 16)).counts["jump table edges"] == 2
    assert rules(program(14, 17)) == ["text/jump-table f+0xc"]


@pytest.mark.parametrize(
    ("load", "add", "known"),
    [
        ("48630481", "4801c8", True),  # movslq (%rcx,%rax,4),%rax; add %rcx,%rax
        ("48630c81", "4803c1", False),  # the base is overwritten: no such switch
        ("48631481", "4803c1", False),  # what is loaded is not what is added
        ("48630481", "4803c1", True),  # add %rcx,%rax in its other encoding
    ],
)
def test_jump_table_of_distances(load: str, add: str, known: bool) -> None:
    """Code that may lie anywhere adds an entry to its table's address."""
    away = (RODATA - (TEXT + 8)).to_bytes(4, "little").hex()
    code = "53" + f"488d0d{away}" + load + add + "ffe0" + "5bc3" + "5bc3"

    def program(*cases: int) -> Program:
        far = (TEXT + case - RODATA for case in cases)
        data = b"".join(struct.pack("<i", distance) for distance in far) + bytes(4)
        rows = [(0, IN), (1, PUSHED), (18, IN), (19, PUSHED), (20, IN), (21, UND)]
        return kernel(code, rows, F, [(".rodata", data, RODATA)])

    assert (rules(program(17, 19)) == []) is known
    assert ("text/jump-table f+0xf" in rules(program(17, 20))) is known


def test_aux_code_has_the_state_of_who_jumps_there() -> None:
    """A section without states is the continuation of those who jump there."""

    def program(back: int) -> Program:
        writer = ElfWriter()
        code = bytes.fromhex("53" + "e900000000" + "5b" + "c3")
        text = writer.section(".text", code, flags=ALLOC | EXEC)
        writer.symbol("f", text, 0, len(code))
        aux = writer.section(
            ".altinstr_aux", bytes.fromhex("f60001" + "e900000000"), flags=ALLOC | EXEC
        )
        symbol = writer.symbol("", aux, kind=3, binding=0)
        home = writer.symbol("", text, kind=3, binding=0)
        writer.relocation(text, 2, R_PLT32, symbol, -4)
        writer.relocation(aux, 4, R_PLT32, home, back - 4)
        add_orc(writer, text, [(0, IN), (1, PUSHED), (7, IN), (8, UND)])
        return writer.program("f.o")

    assert rules(program(6)) == []
    assert flow(program(6)).counts["unreached"] == 0
    assert [rule.split()[0] for rule in rules(program(7))] == ["text/branch"]


def test_counts() -> None:
    """What was looked at is counted, and what was not."""
    code = "53" + "5b" + "c3" + "0f0b" + "fc"
    rows = [(0, IN), (1, PUSHED), (2, IN), (5, UND)]
    counts = flow(kernel(code, rows, [("f", 0, 5)])).counts
    assert counts["step edges"] == 2
    assert counts["return edges"] == 1
    assert counts["function edges"] == 1
    assert counts["defined"] == 4
    assert counts["unreached"] == 1  # ud2, behind a return
    assert counts["blind"] == 1  # cld
    assert counts["assumed"] == 0


def test_every_rule_is_documented() -> None:
    """docs/findings.md has one section per rule, and none for a rule that is gone."""
    text = (Path(__file__).parents[4] / "docs" / "findings.md").read_text()
    sections = set(re.findall(r"^## `(text/[\w-]+)`$", text, re.MULTILINE))
    assert sections == {rule.value for rule in Rule}


def test_no_code_is_no_error() -> None:
    """A whole validation of an object with nothing in it says nothing."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    add_orc(writer, text, [(0, IN), (1, UND)])
    assert check(writer.program()).findings == ()

"""Edges that instructions tell: each kind where it holds, and where it does not."""

from __future__ import annotations

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_PLT32,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
    regs,
)
from tests.builders.flow import (
    IN,
    ONE,
    PUSHED,
    flow,
    kernel,
    rules,
)


def test_step() -> None:
    """A push moves the frame: the next entry must say so."""
    code = "53" + "5b" + "c3"
    assert rules(kernel(code, [(0, IN), (1, PUSHED), (2, IN), (3, UND)], ONE)) == []
    assert rules(kernel(code, [(0, IN), (3, UND)], ONE)) == ["text/step f"]


def test_step_off_the_end() -> None:
    """Control must not run on where the table ends."""
    assert rules(kernel("9090", [(0, IN), (2, UND)], ONE)) == ["text/step f+0x1"]
    assert rules(kernel("90c3" + "90", [(0, IN), (2, UND)], ONE)) == []


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
    assert "text/step f+0x4" not in rules(kernel(code, rows, ONE))
    rows[2] = (9, call(24, -24))
    assert rules(kernel(code, rows, ONE)) == ["text/step f+0x4"]


def test_call_of_an_interrupt_that_has_registers() -> None:
    """A call pushes one of the interrupt's words, never the lowest of pt_regs."""
    code = "6a00" * 4 + "e801000000" + "c3" + "48cf"
    words = OrcEntry(0, 0, OrcReg.SP, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, True)
    pushes = [(2 * n, call(8 * n + 8)) for n in range(5)]
    rows = [*pushes, (13, IN), (14, words), (16, UND)]
    assert "text/call f+0x8" not in rules(kernel(code, rows, ONE))
    rows[-2] = (14, regs(0))
    assert "text/call f+0x8" in rules(kernel(code, rows, ONE))


def test_branch() -> None:
    """A jump brings its own state to its target."""
    code = "53" + "eb02" + "5bc3" + "c3"  # push; jmp to the last ret
    rows = [(0, IN), (1, PUSHED), (4, IN), (6, UND)]
    assert rules(kernel(code, rows, ONE)) == ["text/branch f+0x1"]
    good = "53" + "eb00" + "5bc3"
    assert rules(kernel(good, [(0, IN), (1, PUSHED), (4, IN), (5, UND)], ONE)) == []


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
    assert rules(kernel(code, rows, ONE)) == ["text/step f+0x1"]


def test_call_that_only_pushes() -> None:
    """A call to the next instruction leaves its return address on the stack."""
    code = "e801000000" + "cc" + "4883c408" + "c3"
    rows = [(0, IN), (5, UND), (6, PUSHED), (10, IN), (11, UND)]
    assert rules(kernel(code, rows, ONE)) == []


def test_return() -> None:
    """A return needs the frame as the call made it."""
    assert rules(kernel("53c3", [(0, IN), (1, PUSHED), (2, UND)], ONE)) == [
        "text/return f+0x1"
    ]


def test_tail() -> None:
    """An indirect jump without a table leaves the function."""
    assert rules(kernel("ffe0", [(0, IN), (2, UND)], ONE)) == []
    found = rules(kernel("53ffe0", [(0, IN), (1, PUSHED), (3, UND)], ONE))
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
    assert rules(kernel("5bc3", rows, ONE)) == ["text/entry f"]
    code = "53" + "7402" + "5bc3" + "5bc3"
    rows = [(0, IN), (1, PUSHED), (4, IN), (5, PUSHED), (6, IN), (7, UND)]
    symbols = [("f", 0, 5), ("f.cold", 5, 2)]
    assert rules(kernel(code, rows, symbols)) == []

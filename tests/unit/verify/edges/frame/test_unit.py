"""Code executed on symbols: what the table claims of it is proved or refused."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.verify.callee import Callees
from harness.verify.columns import read_columns
from harness.verify.edges.frame.body import bodies_of
from harness.verify.edges.frame.claim import weakest
from harness.verify.edges.frame.unit import Routes, Walker
from harness.verify.edges.noreturn import ways_of
from harness.verify.edges.scope import scope_of
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call, regs

Rows = list[tuple[int, OrcEntry]]

END = OrcEntry(0, 0, 0, 0, OrcType.END_OF_STACK, False)


def based(register: int, offset: int, bp_offset: int = 0) -> OrcEntry:
    """A state that counts from this register."""
    saved = OrcReg.PREV_SP if bp_offset else OrcReg.UNDEFINED
    return OrcEntry(offset, bp_offset, register, saved, OrcType.CALL, False)


def walked(
    code: str,
    rows: Rows,
    routes: Routes | None = None,
    ways: tuple[int, int] | None = None,
    names: list[tuple[str, int, int]] | None = None,
) -> tuple[str, ...]:
    """What is refused (``+5 elsewhere``) and assumed (``+5 loaded``) of this code.

    Spaces separate instructions for the reader. ``ways`` is a row and the offset
    where control goes from there, too.
    """
    data = bytes.fromhex(code)
    writer = ElfWriter()
    text = writer.section(".text", data + b"\xcc" * 16, flags=ALLOC | EXEC)
    for name, at, size in names or [("f", 0, len(data))]:
        writer.symbol(name, text, at, size)
    add_orc(writer, text, [*rows, (len(data), UND)])
    columns = read_columns(writer.program(), Features({}, 0, "test"))
    assert columns is not None
    start = columns.program.executable[0].address
    row, offset = ways or (0, len(data) + 99)
    some = (np.array([row]), np.array([start + offset], np.uint64))
    walker = Walker(
        bodies_of(scope_of(columns), ways_of([some])),
        routes or Routes(),
        Callees(columns.program, columns.insns, columns.lookup),
    )
    walker.walk(0, weakest(int(columns.state[0]), start))

    def place(row: int) -> int:
        return int(columns.insns.address[row]) - start

    refused = [
        f"+{place(r.row)} {r.answer.name.lower()}"
        for r in walker.walked.refused.values()
    ]
    assumed = [
        f"+{place(row)} {why.name.lower()}"
        for (_, row), why in walker.walked.assumed.items()
    ]
    return (*refused, *assumed)


def changed(rows: Rows, at: int, entry: OrcEntry) -> Rows:
    """The same rows with another entry at ``at``."""
    assert any(place == at for place, _ in rows)
    return [(place, entry if place == at else old) for place, old in rows]


SIMPLE: tuple[str, Rows] = (
    # push %rbp; push %rbx; mov %rax,%rbp; sub $8,%rsp; call; add; pop; pop; ret
    "55 53 4889c5 4883ec08 e800100000 4883c408 5b 5d c3",
    [
        (0, call(8)),
        (1, call(16, -16)),
        (2, call(24, -16)),
        (9, call(32, -16)),
        (18, call(24, -16)),
        (19, call(16, -16)),
        (20, call(8)),
    ],
)
FRAMED: tuple[str, Rows] = (
    # push %rbp; mov %rsp,%rbp; push %rbx; sub %rax,%rsp; and $-32,%rsp;
    # lea -8(%rbp),%rsp; pop %rbx; pop %rbp; ret
    "55 4889e5 53 4829c4 4883e4e0 488d65f8 5b 5d c3",
    [(0, call(8)), (1, call(16, -16)), (4, based(OrcReg.BP, 16, -16)), (18, call(8))],
)
DRAP: tuple[str, Rows] = (
    # lea 8(%rsp),%r10; and $-32,%rsp; push -8(%r10); push %rbp; mov %rsp,%rbp;
    # push %r10; sub $8,%rsp; call; lea -8(%rbp),%rsp; pop %r10; pop %rbp;
    # lea -8(%r10),%rsp; ret
    "4c8d542408 4883e4e0 41ff72f8 55 4889e5 4152 4883ec08 e800100000 488d65f8 415a"
    " 5d 498d62f8 c3",
    [
        (0, call(8)),
        (5, based(OrcReg.R10, 0)),
        (17, OrcEntry(0, 0, OrcReg.R10, OrcReg.BP, OrcType.CALL, False)),
        (19, OrcEntry(-8, 0, OrcReg.BP_INDIRECT, OrcReg.BP, OrcType.CALL, False)),
        (34, OrcEntry(0, 0, OrcReg.R10, OrcReg.BP, OrcType.CALL, False)),
        (35, based(OrcReg.R10, 0)),
        (39, call(8)),
    ],
)
SWITCHED: tuple[str, Rows] = (
    # push %rbx; mov %rsp,(%r11); mov %r11,%rsp; call *%rax; pop %rsp; pop %rbx; ret
    "53 498923 4c89dc ffd0 5c 5b c3",
    [
        (0, call(8)),
        (1, call(16)),
        (7, based(OrcReg.SP_INDIRECT, 16)),
        (10, call(16)),
        (11, call(8)),
    ],
)
KEPT: tuple[str, Rows] = (
    # push %r13; lea 16(%rsp),%r13; and $-64,%rsp; call; lea -16(%r13),%rsp;
    # pop %r13; ret
    "4155 4c8d6c2410 4883e4c0 e800100000 498d65f0 415d c3",
    [
        (0, call(8)),
        (2, call(16)),
        (7, based(OrcReg.R13, 0)),
        (20, call(16)),
        (22, call(8)),
    ],
)


@pytest.mark.parametrize(
    ("code", "rows"), [SIMPLE, FRAMED, DRAP, SWITCHED, KEPT], ids="sfdwk"
)
def test_clean(code: str, rows: Rows) -> None:
    """Right tables are proved, whatever the frame is counted from."""
    assert walked(code, rows) == ()


@pytest.mark.parametrize(
    ("code", "rows"), [SIMPLE, FRAMED, DRAP, SWITCHED, KEPT], ids="sfdwk"
)
def test_every_change_shows(code: str, rows: Rows) -> None:
    """No entry can be moved by a word, lost, or get another %rbp or type, unseen."""
    for at, entry in rows[1:]:
        others = [
            OrcEntry(entry.sp_offset + 8, *_rest(entry)),
            OrcEntry(entry.sp_offset - 8, *_rest(entry)),
            OrcEntry(entry.sp_offset, *_rest(entry)[:3], OrcType.REGS, True),
            UND,
        ]
        if entry.bp_reg:
            moved = entry.bp_offset - 8
            others.append(OrcEntry(entry.sp_offset, moved, *_rest(entry)[1:]))
        for other in others:
            assert walked(code, changed(rows, at, other)), (at, other)


def _rest(entry: OrcEntry) -> tuple[int, int, int, int, bool]:
    return entry.bp_offset, entry.sp_reg, entry.bp_reg, entry.type, entry.signal


def test_one_wrong_entry_is_one_place() -> None:
    """The walk goes on with what the code says, so that what follows is right."""
    code, rows = SIMPLE
    refused = walked(code, changed(rows, 9, call(40, -16)))
    assert refused[0] == "+9 elsewhere"
    assert "+18 elsewhere" not in refused


@pytest.mark.parametrize(
    ("code", "rows", "expected"),
    [
        # xor %ebp,%ebp; nop; ret: nobody saved it
        ("31ed 90 c3", [(0, call(8))], ("+2 bp",)),
        # push %rbp; mov %rdi,8(%rsp): the return address is gone
        ("55 48897c2408 90", [(0, call(8)), (1, call(16, -16))], ("+6 return",)),
        # push %rbp; movl $0,4(%rsp): half of the saved %rbp is gone
        (
            "55 c744240400000000 5d c3",
            [(0, call(8)), (1, call(16, -16)), (10, call(8))],
            ("+9 bp",),
        ),
        # push %rbx; add $8,%rsp; ret, but the table forgets the push
        ("53 4883c408 c3", [(0, call(8))], ("+1 elsewhere",)),
        # push %rbx; ret
        ("53 c3", [(0, call(8)), (1, call(16))], ("+1 elsewhere",)),
        # xor %esp,%esp
        ("31e4 ebfe", [(0, call(8))], ("+2 untold",)),
        # jmp to where the table has no state, within the function
        ("eb00 90", [(0, call(8)), (2, UND)], ("+2 untold",)),
        # mov %rsp,%rbx; sub %rax,%rsp; mov %rbx,%rsp; ret
        ("4889e3 4829c4 4889dc c3", [(0, call(8))], ("+6 untold",)),
        # mov %rsp,%rax; call; mov %rax,%rsp: a callee overwrites %rax
        ("4889e0 e800100000 4889c4 c3", [(0, call(8))], ("+11 loaded",)),
        # mov (%rbx),%rdi; ud2 and a claim that this loads a stack
        ("488b3b 0f0b", [(0, call(8)), (3, based(OrcReg.DI, 8))], ("+3 untold",)),
        # push $1; push %rbx and a claim that the constant is a return address
        ("6a01 53 c3", [(0, call(8)), (2, call(8)), (3, call(8))], ("+2 elsewhere",)),
    ],
)
def test_wrong(code: str, rows: Rows, expected: tuple[str, ...]) -> None:
    """What the code does and the table does not say is refused where it shows."""
    assert walked(code, rows)[: len(expected)] == expected


def test_paths_that_meet() -> None:
    """Behind a branch only what is so on both paths is known."""
    # push %rbp; je +3; mov %rax,%rbp (or not); pop %rbp; ret
    rows = [(0, call(8)), (1, call(16, -16)), (7, call(8))]
    assert walked("55 7403 4889c5 5d c3", rows) == ()
    # je +2; xor %ebp,%ebp; nop; ret
    assert "+4 bp" in walked("7402 31ed 90 c3", [(0, call(8))])


def test_loop() -> None:
    """A loop that leaves the stack one word lower each round is refused."""
    # 0: push %rax; jne 0; ret
    refused = walked("50 75fd c3", [(0, call(8)), (1, call(16))])
    assert "+0 elsewhere" in refused


def test_stack_of_another_context() -> None:
    """A loaded %rsp is believed, and what follows must agree with it."""
    # push %rbp; mov %rsp,8(%rdi); mov 8(%rsi),%rsp; pop %rbp; ret
    code = "55 48896708 488b6608 5d c3"
    rows = [(0, call(8)), (1, call(16, -16)), (10, call(8))]
    assert walked(code, rows) == ("+9 loaded",)
    wrong = [*rows[:2], (9, call(24, -16)), rows[2]]
    assert "+10 elsewhere" in walked(code, wrong)


def test_registers_pushed_without_a_frame() -> None:
    """The first claim is believed unless the pushed registers contradict it."""
    # push 5 words, orig_ax and the registers in the order of struct pt_regs
    pushes = "6a006a006a006a006a006a00 57 56 52 51 50 4150 4151 4152 4153 53 55 4154"
    code = pushes + "4155 4156 4157 90 0f0b"
    at = len(bytes.fromhex(pushes + "415541564157"))
    assert walked(code, [(0, END), (at, regs())]) == (f"+{at} found",)
    for wrong in (8, 16):
        assert f"+{at} elsewhere" in walked(code, [(0, END), (at, regs(wrong))])
    for late in (regs(-8), regs(-16)):
        assert f"+{at} lost" in walked(code, [(0, END), (at, late)])


def test_state_lost_at_the_start() -> None:
    """A frame that was there when control entered is none that the code has built."""
    # push %rbx; nop; pop %rbx; ret, and push $-1; nop; iretq
    rows = [(1, call(16)), (3, call(8))]
    assert "+1 lost" in walked("53 90 5b c3", [(0, UND), *rows])
    assert "+2 lost" in walked("6aff 90 48cf", [(0, UND), (2, regs(8, partial=True))])
    # pop %rcx; pop %r11; nop: the hypervisor's words lie below the interrupt's
    code = "59 415b 90 48cf"
    assert walked(code, [(0, END), (3, regs(partial=True))]) == ("+3 found",)


def test_state_that_comes_late() -> None:
    """Behind the last push of pt_regs its frame is there, not an instruction later."""
    # six words, rdi to r15; xor %eax,%eax; iretq
    pushes = "6aff" * 6 + "57 56 52 51 50 4150 4151 4152 4153 53 55 4154 4155 4156 4157"
    code = f"{pushes} 31c0 48cf"
    assert walked(code, [(0, END), (35, regs())]) == ("+35 found",)
    assert "+37 lost" in walked(code, [(0, END), (37, regs())])


def test_state_lost_on_the_way() -> None:
    """Where the table falls silent the code must hide the frame, too."""
    # push %rbx; nop; pop %rbx; ret
    rows = [(0, call(8)), (1, UND), (2, call(16)), (3, call(8))]
    assert walked("53 90 5b c3", rows) == ("+1 untold",)
    # mov %rsp,%rdx; mov %gs:8,%rsp; nop; jmp to itself
    silent = [(0, regs(partial=True)), (12, END)]
    code = "4889e2 65488b242508000000 90 ebfe"
    assert walked(code, silent) == ("+12 loaded",)
    # push 5 words from (%rdx), silently: the frame was known all the time
    code = "4889e2 65488b242508000000 ff7220 ff7218 ff7210 ff7208 ff32 90 0f0b"
    assert "+26 lost" in walked(code, [*silent, (26, regs(partial=True))])


def test_copied_interrupt_words() -> None:
    """The frame is where the interrupt's five words were copied to."""
    # mov %rsp,%rdx; mov %gs:8,%rsp; 5 times push 32(%rdx); nop
    copies = "ff7220 ff7218 ff7210 ff7208 ff32"
    code = f"4889e2 65488b242508000000 {copies} 90 0f0b"
    rows = [
        (0, regs(partial=True)),
        (12, OrcEntry(0, 0, OrcReg.DX, 0, OrcType.REGS_PARTIAL, True)),
        (26, regs(partial=True)),
    ]
    assert walked(code, rows) == ()
    assert walked(code, changed(rows, 26, regs(8, partial=True)))
    assert walked(code.replace("ff7218", "ff7210"), rows)


OWN = [
    # push $f; push %rbx; pop %rbx; ret
    ("6800000081 53 5b c3", [(0, call(8)), (6, call(16)), (7, call(8))], 5),
    # lea 8(%rsp),%rsp; ret
    ("488d642408 c3", [(0, call(8))], 5),
    # pushf; pushf; xor %eax,%eax; mov %rax,8(%rsp); popf; ret
    (
        "9c9c 31c0 4889442408 9d c3",
        [(0, call(8)), (1, call(16)), (2, call(24)), (10, call(8))],
        10,
    ),
]


@pytest.mark.parametrize(("code", "rows", "at"), OWN, ids=["push", "drop", "flags"])
def test_own_return_address(code: str, rows: Rows, at: int) -> None:
    """Code may put a return address of its own on top of the stack."""
    assert walked(code, rows)[-1] == f"+{at} made"


NOT_OWN = [
    ("6834120000 53 5b c3", [(0, call(8)), (6, call(16)), (7, call(8))], 5),
    ("488d642408 90 c3", [(0, call(8))], 5),  # what is dropped is lost
    ("31c0 50 90 c3", [(0, call(8))], 3),  # push %rax
    ("31c0 58 90 c3", [(0, call(8))], 3),  # pop %rax
    ("58 c3", [(0, call(8))], 1),
    # sub $16,%rsp; add $8,%rsp; ret
    ("4883ec10 4883c408 c3", [(0, call(8)), (4, call(24)), (8, call(8))], 8),
]


@pytest.mark.parametrize(("code", "rows", "at"), NOT_OWN)
def test_no_return_address(code: str, rows: Rows, at: int) -> None:
    """In the middle of a function the claim of its start needs a reason, as any does."""
    assert walked(code, rows)[0].startswith(f"+{at} ")
    assert not [said for said in walked(code, rows) if "made" in said]


def test_return_into_an_interrupt() -> None:
    """What ends an interrupt is iret: a return takes its words for an address."""
    rows = [(0, regs(partial=True))]
    assert walked("fc 48cf", rows) == ()  # cld; iretq
    assert walked("fc c3", rows) == ("+1 anchor",)


def test_ways_that_no_instruction_tells() -> None:
    """Fixups are followed with the frame of the instruction that faults."""
    # push %rbx; nop; pop %rbx; ret; fixup: pop %rbx; ret
    code = "53 90 5b c3 5b c3"
    rows = [(0, call(8)), (1, call(16)), (3, call(8)), (4, call(16)), (5, call(8))]
    assert walked(code, rows, ways=(1, 4)) == ()
    refused = walked(code, changed(rows, 4, call(8)), ways=(1, 4))
    assert refused[0] == "+4 elsewhere"


def test_calls_that_end() -> None:
    """Behind a call that never returns nothing is claimed."""
    # call; push %rbx; ret
    code, rows = "e800100000 53 c3", [(0, call(8))]
    assert walked(code, rows)
    assert walked(code, rows, Routes(ends=frozenset({0}))) == ()


def test_registers_that_a_call_of_another_object_keeps() -> None:
    """The compiler was told so: %rsp comes back from them, and the table is put to it."""
    # push %rbx; lea 8(%rsp),%r9; call; mov %r9,%rsp; ret
    code = "53 4c8d4c2408 e800100000 4c89cc c3"
    rows = [(0, call(8)), (1, call(16)), (14, call(8))]
    assert walked(code, rows) == ("+11 kept",)
    assert walked(code, changed(rows, 14, call(16)))[0] == "+14 elsewhere"
    # the same by a callee: call g; mov %r9,%rsp; ret; g: call; ret
    code = "53 4c8d4c2408 e804000000 4c89cc c3 e800100000 c3"
    names = [("f", 0, 15), ("g", 15, 6)]
    assert walked(code, [*rows, (15, call(8))], names=names) == ("+20 kept",)

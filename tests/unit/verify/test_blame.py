"""Whoever makes a finding is named: one plant for each of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.hint import HintType
from harness.elf.orc import OrcEntry
from harness.finding import Finding, Location
from harness.verify.blame import Culprit, blame, pair
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    ET_REL,
    EXEC,
    LOCAL,
    R_PC32,
    SECTION,
    UND,
    ElfWriter,
    add_orc,
    call,
    regs,
)
from tests.builders.site import SITE, Replacement, a_site

TEXT = 0xFFFFFFFF81200000
ORC = 0xFFFFFFFF82000000
LEAF = bytes.fromhex(
    "9090c3cc"
)  # what lies in front: places differ from object to kernel
BALANCED, UNBALANCED = "50 90 58 c3", "50 90 90 c3"  # push; nop; pop; ret
RIGHT = [(0, call(8)), (1, call(16)), (3, call(8))]
LEFT = [(0, call(8)), (1, call(16))]  # nobody pops
Rows = Sequence[tuple[int, OrcEntry]]


def write(
    kind: int,
    code: str,
    rows: Rows,
    hints: Sequence[tuple[int, int]] = (),
    type_: int = HintType.CALL,
) -> ElfWriter:
    """Write `leaf` and `f`; the kernel has them farther on."""
    linked = kind == ET_EXEC
    writer = ElfWriter(kind)
    front = LEAF * (4 if linked else 1)
    text = front + bytes.fromhex(code)
    base = TEXT if linked else 0
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=base)
    writer.symbol("leaf", section, base + len(front) - 4, 3)
    writer.symbol("f", section, base + len(front), len(text) - len(front))
    table = [(len(front) - 4, call(8)), (len(front) - 1, UND)]
    table += [(len(front) + offset, entry) for offset, entry in rows]
    add_orc(writer, section, [*table, (len(text), UND)], address=ORC if linked else 0)
    if hints:
        data = b"".join(struct.pack("<ihBBBxxx", 0, sp, 5, type_, 0) for _, sp in hints)
        number = writer.section(".discard.unwind_hints", data, flags=0)
        symbol = writer.symbol("", section, kind=SECTION, binding=LOCAL)
        for row, (offset, _) in enumerate(hints):
            writer.relocation(number, 12 * row, R_PC32, symbol, len(front) + offset)
    return writer


def read(
    kind: int,
    code: str,
    rows: Rows,
    hints: Sequence[tuple[int, int]] = (),
    type_: int = HintType.CALL,
) -> Columns:
    """Read what `write` wrote."""
    name = "vmlinux" if kind == ET_EXEC else "vmlinux.o"
    program = write(kind, code, rows, hints, type_).program(name)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


def culprits(linked: Columns, unlinked: Columns) -> set[Culprit | None]:
    """Who is blamed for what the whole check finds in the kernel."""
    both = pair(linked, unlinked)
    findings = check_columns(linked).findings
    assert findings
    return {blame(finding, both) for finding in findings}


def test_a_hint_that_says_so() -> None:
    """The entry in vmlinux.o is what an UNWIND_HINT there declares."""
    wrong = [(0, call(8)), (1, call(24)), (3, call(8))]
    unlinked = read(ET_REL, BALANCED, wrong, hints=[(1, 24)])

    assert culprits(read(ET_EXEC, BALANCED, wrong), unlinked) == {Culprit.HINT}


def test_a_hint_of_a_function() -> None:
    """UNWIND_HINT_FUNC has a type of its own, which no entry has."""
    wrong = [(0, call(8)), (1, call(8)), (3, call(8))]
    unlinked = read(ET_REL, BALANCED, wrong, [(1, 8)], HintType.FUNC)

    assert culprits(read(ET_EXEC, BALANCED, wrong), unlinked) == {Culprit.HINT}


def test_code_that_is_unbalanced() -> None:
    """The table follows the code to a return with a word too much."""
    linked, unlinked = (read(kind, UNBALANCED, LEFT) for kind in (ET_EXEC, ET_REL))

    assert culprits(linked, unlinked) == {Culprit.CODE}


def test_code_that_runs_off_its_end() -> None:
    """The table follows it to where another function begins, or nothing."""
    code, rows = "50 90 90", [(0, call(8)), (1, call(16))]
    linked, unlinked = (read(kind, code, rows) for kind in (ET_EXEC, ET_REL))

    assert culprits(linked, unlinked) == {Culprit.CODE}


def test_objtool_wrote_it() -> None:
    """It is wrong in vmlinux.o, without a hint, and the code is right."""
    wrong = [(0, call(8)), (1, call(24)), (3, call(8))]
    linked, unlinked = (read(kind, BALANCED, wrong) for kind in (ET_EXEC, ET_REL))

    assert culprits(linked, unlinked) == {Culprit.OBJTOOL}


def test_a_hint_says_nothing_of_a_list() -> None:
    """Who leaves a place out of a list is objtool, hinted as it may be."""
    unlinked = read(ET_REL, BALANCED, RIGHT, hints=[(0, 8), (1, 16)])
    both = pair(read(ET_EXEC, BALANCED, RIGHT), unlinked)
    place = Location("vmlinux", "f", 0, address=TEXT + 4 * len(LEAF))
    lists = Finding("patch-site/missing", place, "a return that is in no list")
    state = Finding("text/step", place, "another state")
    assert blame(lists, both) is Culprit.OBJTOOL
    assert blame(state, both) is Culprit.HINT


def test_the_linker_changed_it() -> None:
    """Right in vmlinux.o; the kernel has an entry that was not there."""
    wrong = [(0, call(8)), (1, call(24)), (3, call(8))]
    linked = read(ET_EXEC, BALANCED, wrong)

    assert culprits(linked, read(ET_REL, BALANCED, RIGHT)) == {Culprit.LINKER}


def test_the_sort_mixed_it_up() -> None:
    """The same places and the same states, in other pairs."""
    mixed = [(0, call(16)), (1, call(8)), (3, call(8))]
    linked = read(ET_EXEC, BALANCED, mixed)

    assert culprits(linked, read(ET_REL, BALANCED, RIGHT)) == {Culprit.SORTTABLE}


def test_an_unsorted_table_is_the_sorts() -> None:
    """No object is sorted, every kernel is."""
    linked = read(ET_EXEC, BALANCED, RIGHT)
    (where, *_) = check_columns(read(ET_EXEC, UNBALANCED, LEFT)).findings
    finding = replace(where, rule="table/order")

    assert blame(finding, pair(linked, read(ET_REL, BALANCED, RIGHT))) is (
        Culprit.SORTTABLE
    )


def test_what_was_not_in_the_object_has_no_culprit() -> None:
    """Code that came from elsewhere maps to nothing."""
    linked, unlinked = (read(kind, UNBALANCED, LEFT) for kind in (ET_EXEC, ET_REL))
    (finding, *_) = check_columns(linked).findings
    elsewhere = replace(finding, location=replace(finding.location, address=TEXT - 64))

    assert blame(elsewhere, pair(linked, unlinked)) is None


@pytest.mark.parametrize(
    ("rule", "culprit"),
    [
        ("alternative/end", Culprit.CODE),
        ("alternative/conflict", Culprit.CODE),
        ("alternative/state", Culprit.OBJTOOL),
        ("table/field", Culprit.OBJTOOL),
    ],
)
def test_texts_that_disagree_are_code(rule: str, culprit: Culprit) -> None:
    """No table can be right for both; one that is wrong for one is objtool's."""
    linked, unlinked = (read(kind, BALANCED, RIGHT) for kind in (ET_EXEC, ET_REL))
    where = linked.program.location(TEXT + 17)
    finding = Finding(rule, where, "wrong")

    assert blame(finding, pair(linked, unlinked)) is culprit


def test_a_hint_whose_signal_was_lost() -> None:
    """The hint says less than the entry, or more: it was not the hint."""
    for signal, culprit in ((True, Culprit.OBJTOOL), (False, Culprit.HINT)):
        rows = [(0, call(8)), (1, replace(regs(16), signal=signal)), (3, call(8))]
        linked = read(ET_EXEC, BALANCED, rows)
        unlinked = read(ET_REL, BALANCED, rows, [(1, 16)], HintType.REGS)
        where = linked.program.location(TEXT + 17)

        assert (
            blame(Finding("table/signal", where, "lost"), pair(linked, unlinked))
            is culprit
        )


@pytest.mark.parametrize(
    ("offset", "culprit"), [(1, Culprit.CODE), (2, Culprit.OBJTOOL)]
)
def test_an_entry_within_a_call(offset: int, culprit: Culprit) -> None:
    """Where another text starts it is needed, and where none does nobody needs it."""
    push = Replacement(bytes.fromhex("500f1f400058"))
    inside = [(offset, call(16)), (5, call(16))]
    program = a_site(bytes.fromhex("e800000000" + "90"), [push], inside)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    start = program.symbols.find("victim")
    assert start is not None
    last = Location("vmlinux", "victim", SITE + 4, start + SITE + 4)
    finding = Finding("alternative/ret-1", last, "wrong")

    assert blame(finding, pair(columns, columns)) is culprit


def test_interrupt_frames_are_hinted_too() -> None:
    """A hint's type is compared, not only its offset."""
    rows = [(0, call(8)), (1, regs(16)), (3, call(8))]
    linked = read(ET_EXEC, BALANCED, rows)
    unlinked = read(ET_REL, BALANCED, rows, hints=[(1, 16)])  # a call's

    assert Culprit.HINT not in culprits(linked, unlinked)

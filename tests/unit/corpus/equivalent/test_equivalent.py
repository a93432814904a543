"""Rules of equivalence: what each proves, and what it must not prove."""

from __future__ import annotations

import pytest

from harness.corpus.equivalent import RULES, Clean, proof
from harness.corpus.mutant import Change, Kind
from harness.corpus.rewrite import Poke, Rows
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.verify.columns import Columns, read_columns
from tests.builders.elfwriter import UND, call
from tests.builders.site import ALWAYS, SMAP, Replacement, a_site
from tests.unit.corpus.program import NAMES, read


def table_change(clean: Columns, rows: list[tuple[int, bytes]]) -> Change:
    """Return the change of the whole table to ``rows`` (offset, record)."""
    base = clean.program.symbols.find("f")
    assert base is not None
    entries = tuple((base + offset, record) for offset, record in rows)
    return Change(clean, (Rows(0, len(clean.table), entries),), base, 1, "")


def code_change(clean: Columns, offset: int, code: str) -> Change:
    """Return the change of bytes in ``f``."""
    base = clean.program.symbols.find("f")
    assert base is not None
    return poke(clean, base + offset, bytes.fromhex(code))


def poke(clean: Columns, address: int, data: bytes) -> Change:
    return Change(clean, (Poke(address, data),), address, len(data), "")


def proved(clean: Columns, change: Change, kind: Kind = Kind.STATE) -> str:
    return proof(Clean(clean), change, kind)


EIGHT = bytes.fromhex("0800 0000 0502")
SIXTEEN = bytes.fromhex("1000 0000 0502")
NONE = bytes(6)
BP = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
PUSH_POP = "53 4889fb 5b c3"  # push %rbx; mov %rdi,%rbx; pop %rbx; ret
PUSHED = [(0, call(8)), (1, call(16)), (5, call(8))]


def test_an_entry_that_repeats_the_one_before() -> None:
    """Whoever asks gets the same answers."""
    clean = read(PUSH_POP, PUSHED)
    rows = [(0, EIGHT), (1, SIXTEEN), (4, SIXTEEN), (5, EIGHT), (6, NONE)]

    assert proved(clean, table_change(clean, rows)) == "same-answers"


def test_another_answer_is_another_table() -> None:
    """An entry one instruction early is no repetition."""
    clean = read(PUSH_POP, PUSHED)
    rows = [(0, EIGHT), (1, SIXTEEN), (4, EIGHT), (6, NONE)]

    assert proved(clean, table_change(clean, rows)) == ""


def test_a_state_for_fill_behind_a_return() -> None:
    """Nobody gets to the int3 behind a ret."""
    clean = read(PUSH_POP + "cc cc", [*PUSHED, (6, UND)])
    rows = [(0, EIGHT), (1, SIXTEEN), (5, EIGHT), (8, NONE)]

    assert proved(clean, table_change(clean, rows)) == "unreachable"


def test_what_lies_behind_a_call_that_does_not_return() -> None:
    """The clean table has no state there, so nobody comes there."""
    clean = read("e8fbffffff 5b c3", [(0, call(8)), (5, UND)])
    rows = [(0, EIGHT), (6, EIGHT), (7, NONE)]

    assert proved(clean, table_change(clean, rows)) == "unreachable"


def test_what_lies_behind_a_call_that_returns() -> None:
    """A state there is needed."""
    clean = read("e8fbffffff 5b c3", [(0, call(16)), (6, call(8))])
    rows = [(0, SIXTEEN), (5, NONE), (6, EIGHT), (7, NONE)]

    assert proved(clean, table_change(clean, rows)) == ""


def test_code_of_which_nothing_is_claimed() -> None:
    """Where the table is silent it cannot be wrong."""
    clean = read("53 4889fb 5b c3", [(0, UND)])

    assert proved(clean, code_change(clean, 0, "90")) == "unclaimed"


def test_another_push() -> None:
    """``push %rax`` for ``push %rbx``: nothing changes for the stack."""
    clean = read(PUSH_POP, PUSHED)

    assert proved(clean, code_change(clean, 0, "50")) == "same-effect"


@pytest.mark.parametrize("code", ["90", "5b"])
def test_a_push_that_is_gone(code: str) -> None:
    """Dropped or turned round it changes the stack: no proof."""
    clean = read(PUSH_POP, PUSHED)

    assert proved(clean, code_change(clean, 0, code)) == ""


def framed(code: str = "4889f8") -> Columns:
    """push %rbp; mov %rsp,%rbp; ...; pop %rbp; ret, counted from %rbp."""
    rows = [(0, call(8)), (1, call(16, -16)), (4, BP), (8, call(8))]
    return read(f"55 4889e5 {code} 5d c3", rows)


def test_a_balanced_pair_under_a_frame_pointer() -> None:
    """%rsp is back, and nobody counts from it meanwhile."""
    clean = framed()

    assert proved(clean, code_change(clean, 4, "505890")) == "other-base"


def test_an_unbalanced_push_under_a_frame_pointer() -> None:
    """%rsp is elsewhere when the frame is taken down: that is a defect."""
    clean = framed()

    assert proved(clean, code_change(clean, 4, "509090")) == ""


def test_a_balanced_pair_under_the_stack_pointer() -> None:
    """Between push and pop the frame is farther from %rsp: that is a defect."""
    clean = read(PUSH_POP, PUSHED)

    assert proved(clean, code_change(clean, 1, "505890")) == ""


def test_a_text_that_the_table_declares_already() -> None:
    """NOPs become ``pushf; pop``, which another text of the site does there."""
    program = a_site(
        bytes.fromhex("0f1f00"),
        [Replacement(bytes.fromhex("9c58"), SMAP)],
        [(1, call(16)), (2, call(8))],
    )
    clean = read_columns(program, NAMES)
    assert clean is not None
    assert clean.alternatives is not None
    address = int(clean.alternatives.site_address[0])
    change = poke(clean, address, bytes.fromhex("505890"))

    assert proved(clean, change) == "declared"


def site(*replacements: Replacement, original: str = "0f1f440000") -> Columns:
    columns = read_columns(a_site(bytes.fromhex(original), replacements), NAMES)
    assert columns is not None
    return columns


def entry_change(clean: Columns, offset: int, data: bytes) -> Change:
    section = clean.program.section(".altinstructions")
    assert section is not None
    assert clean.alternatives is not None
    address = int(clean.alternatives.address[0])
    return Change(clean, (Poke(section.address + offset, data),), address, 5, "")


def test_where_no_bytes_lie_means_nothing() -> None:
    """repl_offset of an empty replacement is not used."""
    clean = site(Replacement(b""))
    section = clean.program.section(".altinstructions")
    assert section is not None
    old = int.from_bytes(section.data[4:8].tobytes(), "little", signed=True)

    change = entry_change(clean, 4, (old + 2).to_bytes(4, "little", signed=True))

    assert proved(clean, change) == "empty-replacement"


def test_a_condition_between_equal_texts() -> None:
    """Both texts are one: the feature does not matter."""
    clean = site(Replacement(bytes.fromhex("0f1f440000")))

    change = entry_change(clean, 8, (7).to_bytes(2, "little"))

    assert proved(clean, change, Kind.CONDITION) == "same-texts"


def test_a_condition_between_texts_that_differ() -> None:
    """Another feature chooses another text: ORC does not see it, and it is wrong."""
    clean = site(Replacement(bytes.fromhex("31c0")))

    change = entry_change(clean, 8, (7).to_bytes(2, "little"))

    assert proved(clean, change, Kind.CONDITION) == ""


def test_a_shorter_replacement_without_stack() -> None:
    """The kernel is wrong, its table is not; a class of lengths has no such excuse."""
    clean = site(Replacement(bytes.fromhex("31c031d2")))

    change = entry_change(clean, 13, b"\x02")

    assert proved(clean, change, Kind.STATE) == "same-stack"
    assert proved(clean, change, Kind.LENGTH) == ""


def test_a_shorter_replacement_that_pops_no_more() -> None:
    """What it leaves out moved the stack: a defect."""
    program = a_site(
        bytes.fromhex("0f1f00"),
        [Replacement(bytes.fromhex("9c58"), SMAP)],
        [(1, call(16)), (2, call(8))],
    )
    clean = read_columns(program, NAMES)
    assert clean is not None

    change = entry_change(clean, 13, b"\x01")

    assert proved(clean, change) == ""


def test_every_rule_says_why() -> None:
    """Names are unique, reasons are sentences without a full stop."""
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason and not rule.reason.endswith(".") for rule in RULES)


def test_a_frame_that_two_registers_lead_to() -> None:
    """Behind `mov %rsp,%rbp` both are right, before it one is."""
    clean = framed()
    sixteen_bp = bytes.fromhex("1000 f0ff 1502")
    frame = bytes.fromhex("1000 f0ff 1402")
    head = [(0, EIGHT), (1, sixteen_bp)]
    late = [*head, (7, frame), (8, EIGHT), (9, NONE)]
    assert proved(clean, table_change(clean, late)) == "permitted"
    early = [(0, EIGHT), (1, frame), (8, EIGHT), (9, NONE)]
    assert proved(clean, table_change(clean, early)) == ""


def test_a_saved_register_that_is_still_there() -> None:
    """Until %rbp is written the caller's is in it, saved or not."""
    code = "55 53 4889f8 5b 5d c3"  # push %rbp; push %rbx; mov; pop; pop
    saved = [(1, call(16, -16)), (2, call(24, -16)), (6, call(16, -16)), (7, call(8))]
    clean = read(code, [(0, call(8)), *saved])
    both = [bytes.fromhex(f"{n}00 f0ff 1502") for n in ("10", "18")]
    unsaved = bytes.fromhex("1800 f0ff 0502")
    rows = [(0, EIGHT), (1, both[0]), (2, unsaved), (6, both[0]), (7, EIGHT), (8, NONE)]
    assert proved(clean, table_change(clean, rows)) == "bp-kept"
    written = read(code.replace("4889f8", "4889fd"), [(0, call(8)), *saved])
    assert proved(written, table_change(written, rows)) == ""


LEFT = "55 4889e5 53 4883ec10 {} 488d65f8 5b 5d c3"  # lea -8(%rbp),%rsp; pop; pop


def left(code: str) -> Columns:
    """A frame of %rbp at whose end %rsp is computed anew, with ``code`` in it."""
    last = 13 + len(bytes.fromhex(code))
    rows = [(0, call(8)), (1, call(16, -16)), (4, BP), (last + 1, call(8))]
    return read(LEFT.format(code), rows)


@pytest.mark.parametrize("code", ["50 90 90", "58 90 90"])
def test_a_stack_pointer_that_is_computed_anew(code: str) -> None:
    """A push too many, or a pop: %rsp is back before anybody counts from it."""
    clean = left("4889f8")
    assert proved(clean, code_change(clean, 9, code)) == "recomputed"


def test_a_stack_pointer_that_is_popped_from() -> None:
    """What is popped would be another word."""
    clean = left("4889f8 41 5c")
    assert proved(clean, code_change(clean, 9, "50 90 90")) == ""
    clean = framed()
    assert proved(clean, code_change(clean, 4, "50 90 90")) == ""


def test_a_stack_pointer_above_what_was_pushed() -> None:
    """Two words up, where one was pushed: locals would lie on the frame."""
    clean = left("4889f8")
    assert proved(clean, code_change(clean, 9, "58 58 90")) == ""


@pytest.mark.parametrize(("jump", "rule"), [("eb03", "never-executed"), ("7503", "")])
def test_padding_behind_a_jump_of_the_original(jump: str, rule: str) -> None:
    """What the original jumps over never runs, unless the jump has a condition."""
    replacement = Replacement(bytes.fromhex("0f1f440000"), SMAP)
    site = a_site(bytes.fromhex(f"{jump} 909090"), [replacement])
    clean = read_columns(site, NAMES)
    assert clean is not None
    assert clean.alternatives is not None
    start = int(clean.alternatives.site_address[0])

    assert proved(clean, poke(clean, start + 3, b"\x58")) == rule


@pytest.mark.parametrize(("flags", "rule"), [(1, "never-chosen"), (0, "")])
def test_a_replacement_that_no_machine_runs(flags: int, rule: str) -> None:
    """FILL_RETURN_BUFFER has one for "not ALWAYS"; the other is what all run."""
    lfence = Replacement(bytes.fromhex("0faee8"), ALWAYS, flags)
    clean = site(lfence, Replacement(bytes.fromhex("31c0")))
    assert clean.alternatives is not None
    at = int(clean.alternatives.replacement[0])

    assert proved(clean, poke(clean, at, bytes.fromhex("589090"))) == rule
    assert proved(clean, poke(clean, at, bytes.fromhex("58909090"))) == ""

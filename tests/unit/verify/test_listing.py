"""A listing says what each instruction, of each text, makes of the table's states."""

from __future__ import annotations

from harness.elf.feature import image_features
from harness.elf.program import Program
from harness.verify.columns import read_columns
from harness.verify.listing import Line, SiteListing, list_code
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call
from tests.builders.site import XENPV, Replacement, a_site

PUSHF_POP = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
CALL_PV_OPS = bytes.fromhex("ff1500000000")


def parts(program: Program, size: int) -> tuple[Line | SiteListing, ...]:
    """List the function at the start of .text."""
    columns = read_columns(program, image_features(program))
    assert columns is not None
    text = program.section(".text")
    assert text is not None
    return list_code(columns, "f", text.address, size).parts


def plain(code: str, *entries: tuple[int, int]) -> list[tuple[str, str, bool]]:
    """List a function: text, what it makes of its state, whether the table agrees."""
    writer = ElfWriter()
    data = bytes.fromhex(code)
    section = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("f", section, 0, len(data))
    rows = [(offset, call(sp)) for offset, sp in entries]
    add_orc(writer, section, [*rows, (len(data), UND)])
    lines = parts(writer.program(), len(data))
    return [(p.text, p.after, p.fits) for p in lines if isinstance(p, Line)]


def test_each_instruction_says_what_comes_of_it() -> None:
    """A push changes the state, a plain instruction says nothing, a return returns."""
    assert plain("50 90 58 c3", (0, 8), (1, 16), (3, 8)) == [
        ("pushq %rax", "sp+16 call", True),
        ("nop", "", True),
        ("popq %rax", "sp+8 call", True),
        ("retq", "returns", True),
    ]


def test_where_the_table_disagrees_it_shows() -> None:
    """The transfer's own answer is printed beside a table that is wrong."""
    assert plain("50 58 c3", (0, 8), (1, 24), (2, 16)) == [
        ("pushq %rax", "sp+16 call", False),
        ("popq %rax", "sp+16 call", True),
        ("retq", "returns like this", False),
    ]


def test_a_jump_tells_what_its_target_has() -> None:
    """A branch to another state is no fit."""
    lines = plain("eb00 50 c3", (0, 8), (2, 16))
    assert lines[0] == ("jmp f+0x2", "target has sp+16 call", False)


def test_a_site_has_a_column_per_text() -> None:
    """Each with its platforms, and the true state where the table has another."""
    before, site, after = parts(a_site(CALL_PV_OPS, [PUSHF_POP]), 11)

    assert isinstance(before, Line)
    assert isinstance(after, Line)
    assert isinstance(site, SiteListing)
    assert (before.text, site.offset, site.length) == ("endbr64", 4, 6)
    assert [text.label for text in site.texts] == [
        "original",
        "replacement 1 of 1 (not XENPV)",
    ]
    assert site.texts[1].platforms == ("native", "kvm", "vsmp")
    (popped,) = [row for row in site.rows if row.offset == 1]
    assert popped.state == "sp+8 call"
    assert popped.cells[0] is None
    assert popped.cells[1] is not None
    assert (popped.cells[1].text, popped.cells[1].state) == ("popq %rax", "sp+16 call")

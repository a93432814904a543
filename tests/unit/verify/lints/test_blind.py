"""Functions of which the table says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry, OrcType
from harness.elf.program import Program
from harness.elf.symbol import STT_FUNC, STT_NOTYPE
from harness.verify.columns import Part, read_columns
from harness.verify.lints.blind import check_blind
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_64,
    UND,
    ElfWriter,
    add_orc,
    call,
)

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
) -> Program:
    """Pieces of code, 16 bytes apart: (name, code, has a state), "" for no symbol.

    What has no state has the entry ``blind``; ``kinds`` of symbols are by name.
    """
    writer = ElfWriter()
    text, rows = bytearray(), list[tuple[int, OrcEntry]]()
    for _, code, known in pieces:
        rows.append((len(text), call(8) if known else blind))
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


END = OrcEntry(0, 0, 0, 0, OrcType.END_OF_STACK, False)


def test_a_function_that_ends_the_stack() -> None:
    """The caller is lost as well, unless the function loads a stack of its own."""
    assert names(program([("f", BODY, True), ("g", BODY, False)], blind=END)) == ["g"]
    # mov 0(%rip),%rsp; jmp .; the same behind a push
    start = bytes.fromhex("488b2500000000 ebfe")
    assert names(program([("start_cpu0", start, False)], blind=END)) == []
    assert names(program([("g", b"\x53" + start, False)], blind=END)) == ["g"]
    assert names(program([("g", start, False)])) == ["g"]


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

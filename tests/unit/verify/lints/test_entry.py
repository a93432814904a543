"""Where hardware enters: what its first claim cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.elf.symbol import STT_NOTYPE
from harness.verify.lints.entry import check_entries
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc
from tests.builders.flow import columns_of

END = OrcEntry(0, 0, 0, 0, OrcType.END_OF_STACK, False)
# endbr64; push $-1; iretq
CODE = "f30f1efa 6aff 48cf"


def partial(offset: int, register: int = OrcReg.SP, *, signal: bool = True) -> OrcEntry:
    return OrcEntry(offset, 0, register, OrcReg.UNDEFINED, OrcType.REGS_PARTIAL, signal)


def code(
    rows: Sequence[tuple[int, OrcEntry]], text: str = CODE, size: int = 8
) -> Program:
    """An entry of assembly with these states."""
    writer = ElfWriter()
    data = bytes.fromhex(text)
    section = writer.section(".text", data, flags=ALLOC | EXEC)
    writer.symbol("asm_exc", section, 0, size, kind=STT_NOTYPE)
    add_orc(writer, section, [*rows, (len(data), UND)])
    return writer.program("test.o")


def found(program: Program) -> list[str]:
    return [
        f"{f.rule} {f.location}" for f in check_entries(columns_of(program)).findings
    ]


def test_what_hardware_pushed() -> None:
    """The interrupt's words, and an error code below them."""
    assert found(code([(0, partial(0))])) == []
    assert found(code([(0, partial(8))])) == []
    assert check_entries(columns_of(code([(0, partial(0))]))).counts == {
        "interrupt entries": 1
    }


def test_only_the_stack_pointer_leads_there() -> None:
    """Every other register is the interrupted context's."""
    assert found(code([(0, partial(8, OrcReg.DX))])) == ["entry/frame asm_exc"]
    assert found(code([(0, partial(8)), (4, partial(8, OrcReg.DX))])) == []


def test_an_error_code_is_no_traps() -> None:
    """#BP, whose address is behind its instruction, pushes none."""
    assert found(code([(0, partial(0, signal=False))])) == []
    assert found(code([(0, partial(8, signal=False))])) == ["entry/frame asm_exc"]


def test_a_traps_frame_comes_from_hardware() -> None:
    """By steps and jumps; a hint in the middle of code does not make one."""
    trap = partial(0, signal=False)
    deep = partial(8, signal=False)
    text = "90 6a00 eb01 cc 48cf"  # nop; push $0; jmp; int3; iretq
    lost = ["entry/frame asm_exc+0x1"]
    assert found(code([(0, trap), (3, deep)], text)) == []
    assert found(code([(0, trap), (3, deep), (5, UND), (6, deep)], text)) == []
    for before in (partial(0), END, UND):
        assert found(code([(0, before), (1, trap), (3, partial(8))], text)) == [
            *lost,
            *(["entry/lost asm_exc"] if before == UND else []),
        ]
    landed = [(0, partial(0)), (6, trap)]  # an ENDBR
    assert found(code(landed, "90 6a00 eb01 cc f30f1efa 48cf", 12)) == []
    ended = [(0, trap), (2, partial(0)), (4, trap)]  # behind what does not go on
    assert found(code(ended, "90 90 48cf 48cf", 6)) == ["entry/frame asm_exc+0x4"]


def test_a_landing_without_a_symbol() -> None:
    """Stubs that follow each other share one symbol."""
    rows = [(0, partial(0)), (8, partial(8, OrcReg.DX))]
    assert found(code(rows, CODE + CODE, 16)) == ["entry/frame asm_exc+0x8"]


def test_a_first_instruction_without_a_state() -> None:
    """What comes behind it tells that there is one, if only the stack's end."""
    for behind in (partial(0), END):
        assert found(code([(0, UND), (4, behind)])) == ["entry/lost asm_exc"]
    assert found(code([(0, END), (4, partial(0))])) == []
    assert found(code([(0, UND)])) == []


def test_a_jump_without_a_state() -> None:
    """An interrupt's frame does not come from nowhere."""
    jump = "6a00 eb01 cc" + CODE  # push $0; jmp; int3
    lost = [(0, UND), (5, partial(8))]
    assert found(code(lost, jump, 4)) == ["entry/lost asm_exc+0x2"]
    (finding,) = check_entries(columns_of(code(lost, jump, 4))).findings
    assert finding.cause == "jumps of asm_exc"
    known = [(0, partial(0)), (2, partial(8))]
    assert found(code(known, jump, 4)) == []
    ends = [(0, END), (5, replace(partial(8)))]
    assert found(code(ends, jump, 4)) == []

"""A finding is cut out of its file, and shows again in what was cut out."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding, group_by_cause
from harness.verify import reproducer
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from tests.builders.elfwriter import UND, call, regs
from tests.builders.flow import kernel
from tests.builders.site import XENPV, Replacement, a_site

PUSHF_POP = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
CALL_PV_OPS = bytes.fromhex("ff1500000000")
OTHER = ("other", bytes.fromhex("5058c3"), [(0, call(8)), (1, call(16)), (2, call(8))])


def read(program: Program) -> tuple[Columns, Finding]:
    """Return the columns, and the one finding in them."""
    columns = read_columns(program, image_features(program))
    assert columns is not None
    (finding,) = group_by_cause(check_columns(columns).findings)
    return columns, finding


def made() -> reproducer.Reproducer:
    """The reproducer of a lost entry, from an object with another function."""
    columns, finding = read(a_site(CALL_PV_OPS, [PUSHF_POP], functions=[OTHER]))
    return reproducer.reproduce(columns, finding, "ab" * 32, {"orc-harness": "1"})


def test_it_shows_again_and_holds_nothing_else() -> None:
    """The function, its replacement and their rows are there, another function not."""
    cut = made()

    (again,) = reproducer.judge(cut)
    code = [bytes.fromhex(s.data) for s in cut.sections if s.executable]
    assert again.key == cut.key
    assert (again.declared, again.actual) == ("sp+8 call", "sp+16 call")
    assert code == [bytes.fromhex("f30f1efa ff1500000000 c3"), bytes.fromhex("9c58")]
    assert [symbol.name for symbol in cut.symbols] == ["victim"]
    assert cut.features == {XENPV: "XENPV"}


def test_it_takes_a_callee_along_if_the_finding_needs_it() -> None:
    """The state behind a call that moves the stack is read off the callee."""
    site = bytes.fromhex("e807000000")  # call the function behind
    odd = bytes.fromhex("5656 ffe0")  # two pushes and a jump: %rsp stays moved
    states = [(n, regs(8 + 8 * n, partial=True)) for n in range(3)]
    program = a_site(
        site + b"\x90",
        [Replacement(b"")],
        start=regs(8, partial=True),
        after=regs(8, partial=True),
        functions=[("odd", odd, states)],
    )
    columns = read_columns(program, image_features(program))
    assert columns is not None
    cause = "callee odd under sp+8 regs(partial)"
    findings = [f for f in check_columns(columns).findings if f.cause == cause]
    assert findings

    cut = reproducer.reproduce(columns, findings[0], "", {})

    assert {"victim", "odd"} <= {symbol.name for symbol in cut.symbols}


def test_a_callee_is_tried_where_others_jump_in_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with error_entry: hundreds of stubs lead to who calls it."""
    monkeypatch.setattr(reproducer, "RINGS", 1)
    odd = bytes.fromhex("5656 ffe0")
    stub = bytes.fromhex("e9dfffffff")  # jump to the site
    frame = regs(8, partial=True)
    program = a_site(
        bytes.fromhex("e80700000090"),
        [Replacement(b"")],
        start=frame,
        after=frame,
        functions=[
            ("odd", odd, [(n, regs(8 + 8 * n, partial=True)) for n in range(3)]),
            ("stub", stub, [(0, frame)]),
        ],
    )
    columns = read_columns(program, image_features(program))
    assert columns is not None
    cause = "callee odd under sp+8 regs(partial)"
    findings = [f for f in check_columns(columns).findings if f.cause == cause]
    first = int(program.symbols.address[0])
    assert reproducer.comes_from(columns, [(first, first + 11)]), "the stub comes first"

    cut = reproducer.reproduce(columns, findings[0], "", {})

    assert {symbol.name for symbol in cut.symbols} == {"victim", "odd"}


def test_it_takes_along_who_made_the_frame() -> None:
    """What a part of a function finds wrong is told by those who jump there."""
    # f: push %rbp; mov %rsp,%rbp; push %rbx; jmp f.cold; int3. f.cold: pop %rbp; ret
    framed = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
    rows = [(0, call(8)), (1, call(16, -16)), (4, framed), (7, UND)]
    rows += [(8, framed), (9, call(8)), (10, UND)]
    names = [("f", 0, 7), ("f.cold", 8, 2)]
    columns, finding = read(kernel("55 4889e5 53 eb01 cc" + "5d c3", rows, names))

    cut = reproducer.reproduce(columns, finding, "", {})

    assert {symbol.name for symbol in cut.symbols} == {"f", "f.cold"}
    (again,) = reproducer.judge(cut)
    assert (again.declared, again.actual) == (finding.declared, finding.actual)


def test_a_file_keeps_it(tmp_path: Path) -> None:
    """What is written is what is read."""
    path = tmp_path / "r.json"
    path.write_bytes(reproducer.dump(made()))

    assert reproducer.load(path) == made()


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FormatError, match="is no reproducer"):
        reproducer.load(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """It says which it has and which it knows."""
    path = tmp_path / "r.json"
    path.write_bytes(reproducer.dump(replace(made(), schema="other/2")))
    with pytest.raises(FormatError, match="other/2"):
        reproducer.load(path)

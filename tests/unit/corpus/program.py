"""Program: a small object that mutants are made of, clean to begin with."""

from __future__ import annotations

from harness.elf.feature import Features
from harness.elf.orc import OrcEntry
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call
from tests.builders.site import SMAP, XENPV, Replacement, a_site

NAMES = Features({XENPV: "XENPV", SMAP: "SMAP"}, 0, "test")
# endbr64; push %rbx; sub $16,%rsp; mov %rdi,%rbx; add $16,%rsp; pop %rbx; ret
FUNCTION = bytes.fromhex("f30f1efa 53 4883ec10 4889fb 4883c410 5b c3")
ROWS = (
    (0, call(8)),
    (5, call(16)),
    (9, call(32)),
    (16, call(16)),
    (17, call(8)),
)


def columns() -> Columns:
    """Return the object's columns: a site that pushes, and a function with a frame."""
    program = a_site(
        bytes.fromhex("0f1f4000 6690"),
        [
            Replacement(bytes.fromhex("9c58"), XENPV, flags=1),
            Replacement(bytes.fromhex("31c0"), SMAP),
        ],
        [(1, call(16)), (2, call(8))],
        functions=[("f", FUNCTION, ROWS)],
    )
    read = read_columns(program, NAMES)
    assert read is not None
    return read


def read(
    text: str, rows: list[tuple[int, OrcEntry]], *, behind: int | None = None
) -> Columns:
    """Return the columns of an object with one function ``f``.

    Another one, ``g``, has the bytes from ``behind`` on.
    """
    writer = ElfWriter()
    code = bytes.fromhex(text)
    section = writer.section(".text", code, flags=ALLOC | EXEC, align=16)
    writer.symbol("f", section, 0, len(code[:behind]))
    if behind is not None:
        writer.symbol("g", section, behind, len(code) - behind)
    add_orc(writer, section, [*rows, (len(code), UND)])
    made = read_columns(writer.program(), NAMES)
    assert made is not None
    return made


def rules(columns: Columns) -> set[str]:
    """Return the rules that find something in ``columns``."""
    return {finding.rule for finding in check_columns(columns).findings}

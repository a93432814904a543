"""Symbol tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.elf.load import parse
from harness.elf.symbol import STT_FUNC, Names
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ABS,
    FILE,
    LOCAL,
    NOTYPE,
    SECTION,
    WEAK,
    ElfWriter,
)


def _writer() -> tuple[ElfWriter, int]:
    writer = ElfWriter()
    return writer, writer.section(".text", b"\x90" * 256, flags=6, align=16)


def test_the_nearest_symbol_names_an_address() -> None:
    """As in kallsyms, an inner label hides the function around it."""
    writer, text = _writer()
    writer.symbol("outer", text, 16, size=100)
    writer.symbol("inner", text, 40, kind=NOTYPE, binding=LOCAL)
    program = writer.program()
    base = program.sections[0].address
    assert program.symbols.locate(base + 20) == ("outer", 4)
    assert program.symbols.locate(base + 50) == ("inner", 10)
    assert program.symbols.locate(base) == ("", base)


def test_of_equal_addresses_the_best_name_wins() -> None:
    """Size, then function, then global, go before labels and aliases."""
    writer, text = _writer()
    writer.symbol("_stext", text, 0, kind=NOTYPE)
    writer.symbol("weak_alias", text, 0, size=8, binding=WEAK)
    writer.symbol("local", text, 0, size=8, binding=LOCAL)
    writer.symbol("data", text, 0, size=8, kind=NOTYPE)
    writer.symbol("real", text, 0, size=8)
    symbols = writer.program().symbols
    assert symbols.names.tolist() == ["real", "weak_alias", "local", "data", "_stext"]
    assert symbols.locate(int(symbols.address[0]) + 3) == ("real", 3)


def test_names_are_found() -> None:
    """A global goes before local ones, of those the lowest address counts."""
    writer, text = _writer()
    writer.symbol("twice", text, 32, binding=LOCAL)
    writer.symbol("twice", text, 16, binding=LOCAL)
    writer.symbol("known", text, 8, binding=LOCAL)
    writer.symbol("known", text, 64)
    program = writer.program()
    base = program.sections[0].address
    assert program.symbols.find("twice") == base + 16
    assert program.symbols.find("known") == base + 64
    assert program.symbols.find("unknown") is None


def test_a_name_is_sought_once(monkeypatch) -> None:
    """Each view of a kernel asks for the same hundreds, some of which are not there."""
    writer, text = _writer()
    writer.symbol("known", text, 64)
    symbols = writer.program().symbols
    sought: list[str] = []
    rows = Names.rows
    monkeypatch.setattr(
        Names, "rows", lambda self, name: sought.append(name) or rows(self, name)
    )

    found = [symbols.find(name) for name in ("known", "unknown") * 2]

    assert found == [int(symbols.address[0]), None] * 2
    assert sought == ["known", "unknown"]


def test_what_is_no_place_is_left_out() -> None:
    """Files, sections, absolute numbers and nameless symbols name no code."""
    writer, text = _writer()
    writer.symbol("crc7.c", ABS, kind=FILE, binding=LOCAL)
    writer.symbol("", text, kind=SECTION, binding=LOCAL)
    writer.symbol("a_number", ABS, 0x1234, kind=NOTYPE)
    writer.symbol("function", text, 4)
    symbols = writer.program().symbols
    assert symbols.names.tolist() == ["function"]
    assert symbols.functions.tolist() == [True]
    assert symbols.kind.tolist() == [STT_FUNC]


def test_local_labels_name_nothing() -> None:
    """An oops does not know them, nor do the symbols of a stripped kernel."""
    writer, text = _writer()
    for name, address in (("f", 0), (".Ltmp0", 5), (".Loop", 7), (".text.f", 9)):
        writer.symbol(name, text, address, 0)
    symbols = writer.program().symbols
    start = int(symbols.address[0])
    assert [symbols.locate(start + n) for n in (6, 8, 10)] == [
        ("f", 6),
        ("f", 8),
        (".text.f", 1),
    ]


def test_a_symbol_of_no_section_is_refused() -> None:
    """A section number beyond the file is damage."""
    writer, _ = _writer()
    writer.symbol("lost", 99)
    with pytest.raises(FormatError, match="symbol lost is in section 99"):
        writer.program()


def test_section_numbers_may_be_in_a_table_of_their_own() -> None:
    """Objects with very many sections keep them in .symtab_shndx."""
    writer, text = _writer()
    writer.symbol("function", text, 8)
    program = parse(writer.build(extended=True), "x.o", Path("x.o"))
    assert program.symbols.find("function") == program.sections[0].address + 8


def test_an_extended_section_number_beyond_the_file_is_refused() -> None:
    """It is checked like any other."""
    writer, _ = _writer()
    writer.symbol("function", 0xFF01)
    data = writer.build(extended=True)
    with pytest.raises(FormatError, match="symbol function is in section 65281"):
        parse(data, "x.o", Path("x.o"))


def test_a_missing_table_of_section_numbers_is_refused() -> None:
    """A symbol that refers to it needs it."""
    writer, _ = _writer()
    writer.symbol("function", 0xFFFF)
    with pytest.raises(FormatError, match=r"need \.symtab_shndx"):
        writer.program()

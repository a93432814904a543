"""Whole files: addresses, places, and damage."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.elf.alternative import parse_alternatives
from harness.elf.feature import image_features
from harness.elf.hint import parse_hints
from harness.elf.load import MODULE_SIGNATURE, load, parse
from harness.elf.orc import parse_orc
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    NOBITS,
    R_PC32,
    UND,
    WRITE,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)

TEXT = 0xFFFF_FFFF_8100_0000


def _module() -> bytes:
    writer = ElfWriter()
    text = writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC, align=16)
    writer.section(".modinfo", b"name=x\0vermagic=6.12.7-test SMP mod_unload \0")
    function = writer.symbol("x_init", text, 16, size=32)
    add_orc(writer, text, [(0, UND), (16, call()), (17, call(16)), (48, UND)])
    rows = [Alternative(20, 0, 8 * 32 + 16, 6, 2, flags=1)]
    add_alternatives(writer, text, b"\x9c\x58", rows)
    sites = writer.section(".return_sites", bytes(4))
    writer.relocation(sites, 0, R_PC32, function, 8)
    return writer.build()


def _kernel() -> Program:
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC, address=TEXT)
    banner = b"\0\0Linux version 6.1.0-test (x@y) (gcc) #1 SMP\n\0"
    writer.section(".rodata", banner, address=TEXT + 0x1000)
    writer.section(".data", bytes(64), flags=7, address=TEXT + 0x2000)
    writer.section(
        ".bss", type=NOBITS, size=64, flags=WRITE | ALLOC, address=TEXT + 0x3000
    )
    writer.symbol("do_idle", text, TEXT + 16, size=16)
    return parse(writer.build(), "vmlinux", Path("vmlinux"))


def test_a_kernel_keeps_its_addresses() -> None:
    """Sections lie where they were linked, places are symbol+offset."""
    program = _kernel()
    assert not program.relocatable
    assert program.release == "6.1.0-test"
    assert program.read(TEXT + 3, 2).tobytes() == b"\x90\x90"
    place = program.location(TEXT + 20)
    assert (str(place), place.object, place.address) == (
        "do_idle+0x4",
        "vmlinux",
        TEXT + 20,
    )


def test_a_place_without_a_symbol_is_in_its_section() -> None:
    """A symbol of another section never names a place; outside it is a number."""
    program = _kernel()
    assert str(program.location(TEXT + 3)) == ".text+0x3"
    assert str(program.location(TEXT + 0x1003)) == ".rodata+0x3"
    assert str(program.location(TEXT + 64)) == "do_idle+0x30"
    assert str(program.location(0x10)) == "0x10"
    assert str(program.location(0)) == "0x0"


def test_data_is_not_code_even_if_it_may_run() -> None:
    """A writable section of a linked kernel is data where ORC covers nothing."""
    assert [s.name for s in _kernel().executable] == [".text"]


def test_code_inside_data_is_what_orc_covers() -> None:
    """relocate_kernel lies in .data: the section is split around it."""
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC, address=TEXT)
    data = writer.section(
        ".data", b"\x90" * 64, flags=WRITE | ALLOC | EXEC, address=TEXT + 0x1000
    )
    writer.symbol("relocate_kernel", data, TEXT + 0x1010)
    rows = [(0, call()), (0x1010, call()), (0x1020, call(16)), (0x1030, UND)]
    add_orc(writer, text, rows, address=TEXT + 0x2000)
    program = parse(writer.build(), "vmlinux", Path("vmlinux"))
    code = [(s.name, s.address - TEXT, s.size) for s in program.executable]
    assert code == [(".text", 0, 64), (".data+0x10", 0x1010, 32)]
    names = [s.name for s in program.sections if s.index == data]
    assert names == [".data", ".data+0x10", ".data+0x30"]
    assert str(program.location(TEXT + 0x1021)) == "relocate_kernel+0x11"
    assert str(program.location(TEXT + 0x1004)) == ".data+0x4"


def test_bss_reads_as_zeros_and_nothing_beyond_a_section() -> None:
    """Reading needs a section that holds every byte."""
    program = _kernel()
    assert program.read(TEXT + 0x3000, 8).tobytes() == bytes(8)
    with pytest.raises(FormatError, match="no section holds 8 bytes at"):
        program.read(TEXT + 60, 8)


def test_addresses_are_looked_up_as_columns() -> None:
    """Each address gets its section, the end is outside."""
    program = _kernel()
    addresses = np.array(
        [0, TEXT, TEXT + 63, TEXT + 64, TEXT + 0x1000], dtype=np.uint64
    )
    assert program.sections_at(addresses).tolist() == [-1, 0, 0, -1, 1]
    assert program.in_code(addresses).tolist() == [False, True, True, False, False]


def test_a_module_is_laid_out_and_named_without_its_packing(tmp_path: Path) -> None:
    """Places of a module print section offsets as addresses."""
    path = tmp_path / "x.ko.xz"
    path.write_bytes(lzma.compress(_module()))
    program = load(path)
    assert (program.name, program.release) == ("x.ko", "6.12.7-test")
    text = program.section(".text")
    assert text is not None
    place = program.location(text.address + 20)
    assert (str(place), place.address) == ("x_init+0x4", 20)


def test_a_signed_module_is_read_and_noted() -> None:
    """The signature lies behind the ELF file and changes nothing else."""
    signed = _module() + b"PKCS7" * 40 + MODULE_SIGNATURE
    program = parse(signed, "x.ko", Path("x.ko"))
    assert program.notes == ("signed module: the signature is not checked",)
    assert len(program.symbols) == 1


def test_a_livepatch_is_noted() -> None:
    """Its late relocations are applied and told."""
    writer = ElfWriter()
    text = writer.section(".text", bytes(8), flags=ALLOC | EXEC)
    symbol = writer.symbol(".klp.sym.vmlinux.f,0", 0xFF20)
    writer.relocation(text, 0, R_PC32, symbol)
    data = writer.build().replace(b".rela.text", b".klp.rela.")
    program = parse(data, "patch.ko", Path("patch.ko"))
    assert program.notes == ("livepatch: symbols that it patches count as external",)
    assert program.sections[0].data.any()


def test_the_debug_half_of_a_file_is_refused() -> None:
    """objcopy --only-keep-debug leaves code without bytes."""
    writer = ElfWriter()
    writer.section(".text", type=NOBITS, size=64, flags=ALLOC | EXEC)
    with pytest.raises(FormatError, match="debug half"):
        writer.program()


def test_overlapping_sections_are_refused() -> None:
    """No address may mean two things."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(64), flags=ALLOC | EXEC, address=TEXT)
    writer.section(".data", bytes(64), address=TEXT + 63)
    with pytest.raises(FormatError, match=r"\.text and \.data overlap"):
        writer.program()


def test_a_section_beyond_the_address_space_is_refused() -> None:
    """Addresses have 64 bits; a place beyond them is a number."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(64), flags=ALLOC | EXEC, address=(1 << 64) - 63)
    with pytest.raises(FormatError, match=r"\.text ends at 0x1\w+1, beyond 64 bits"):
        writer.program()
    assert str(_kernel().location(1 << 64)) == "0x10000000000000000"
    assert _kernel().symbols.locate((1 << 64) + 5)[0] == "do_idle"
    assert _kernel().symbols.locate(-5) == ("", -5)


def _read_everything(data: bytes) -> None:
    """Parse all there is; only FormatError may come out of it."""
    try:
        program = parse(data, "fuzz.ko", Path("fuzz.ko"))
        table = parse_orc(program)
        parse_alternatives(program)
        parse_parainstructions(program)
        if table is not None:
            parse_hints(program, table)
        for kind in SiteTable:
            parse_sites(program, kind)
        for section in program.sections:
            program.location(section.address)
        image_features(program)
    except FormatError:
        return


@given(st.integers(0, len(_module())))
@settings(max_examples=150, deadline=None)
def test_any_truncation_is_a_clear_error(size: int) -> None:
    """A file cut anywhere is refused, never a traceback."""
    _read_everything(_module()[:size])


@given(
    st.lists(
        st.tuples(st.integers(0, len(_module()) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=400, deadline=None)
def test_any_damage_is_a_clear_error(changes: list[tuple[int, int]]) -> None:
    """Changed bytes give another program or a FormatError, nothing else."""
    data = bytearray(_module())
    for offset, value in changes:
        data[offset] = value
    _read_everything(bytes(data))


@given(
    st.integers(0, (len(_module()) - 64) // 8 - 1),
    st.sampled_from([0, 1, 3, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]),
)
@settings(max_examples=400, deadline=None)
def test_any_absurd_word_is_a_clear_error(word: int, value: int) -> None:
    """Sizes, offsets and addresses at the edges of their range do no harm."""
    data = bytearray(_module())
    data[word * 8 : word * 8 + 8] = value.to_bytes(8, "little")
    _read_everything(bytes(data))


@given(st.binary(max_size=400))
def test_random_bytes_are_a_clear_error(data: bytes) -> None:
    """So are files that are nothing at all, with and without a magic."""
    _read_everything(data)
    _read_everything(b"\x7fELF\x02\x01\x01" + data)

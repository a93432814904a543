"""Functions that keep their ENDBR: only those whose address something has."""

from __future__ import annotations

import struct

import pytest

from harness.elf.program import Program
from harness.verify.lints.patch_site import check_patch_sites
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, UND, ElfWriter, add_orc
from tests.builders.elfwriter import call as called
from tests.builders.flow import RODATA, TABLE, TEXT, columns_of, relative

# Three functions at 0, 16 and 32: `victim`, `sealed`, and `other`, which has ``body``.
VICTIM, SEALED, OTHER = 0, 16, 32
ENDBR = bytes.fromhex("f30f1efa")
INIT = TEXT + 0x1000
RET = b"\xc3"


def call(place: int, goes: int) -> bytes:
    """A call at ``place`` in .text of ``goes``."""
    return b"\xe8" + struct.pack("<i", goes - (place + 5))


CALLS_IT = call(OTHER, VICTIM)


def program(
    body: bytes = CALLS_IT,
    *,
    data: bytes = b"",
    name: str = ".data",
    at: int = RODATA,
    init: bytes = b"",
    symbols: tuple[tuple[str, int], ...] = (),
    victim: bytes = ENDBR + RET,
) -> Program:
    """A kernel whose list has the second function only; ``data`` are in ``name``."""
    functions = [victim, ENDBR + RET, body + RET]
    text = b"".join(code.ljust(16, b"\xcc") for code in functions)
    writer = ElfWriter(ET_EXEC)
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=TEXT)
    for n, code in enumerate(functions):
        label = ("victim", "sealed", "other")[n]
        writer.symbol(label, section, TEXT + 16 * n, len(code))
    if init:
        number = writer.section(".init.text", init, flags=ALLOC | EXEC, address=INIT)
        writer.symbol("setup", number, INIT, len(init))
    writer.section(".ibt_endbr_seal", relative(TABLE, SEALED), address=TABLE)
    if data:
        number = writer.section(name, data, address=at)
        for label, place in symbols:
            writer.symbol(label, number, place, kind=0)
    add_orc(writer, section, [(0, called()), (len(text), UND)], address=TEXT + 0x300000)
    return writer.program("vmlinux")


def found(some: Program) -> list[str]:
    """Where the check finds something; it must say what."""
    findings = check_patch_sites(columns_of(some)).findings
    assert all("not in .ibt_endbr_seal" in finding.message for finding in findings)
    return [str(finding.location) for finding in findings]


ABSOLUTE = struct.pack("<Q", TEXT + VICTIM)
IMMEDIATE = b"\x48\xc7\xc7" + struct.pack("<i", (TEXT + VICTIM) - (1 << 64))  # mov
RELATIVE = b"\x48\x8d\x3d" + struct.pack("<i", VICTIM - (OTHER + 5 + 7))  # lea
WHOLE = b"\x48\xbf" + ABSOLUTE  # movabs
STORE = b"\xc7\x05" + struct.pack("<ii", VICTIM - (OTHER + 5 + 10), 0)  # movl $0


def test_a_function_that_is_only_called() -> None:
    """Its ENDBR is to go, and the list does not say so."""
    assert found(program()) == ["victim"]
    (finding,) = check_patch_sites(columns_of(program())).findings
    assert finding.rule == "patch-site/missing"


def test_a_function_that_nothing_leads_to() -> None:
    """Something that the linker dropped had its address: module_exit(), for one."""
    assert found(program(b"\x90")) == []


def test_a_function_that_calls_itself_only() -> None:
    """Nobody else does."""
    back = b"\xeb" + struct.pack("<b", -len(ENDBR) - 2)
    assert found(program(b"\x90", victim=ENDBR + back)) == []
    assert found(program(victim=ENDBR + back)) == ["victim"]


@pytest.mark.parametrize("code", [IMMEDIATE, RELATIVE, WHOLE, STORE])
def test_code_that_has_its_address(code: bytes) -> None:
    """As an immediate, or counted from behind the instruction."""
    assert found(program(CALLS_IT + code)) == []


@pytest.mark.parametrize("before", range(8))
def test_code_that_has_its_whole_address(before: int) -> None:
    """Wherever it lies."""
    assert found(program(CALLS_IT + before * b"\x90" + WHOLE)) == []


def test_other_code() -> None:
    """Another function's address is not its."""
    near = b"\x48\xc7\xc7" + struct.pack("<i", (TEXT + SEALED) - (1 << 64))
    assert found(program(CALLS_IT + near)) == ["victim"]


@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("at", [RODATA, RODATA + 3])
def test_data_that_have_its_address(before: int, at: int) -> None:
    """Wherever they lie, also packed."""
    assert found(program(data=bytes(before) + ABSOLUTE, at=at)) == []
    distance = relative(at + before, VICTIM)
    assert found(program(data=bytes(before) + distance, at=at)) == []
    assert found(program(data=bytes(before) + b"\x01" + bytes(8), at=at)) == ["victim"]


@pytest.mark.parametrize("name", [".orc_lookup", "__bug_table", ".discard.noendbr"])
def test_lists_of_code(name: str) -> None:
    """They name it, and nobody calls it by that."""
    assert found(program(data=ABSOLUTE, name=name)) == ["victim"]


def test_what_asks_for_its_endbr() -> None:
    """IBT_NOSEAL(), as long as the object has it."""
    assert found(program(data=ABSOLUTE, name=".discard.ibt_endbr_noseal")) == []


def test_the_kernels_own_symbols() -> None:
    """Since 7.x kallsyms_offsets counts from its own place: of every function."""
    data = relative(RODATA, VICTIM) + bytes(4)
    names = (("kallsyms_offsets", RODATA), ("kallsyms_names", RODATA + 4))
    assert found(program(data=data, name=".rodata")) == []
    assert found(program(data=data, name=".rodata", symbols=names)) == ["victim"]


def test_init_code() -> None:
    """It calls what module_exit() has, if it fails; what is init code has no exit."""
    calls = call(0, TEXT + VICTIM - INIT) + RET
    assert found(program(b"\x90", init=calls)) == []
    setup = ENDBR + RET
    assert found(program(call(OTHER, INIT - TEXT), init=setup)) == ["setup"]
    inner = setup + call(len(setup), 0) + RET  # within itself
    assert found(program(b"\x90", init=inner)) == []

"""What is wrong inside of an operation that the kernel wrote over a call."""

from __future__ import annotations

import struct

from msgspec.structs import replace

from harness.boot.shadow import judge
from harness.boot.shadow.code import Code, Module
from harness.boot.shadow.inlined import Inlined
from harness.boot.shadow.record import Mismatch, ModuleRows, Record, parse
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    LOCAL,
    R_64,
    R_PC32,
    SECTION,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
)
from tests.builders.running import TEXT, Kernel

SAVE, MSR = TEXT + 0x400, TEXT + 0x440
PUSHF_POP = int.from_bytes(bytes.fromhex("9c58"), "little")
SITE, OTHER = TEXT + 0x10, TEXT + 0x20


def kernel() -> Program:
    """Two calls through pv_ops: `pushf; pop %rax`, and one that stays a call."""
    found = Kernel(
        functions={"f": 0, "native_save_fl": SAVE, "native_write_msr": MSR},
        variables={
            "pv_ops": (SAVE, 0),
            "wide": (MSR, 0),
            "patch_data_xxl": (PUSHF_POP, 0),
        },
    )
    for site, name in ((SITE, "pv_ops"), (OTHER, "wide")):
        distance = found.address(name) - site - 6
        found.text[site - TEXT] = b"\xff\x15" + struct.pack("<i", distance)
    found.paravirt = [(SITE, 0, 6), (OTHER, 2, 6)]
    return found.linked()


def table() -> OrcTable:
    writer = ElfWriter()
    text = writer.section(".text", bytes(0x100), flags=ALLOC | EXEC)
    add_orc(writer, text, [(0, call(8)), (0x100, UND)])
    found = parse_orc(writer.program("vmlinux"))
    assert found is not None
    return replace(found, ip=found.ip + TEXT)


def record(*places: int) -> Record:
    good = b"misread 0\ncontrol_seen 1\ncontrol_clean 1\nend\n"
    told = parse(good, b"")
    return replace(
        told,
        mismatches=tuple(
            Mismatch("cfa", pc, 0, 5, 0x100, 0x108, 0xF8, pc - 1, 0, 0) for pc in places
        ),
    )


def test_it_is_the_cause_of_what_is_wrong_inside_of_it() -> None:
    """In the words of the static finding; the entry's other places are not excused."""
    code = Code(kernel(), table())
    found = judge.findings(record(SITE + 1, SITE, OTHER + 1, OTHER + 2), code, "native")

    assert [one.key for one in found] == [
        "shadow/cfa:vmlinux:f:-:0",
        "shadow/cfa:inlined native_save_fl",
    ]
    assert [len([w for w in one.window if " times; " in w]) for one in found] == [3, 1]


def test_it_is_where_a_module_was_loaded() -> None:
    """Its calls go through the kernel's pv_ops, and name that kernel's operation."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xff\x15" + bytes(14), flags=ALLOC | EXEC)
    writer.symbol("g", text, 0, 16)
    sites = writer.section(".parainstructions", struct.pack("<QBB6x", 0, 0, 6))
    code = writer.symbol("", text, kind=SECTION, binding=LOCAL)
    writer.relocation(text, 2, R_PC32, writer.symbol("pv_ops", UNDEF), -4)
    writer.relocation(sites, 0, R_64, code)
    add_orc(writer, text, [(0, call(8)), (16, UND)])
    module = writer.program("m.ko")
    own = parse_orc(module)
    assert own is not None
    loaded = own.ip - own.ip[0] + 0xFFFFFFFFC0000000
    rows = ModuleRows("m", 2, loaded)
    inlined = Inlined(Code(kernel(), table(), (Module(module, own, rows),)))

    assert inlined.at(0xFFFFFFFFC0000001, 2) == "native_save_fl"
    assert inlined.at(0xFFFFFFFFC0000000, 2) == ""
    assert inlined.at(0xFFFFFFFFC0000001, 0) == ""

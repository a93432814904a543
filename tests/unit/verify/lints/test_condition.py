"""Conditions of replacements: who tells a wrong one."""

from __future__ import annotations

from msgspec.structs import replace

from harness.elf.feature import Features
from harness.elf.program import Program
from harness.verify.columns import read_columns
from harness.verify.lints.condition import check_conditions
from harness.verify.witness import kernel_of
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    UND,
    WRITE,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)
from tests.builders.site import (
    ALWAYS,
    SMAP,
    XENPV,
    Replacement,
    a_site,
    many_sites,
)

NAMES = Features({SMAP: "SMAP", XENPV: "XENPV", ALWAYS: "ALWAYS"}, 22, "test")
CLAC = bytes.fromhex("0f01ca")
NOPS = b"\x90" * 3
PV_CALL = bytes.fromhex("ff1500000000")
CLI = bytes.fromhex("fa")
DIRECT = bytes.fromhex("e800000000")


def messages(program: Program) -> list[str]:
    """What the check says."""
    columns = read_columns(program, NAMES)
    assert columns is not None
    return [finding.message for finding in check_conditions(columns).findings]


def test_an_instruction_tells_its_feature() -> None:
    """CLAC on SMAP is right; on another bit, or without it, it is wrong."""
    assert messages(a_site(NOPS, [Replacement(CLAC, SMAP)])) == []
    for wrong in (Replacement(CLAC, XENPV), Replacement(CLAC, SMAP, flags=1)):
        (message,) = messages(a_site(NOPS, [wrong]))
        assert "needs" in message
        assert "SMAP" in message


def test_others_with_the_same_texts_tell() -> None:
    """Of four equal sites the one with another condition is wrong."""
    good = (PV_CALL, [Replacement(CLI, XENPV, flags=1)])
    bad = (PV_CALL, [Replacement(CLI, XENPV)])
    assert messages(many_sites([good] * 4)) == []
    (message,) = messages(many_sites([good, good, bad, good]))
    expected = (
        "the replacement is for XENPV: 3 sites with these texts are for not XENPV"
    )
    assert message == expected


def test_two_of_a_kind_are_another_macro() -> None:
    """A condition that two sites share is nobody's slip."""
    some = (PV_CALL, [Replacement(CLI, XENPV, flags=1)])
    other = (PV_CALL, [Replacement(CLI, 4 * 32)])
    assert messages(many_sites([some] * 90 + [other] * 2)) == []


def test_sites_with_further_replacements_are_another_macro() -> None:
    """ALTERNATIVE and ALTERNATIVE_2 of the same call are for different reasons."""
    barrier = (PV_CALL, [Replacement(CLI, XENPV)])
    longer = (PV_CALL, [Replacement(CLI, 4 * 32), Replacement(NOPS, XENPV)])
    assert messages(many_sites([barrier, barrier, barrier, longer])) == []


def test_two_sites_are_no_majority() -> None:
    """One against two is no proof."""
    good = (PV_CALL, [Replacement(CLI, XENPV, flags=1)])
    bad = (PV_CALL, [Replacement(CLI, XENPV)])
    assert messages(many_sites([good, good, bad])) == []


def test_the_kernel_is_a_witness_for_its_modules() -> None:
    """A module has one site of a macro, its kernel all the others."""
    good = (PV_CALL, [Replacement(CLI, XENPV, flags=1)])
    module = read_columns(many_sites([(PV_CALL, [Replacement(CLI, XENPV)])]), NAMES)
    assert module is not None
    kernel = kernel_of(many_sites([good] * 20))

    part = check_conditions(replace(module, kernel=kernel))

    assert check_conditions(module).findings == ()
    (finding,) = part.findings
    assert "20 sites with these texts are for not XENPV" in finding.message
    assert part.counts == {"conditions witnessed": 1}


def test_a_module_has_the_kernels_macro_for_a_feature_of_its_own() -> None:
    """A few sites of the kernel are no witness against a module's only one."""
    untrain = (PV_CALL, [Replacement(CLI, XENPV)])
    module = read_columns(many_sites([(PV_CALL, [Replacement(CLI, 4 * 32)])]), NAMES)
    assert module is not None

    part = check_conditions(
        replace(module, kernel=kernel_of(many_sites([untrain] * 8)))
    )

    assert part.findings == ()


def test_fences_are_for_anything() -> None:
    """An lfence in place of nothing has many reasons: no majority counts."""
    lfence = bytes.fromhex("0faee8")
    sites = [(NOPS, [Replacement(lfence, 20 * 32 + 2)])] * 9
    assert messages(many_sites([*sites, (NOPS, [Replacement(lfence, 364)])])) == []


def test_direct_calls_replace_calls_through_memory() -> None:
    """ALT_FLAG_DIRECT_CALL elsewhere would panic."""
    direct = Replacement(DIRECT, ALWAYS, flags=2)
    assert messages(a_site(PV_CALL, [direct])) == []
    (message,) = messages(a_site(DIRECT, [direct]))
    assert "only a call through memory can be made direct" in message


def a_test_of(bits: list[int], cpuids: list[int]) -> Program:
    """static_cpu_has() of each of ``bits``, whose entries say ``cpuids``."""
    writer = ElfWriter()
    count = len(bits)
    text = bytearray(b"\xe9\0\0\0\0" * count + b"\xc3")
    aux = bytearray()
    capability = writer.section(".data", bytes(96), flags=ALLOC | WRITE)
    section = writer.section(".text", bytes(text), flags=ALLOC | EXEC)
    for bit in bits:
        aux += bytes((0xF6, 0x05, 0, 0, 0, 0, 1 << (bit & 7))) + b"\x75\x00\xc3"
    away = writer.section(".altinstr_aux", bytes(aux), flags=ALLOC | EXEC)
    writer.symbol("f", section, 0, len(text))
    data, there = (writer.symbol("", s, kind=3, binding=0) for s in (capability, away))
    rows = []
    for n, (bit, cpuid) in enumerate(zip(bits, cpuids, strict=True)):
        writer.relocation(section, 5 * n + 1, 2, there, 10 * n - 4)
        writer.relocation(away, 10 * n + 2, 2, data, bit // 8 - 5)
        rows.append(Alternative(5 * n, 5 * n, ALWAYS, 5, 5))
        rows.append(Alternative(5 * n, 0, cpuid, 5, 0))
    add_orc(writer, section, [(0, call(8)), (len(text), UND)])
    add_alternatives(writer, section, b"\xe9\0\0\0\0" * count, rows)
    return writer.program()


def test_the_tested_bit_tells() -> None:
    """static_cpu_has() tests the very bit that its entry must name."""
    bits = [3, 77, 130, 301, 500]
    assert messages(a_test_of(bits, bits)) == []
    for wrong in (302, 301 + 8):
        (message,) = messages(a_test_of(bits, [3, 77, 130, wrong, 500]))
        assert "until it is patched the site tests 9*32+13" in message


def test_a_few_tests_tell_the_low_bits() -> None:
    """Where too few sites tell where the bits are, the bit in its byte still counts."""
    assert messages(a_test_of([9, 20], [17, 20])) == []
    (message,) = messages(a_test_of([9, 20], [18, 20]))
    assert "tests another bit" in message


def test_counts_say_how_many_are_witnessed() -> None:
    """An entry of which nothing tells the condition is not counted."""
    program = many_sites(
        [(NOPS, [Replacement(CLAC, SMAP)]), (NOPS, [Replacement(CLI)])]
    )
    columns = read_columns(program, NAMES)
    assert columns is not None
    assert check_conditions(columns).counts == {"conditions witnessed": 1}
    bare = replace(columns, alternatives=None, streams=None)
    assert check_conditions(bare).counts == {}

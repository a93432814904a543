"""The texts of a site and the NOPs that each era writes."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.alternative import parse_alternatives
from harness.elf.orc import OrcFormat
from harness.elf.program import Program
from harness.text.decode import decode_all
from harness.text.insn import Insn, InsnKind
from harness.text.patch import (
    NOPS,
    Era,
    NopTable,
    Streams,
    build_streams,
    merge_nops,
    nop_tables,
    sniff_era,
    text,
)
from harness.text.patch.nops import K8_NOPS
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter, add_orc, call
from tests.builders.site import ALWAYS, SITE, Replacement, a_site


def insns_of(code: str) -> list[Insn]:
    """``code`` decoded at address 0x1000."""
    columns = decode_all(np.frombuffer(bytes.fromhex(code), np.uint8), 0x1000)
    return [columns.at(row) for row in range(len(columns))]


def sizes(insns: list[Insn]) -> list[int]:
    """The length of each instruction."""
    return [insn.size for insn in insns]


ERAS = [
    # a replacement of 1 byte with fill
    (Era.E1, "fc" + "90" * 12, 12, 0, [1, 8, 4]),
    (Era.E2, "fc" + "90" * 12, 12, 0, [1, 8, 4]),
    (Era.E4, "fc" + "90" * 12, 12, 0, [1, 2] + [1] * 10),
    (Era.E5, "fc" + "90" * 11, 11, 0, [1, 11]),
    (Era.E6, "fc" + "90" * 3, 3, 0, [1, 3]),
    # NOPs that the source has are left alone by E1, and by E2 if they are long
    (Era.E1, "90fc" + "90" * 2, 2, 0, [1, 1, 2]),
    (Era.E2, "9090fc" + "0f1f00" + "90" * 2, 2, 0, [2, 1, 3, 2]),
    (Era.E5, "9090fc" + "0f1f00" + "90" * 2, 2, 0, [2, 1, 5]),
    # an original of nothing but padding
    (Era.E1, "90" * 5, 0, 5, [5]),
    (Era.E1, "90" * 5, 0, 0, [1] * 5),
    (Era.E2, "90" * 5, 0, 0, [5]),
    # an original with code before its padding: E1 does not find the padding
    (Era.E1, "fcfcfc" + "90" * 2, 0, 2, [1] * 5),
]


@pytest.mark.parametrize(("era", "code", "fill", "padlen", "expected"), ERAS)
def test_merge_nops(
    era: Era, code: str, fill: int, padlen: int, expected: list[int]
) -> None:
    """Each era merges its NOPs its own way; no byte is lost."""
    merged = merge_nops(insns_of(code), era, fill, padlen)
    assert sizes(merged) == expected
    assert len(text(merged)) == len(code) // 2


def test_long_padding_is_jumped_over() -> None:
    """Since 6.3 more than 11 bytes become a jump and int3, which nobody executes."""
    merged = merge_nops(insns_of("fc" + "90" * 12), Era.E5, 12, 0)
    assert merged[1].kind is InsnKind.JMP
    assert merged[1].target == 0x1000 + 13
    assert {insn.kind for insn in merged[2:]} == {InsnKind.TRAP}
    assert text(merged) == bytes.fromhex("fc" + "eb0a" + "cc" * 10)


def streams_of(program: Program) -> Streams:
    """The streams of the only site."""
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    return build_streams(program, alternatives)


def test_streams_are_original_and_replacements() -> None:
    """A site of n entries has n+1 texts of the site's length."""
    program = a_site(b"\x90" * 6, [Replacement(b"\x9c\x58"), Replacement(b"\xfc")])
    streams = streams_of(program)
    assert streams.entry.tolist() == [-1, 0, 1]
    assert streams.fill.tolist() == [0, 4, 5]
    assert [sizes(streams.rows(n)) for n in range(3)] == [[1] * 6, [1] * 6, [1] * 6]
    assert streams.whole.all()
    site = program.sections[0].address + SITE
    assert all(streams.rows(n)[0].address == site for n in range(3))


def test_branches_are_relocated() -> None:
    """A call keeps its target, a jump inside the replacement its distance."""
    code = bytes.fromhex("e8fb0f0000" + "7401" + "fc")  # call +0x1000; je 1f; cld; 1:
    program = a_site(b"\x90" * 8, [Replacement(code)])
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    call, je, _ = streams_of(program).rows(1)
    assert call.target == int(alternatives.replacement[0]) + 0x1000
    assert je.target == call.address + 8
    moved = text([call])
    relative = int.from_bytes(moved[1:], "little", signed=True)
    assert call.end + relative == call.target


def test_direct_call_has_no_target_yet() -> None:
    """ALT_FLAG_DIRECT_CALL takes its target from the running kernel's pointer."""
    direct = Replacement(bytes.fromhex("e800000000"), ALWAYS, flags=2)
    rows = streams_of(a_site(bytes.fromhex("ff1500000000"), [direct])).rows(1)
    assert (rows[0].kind, rows[0].target) == (InsnKind.CALL, 0)
    assert sizes(rows) == [5, 1]


def test_torn_stream_is_not_whole() -> None:
    """A replacement cut inside an instruction is known as such."""
    streams = streams_of(a_site(b"\x90" * 6, [Replacement(b"\xff\x15")]))
    assert streams.whole.tolist() == [True, False]


def test_nops_of_an_image_tell_the_era() -> None:
    """A kernel holds its own table of NOPs; one of eight is 6.3's or 6.4's."""
    eight = b"".join(NOPS[:9])
    eleven = b"".join(NOPS)
    k8 = b"".join(code for codes in K8_NOPS for code in codes)
    assert len(k8) == sum(range(9))
    for size, content, era in (
        (14, eight, Era.E3),
        (14, eleven, Era.E5),
        (12, k8, Era.E2),
    ):
        program = a_kernel_with(content)
        alternatives = parse_alternatives(
            a_site(b"\x90", [Replacement(b"\xfc")], size=size)
        )
        assert alternatives is not None
        assert sniff_era(program, alternatives) is era
        both = (NopTable.P6, NopTable.K8)
        assert (nop_tables(program, era) == both) is (content is k8)


def a_kernel_with(rodata: bytes) -> Program:
    """A linked kernel with ``rodata`` among its constants."""
    writer = ElfWriter(ET_EXEC)
    base = 0xFFFFFFFF81000000
    writer.section(".text", b"\xc3", flags=ALLOC | EXEC, address=base)
    writer.section(".rodata", b"\x01" + rodata + b"\x02", address=base + 0x1000)
    return writer.program("vmlinux")


@pytest.mark.parametrize(
    ("size", "orc_format", "era"),
    [
        (13, OrcFormat.V1B, Era.E1),
        (12, OrcFormat.V1B, Era.E2),
        (14, OrcFormat.V3, Era.E5),
        (14, OrcFormat.V4, Era.E6),
    ],
)
def test_sniff_era(size: int, orc_format: OrcFormat, era: Era) -> None:
    """The entry's size tells the old ones, ORC's own format those of 7.1 and later."""
    site = a_site(b"\x90", [Replacement(b"\xfc")], size=size)
    alternatives = parse_alternatives(site)
    assert alternatives is not None
    writer = ElfWriter()
    text = writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    add_orc(writer, text, [(0, call(8))], orc_format)
    assert sniff_era(writer.program(), alternatives) is era


def test_pv_ops_lock_is_of_7_0() -> None:
    """The first kernel that writes a site once has the ORC format of the one before."""
    alternatives = parse_alternatives(a_site(b"\x90", [Replacement(b"\xfc")]))
    assert alternatives is not None
    writer = ElfWriter()
    text = writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    writer.symbol("pv_ops_lock", text)
    assert sniff_era(writer.program(), alternatives) is Era.E6


def test_nested_site_is_as_long_as_its_longest_entry() -> None:
    """Since 6.11 an inner alternative may cover only the site's first bytes."""
    inner = Replacement(b"\xfc", instrlen=2)
    program = a_site(b"\x90" * 6, [inner, Replacement(b"\x9c\x58")])
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    assert sniff_era(program, alternatives) is Era.E5
    streams = build_streams(program, alternatives)
    assert streams.fill.tolist() == [0, 5, 4]
    assert streams.whole.all()


def test_jump_to_the_end_of_its_site_is_shortened() -> None:
    """A jump out of the replacement may lead to the site's end (static_cpu_has())."""
    site, length = SITE, 5
    behind = (site + length - 5).to_bytes(4, "little", signed=True)
    program = a_site(b"\x90" * length, [Replacement(b"\xe9" + behind)])
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    away = int(alternatives.replacement[0] - alternatives.site_address[0]) + site
    relative = (site + length - 5 - away).to_bytes(4, "little", signed=True)
    program = a_site(b"\x90" * length, [Replacement(b"\xe9" + relative)])
    assert streams_of(program).text(1) == bytes.fromhex("eb03cccccc")

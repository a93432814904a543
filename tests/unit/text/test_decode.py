"""Decoding: kinds, targets, gaps of the decoder, and getting back in step."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from harness.errors import UserError
from harness.text import decode as door
from harness.text import engine_zydis
from harness.text.decode import (
    Decoder,
    choose,
    decode,
    decode_all,
    decode_program,
    decoding,
    format_insn,
)
from harness.text.insn import InsnKind, Insns
from tests.builders.elfwriter import ALLOC, EXEC, FUNC, ElfWriter

BASE = 0xFFFFFFFF81000000


def bytes_of(text: str) -> np.ndarray:
    """The bytes that hexadecimal ``text`` spells."""
    return np.frombuffer(bytes.fromhex(text), np.uint8)


def decoded(decoder: Decoder, text: str, *starts: int) -> Insns:
    """``text`` decoded at BASE; ``starts`` are offsets of functions."""
    known = np.array([BASE + s for s in starts], np.uint64)
    return decode_all(bytes_of(text), BASE, known, decoder)


def shape(insns: Insns) -> list[tuple[int, str]]:
    """Offset and kind of each instruction."""
    return [
        (int(a) - BASE, InsnKind(int(k)).name)
        for a, k in zip(insns.address, insns.kind, strict=True)
    ]


KINDS = [
    ("e800000000", "CALL"),
    ("66e800000000", "CALL"),
    ("ff1500000000", "CALL_INDIRECT"),
    ("ffd0", "CALL_INDIRECT"),
    ("41ff94e8e8e8e8e8", "CALL_INDIRECT"),
    ("eb00", "JMP"),
    ("2ee900000000", "JMP"),
    ("ffe0", "JMP_INDIRECT"),
    ("3effe0", "JMP_INDIRECT"),
    ("7400", "JCC"),
    ("0f8400000000", "JCC"),
    ("e2fe", "JCC"),
    ("c7f800000000", "JCC"),
    ("c3", "RET"),
    ("f3c3", "RET"),
    ("50", "PUSH"),
    ("4154", "PUSH"),
    ("6a00", "PUSH"),
    ("58", "POP"),
    ("9c", "PUSHF"),
    ("9d", "POPF"),
    ("c9", "LEAVE"),
    ("4883c408", "STACK"),
    ("4889c4", "STACK"),
    ("488d642408", "STACK"),
    ("4889e5", "FRAME"),
    ("31ed", "FRAME"),
    ("400f94c5", "FRAME"),  # sete %bpl
    ("0f94c5", "OTHER"),  # sete %ch
    ("48f7ed", "OTHER"),  # imul of one operand reads
    ("480fafec", "FRAME"),
    ("f00fc16d00", "FRAME"),  # xadd writes its second operand, too
    ("f3480f1ecd", "FRAME"),  # rdssp
    ("0f20c4", "STACK"),  # mov %cr0,%rsp
    ("0f2084", "STACK"),  # the same: mod is not looked at
    ("4887ec", "STACK"),
    ("48872b", "FRAME"),
    ("4c872b", "OTHER"),
    ("86e0", "OTHER"),  # xchg %ah,%al
    ("4086e0", "STACK"),  # xchg %spl,%al
    ("4839ec", "OTHER"),  # cmp reads
    ("4885ed", "OTHER"),  # test reads
    ("48892c24", "OTHER"),  # mov %rbp,(%rsp) writes memory
    ("90", "NOP"),
    ("0f1f4000", "NOP"),
    ("f390", "OTHER"),  # pause
    ("cc", "TRAP"),
    ("0f0b", "UD"),
    ("f30f1efa", "ENDBR"),
    ("48cf", "END"),
    ("480f07", "END"),
    ("f30f01ca", "END"),  # eretu, which capstone calls clac
    ("0f01ca", "OTHER"),  # clac
    ("0f01e8", "OTHER"),  # serialize, unknown to capstone
    ("f20f00f0", "OTHER"),  # lkgs, unknown to both
    ("f20f01ca", "END"),  # erets
    ("0f1ac8", "NOP"),  # hints, unknown to capstone
    ("67480fb93a", "UD"),  # ud1 with its ModRM byte
    ("0f0b78656e", "OTHER"),  # XEN_EMULATE_PREFIX
]


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_kind_and_length(decoder: Decoder, text: str, kind: str) -> None:
    """One instruction of each kind, its length known although more code follows."""
    size = len(text) // 2
    insns = decoded(decoder, text + "fc" + "c3" * 3)
    assert shape(insns)[:2] == [(0, kind), (size, "OTHER")]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("e800000000", 5),
        ("ebfe", 0),
        ("0f8410000000", 0x16),
        ("e9ffffffff", 4),
        ("2ee900010000", 0x106),
        ("e20a", 12),
    ],
)
def test_target(decoder: Decoder, text: str, target: int) -> None:
    """The target of a direct branch is computed from its bytes."""
    assert int(decoded(decoder, text).target[0]) == BASE + target


def test_indirect_branches_have_no_target(decoder: Decoder) -> None:
    """What only the running kernel knows is 0."""
    assert decoded(decoder, "ff1500000000ffe0").target.tolist() == [0, 0]


def test_gap_does_not_desynchronise(decoder: Decoder) -> None:
    """Behind a WARN made with UD1 the next instruction is found again."""
    insns = decoded(decoder, "67480fb93a" + "4889e5" + "c3")
    assert shape(insns) == [(0, "UD"), (5, "FRAME"), (8, "RET")]


def test_many_gaps_at_once(decoder: Decoder) -> None:
    """Gaps are repaired wherever they are."""
    insns = decoded(decoder, ("0f01e8" + "4889e5") * 50)
    assert shape(insns) == [
        entry for n in range(50) for entry in ((6 * n, "OTHER"), (6 * n + 3, "FRAME"))
    ]


def test_function_starts_win(decoder: Decoder) -> None:
    """Data before a function must not swallow its first instruction."""
    text = "b8" + "55" + "4889e5" + "c3"
    assert shape(decoded(decoder, text)) == [(0, "OTHER"), (5, "RET")]
    expected = [(0, "BAD"), (1, "PUSH"), (2, "FRAME"), (5, "RET")]
    assert shape(decoded(decoder, text, 1)) == expected


def test_long_fill_is_left_out(decoder: Decoder) -> None:
    """Runs of int3 as long as a cache line are no instructions to look at."""
    data = bytes_of("c3" + "cc" * 200 + "c3")
    insns = decode(data, BASE, None, decoder)
    assert int(insns.address[-1]) == BASE + 201
    assert len(insns) < 40
    assert len(decode_all(data, BASE, None, decoder)) == 202


def test_immediate_at_the_edge_of_fill(decoder: Decoder) -> None:
    """An instruction whose immediate looks like fill keeps its length."""
    insns = decode(bytes_of("b800000000" + "00" * 128 + "c3"), BASE, None, decoder)
    assert (int(insns.address[0]), int(insns.size[0])) == (BASE, 5)


def test_empty_text(decoder: Decoder) -> None:
    """No bytes, no instructions."""
    assert len(decoded(decoder, "")) == 0


def test_chunks_join_without_a_seam(decoder: Decoder) -> None:
    """Text longer than a chunk decodes like its parts."""
    unit = "4881c400010000"  # 7 bytes: chunks end inside
    count = (200 << 10) // 7
    insns = decoded(decoder, unit * count)
    assert len(insns) == count
    assert set(insns.kind.tolist()) == {InsnKind.STACK}


def test_index_and_covering(decoder: Decoder) -> None:
    """An address is looked up as a start, or as a byte inside."""
    insns = decoded(decoder, "4889e5c3")
    wanted = np.array([BASE, BASE + 1, BASE + 3, BASE + 9, BASE - 1], np.uint64)
    assert insns.index(wanted).tolist() == [0, -1, 1, -1, -1]
    assert insns.covering(wanted).tolist() == [0, 0, 1, -1, -1]


def test_program_starts_at_its_functions(decoder: Decoder) -> None:
    """Functions behind data in .text are in step; threads change nothing."""
    writer = ElfWriter()
    code = bytes.fromhex("48b8" + "55c3" + "cc" * 12)
    text = writer.section(".text", code * 9000, flags=ALLOC | EXEC, align=16)
    for n in range(9000):
        writer.symbol(f"f{n}", text, 16 * n + 2, 2, kind=FUNC)
    program = writer.program()
    start = program.sections[0].address
    functions = np.arange(9000, dtype=np.uint64) * np.uint64(16) + np.uint64(start + 2)
    one, two = (decode_program(program, n, decoder) for n in (1, 2))
    assert (one.index(functions) >= 0).all()
    assert (one.address == two.address).all()
    assert (one.kind == two.kind).all()


def test_no_thread_is_left_when_all_is_decoded() -> None:
    """Whoever forks then is alone: ``beside`` does not fork in company."""
    writer = ElfWriter()
    writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC)
    with decoding(writer.program("one.o")) as ahead:
        assert len(ahead.result()) > 0
        ends = time.monotonic() + 5
        while threading.active_count() > 1 and time.monotonic() < ends:
            time.sleep(0.001)
        assert threading.active_count() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9c", "pushfq"),
        ("4883c408", "addq $8, %rsp"),
        ("0f01e8", "(0f 01 e8)"),
        ("0f0b78656e", "xen-emulate-prefix"),
        ("06", "(bad)"),
    ],
)
def test_format(text: str, expected: str) -> None:
    """Instructions print as AT&T text, gaps as their bytes."""
    assert format_insn(bytes.fromhex(text), BASE) == expected


def test_the_fast_engine_is_taken_if_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a demand Zydis decodes, or capstone where Zydis was not built."""
    monkeypatch.setattr(engine_zydis, "missing", lambda: "")
    assert choose("") is Decoder.ZYDIS
    monkeypatch.setattr(engine_zydis, "missing", lambda: "it was not built")
    assert choose("") is Decoder.CAPSTONE


def test_a_demand_that_cannot_be_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that there is not, or an engine that is not there, is a usage error."""
    monkeypatch.setattr(engine_zydis, "missing", lambda: "it was not built")
    assert choose("capstone") is Decoder.CAPSTONE
    with pytest.raises(UserError, match="demands zydis, but it was not built"):
        choose("zydis")
    with pytest.raises(UserError, match="'udis86', one of capstone, zydis expected"):
        choose("udis86")


@pytest.mark.parametrize("missing", ["", "it was not built"])
def test_the_variable_is_the_demand(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """ORC_HARNESS_DECODER chooses, and is the reason, were Zydis built or not."""
    monkeypatch.setattr(engine_zydis, "missing", lambda: missing)
    monkeypatch.setenv("ORC_HARNESS_DECODER", "capstone")
    door.default_decoder.cache_clear()
    try:
        assert door.default_decoder() is Decoder.CAPSTONE
        assert door.slow_because() == "ORC_HARNESS_DECODER demands it"
    finally:
        door.default_decoder.cache_clear()


def test_an_old_build_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with other structures than ours is as good as none."""
    if engine_zydis.missing():
        pytest.skip(engine_zydis.missing())
    monkeypatch.setattr(engine_zydis, "_INTERFACE", 0)
    engine_zydis._load.cache_clear()
    try:
        assert "built from another version" in engine_zydis.missing()
    finally:
        monkeypatch.undo()
        engine_zydis._load.cache_clear()

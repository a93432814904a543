"""The two engines behind the decoder's door find the same."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.text import engine_zydis
from harness.text.decode import Decoder, decode, decode_all
from harness.text.effect import Effects, effects_of
from harness.text.insn import Insn, InsnKind, Insns

pytestmark = pytest.mark.skipif(
    bool(engine_zydis.missing()), reason=engine_zydis.missing() or "there"
)

STRIDE = 32
LONGEST = 15
PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"
# What kernels are made of: mutations of it come close to real code.
_HEX = """
    f30f1efa 0f1f440000 662e0f1f840000000000 90 cc c3 f3c3 c9 9c 9d 55 5d 4154 415c
    6a00 4889e5 4889ec 4883ec08 4881c400010000 488d6424f8 488d6c2410 48892c24
    488b6c2408 4c8b5c2418 31ed 31c0 4887e0 87ec 400f94c5 0fb6ed 480fafee 48f7ed
    f00fc12d00000000 f00fb12b 65488b2c2500000000 e8fbffffff e900000000 ebfe 7402
    0f8400000000 ff1500000000 ff2500000000 ffe0 ffd0 41ffd3 e2fe 0f0b 480fb93a
    0f01e8 f20f00f0 f30f01ca 0f01ca 48cf 480f07 0f0b78656e 0f20d8 0f22d8 8ed8
    c5f877 c4e2f0f2c0 c4e27849c0 62f17c4828c0 d9c0 f3a4 f390 0faee8 0f01f8 c20800
"""
REAL = list(map(bytes.fromhex, _HEX.split()))


def cells(codes: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Each of ``codes`` in 32 bytes of its own, and where these start."""
    text = b"".join(code[:LONGEST].ljust(STRIDE, b"\x90") for code in codes)
    starts = np.arange(len(codes), dtype=np.uint64) * np.uint64(STRIDE)
    return np.frombuffer(text, np.uint8), starts


def explained(code: bytes, zydis: Insn, capstone: Insn) -> str:
    """Why the engines may see ``code`` differently, "" if they may not."""
    at = 0
    while code[at] in PREFIXES or code[at] & 0xF0 == 0x40:
        at += 1
    opcode = code[at : at + 2]
    if (capstone.kind, capstone.size) == (InsnKind.BAD, 1):
        return "capstone does not know it"
    if zydis.kind is InsnKind.BAD and (0xF0 in code[:at] or opcode[0] == 0x8E):
        return "no processor takes this lock, or writes that segment"
    if (
        zydis.kind is InsnKind.BAD
        and opcode[:1] == b"\x0f"
        and 0x20 <= opcode[1] < 0x24
    ):
        return "there is no such control or debug register"
    if 0xF0 in code[:at] and opcode[0] == 0x0F and opcode[1] in (0x0D, 0x1E):
        return "no processor takes this lock"
    if opcode == b"\x0f\x0d" and zydis.size == capstone.size:
        return "a hint or a prefetch, which capstone does not tell apart"
    if opcode == b"\x0f\x37" or opcode[:1] == b"\xc5" or opcode == b"\x0f\xa7":
        return "VIA's and Xeon Phi's own"
    if zydis.kind is capstone.kind is InsnKind.RET and 0x66 in code[:at]:
        return "capstone takes the operand size of far returns for near ones"
    return ""


def same(codes: list[bytes]) -> None:
    text, starts = cells(codes)
    found = [
        decode_all(text, 0, starts, one) for one in (Decoder.ZYDIS, Decoder.CAPSTONE)
    ]
    rows = [insns.index(starts).tolist() for insns in found]
    for code, z, c in zip(codes, *rows, strict=True):
        zydis, capstone = found[0].at(z), found[1].at(c)
        assert zydis == capstone or explained(
            code.ljust(LONGEST, b"\x90"), zydis, capstone
        ), code.hex()
    assert alike(effects_of(found[0]), effects_of(replace(found[0], acts=None)))


def alike(one: Effects, other: Effects) -> bool:
    """What zydis.c tells of effects is what the bytes tell."""
    columns = ("row", "form", "delta", "stacked")
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in columns
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=LONGEST, max_size=LONGEST), min_size=40, max_size=60)
)
def test_any_bytes(codes: list[bytes]) -> None:
    """Whatever the bytes are, both see one instruction, or none, for a reason."""
    same(codes)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Real instructions one after the other, some of their bits flipped."""
    code = bytearray(
        b"".join(draw(st.lists(st.sampled_from(REAL), min_size=2, max_size=5)))
    )
    for _ in range(draw(st.integers(0, 2))):
        code[draw(st.integers(0, min(5, len(code) - 1)))] ^= 1 << draw(
            st.integers(0, 7)
        )
    return bytes(code)


@settings(max_examples=60, deadline=None)
@given(st.lists(mutated(), min_size=20, max_size=30))
def test_almost_real_instructions(codes: list[bytes]) -> None:
    """Bytes close to those of kernels are seen alike."""
    same(codes)


@settings(max_examples=40, deadline=None)
@given(st.lists(mutated(), min_size=5, max_size=10), st.randoms(use_true_random=False))
def test_what_is_remembered_is_what_is_decoded(
    codes: list[bytes], random: Random
) -> None:
    """Among many that begin like it an instruction is what it is alone.

    Alone it is less than what is remembered by needs, or the first that is seen.
    """
    starts = [code[: random.randint(1, 5)] for code in codes for _ in range(6)]
    some = [start + random.randbytes(LONGEST - len(start)) for start in starts]
    text, at = cells(some)

    together = decode_all(text, 0, at, Decoder.ZYDIS)

    for row, start in zip(together.index(at).tolist(), at.tolist(), strict=True):
        alone = decode_all(text[start : start + STRIDE], start, None, Decoder.ZYDIS)
        assert together.at(row) == alone.at(0)


def test_a_prefix_of_xen_is_no_ud2_that_was_seen_before() -> None:
    """What they begin with is the same; what follows is no value here."""
    prefix = b"\x0f\x0bxen"
    text, at = cells([b"\x0f\x0b", prefix, b"\x0f\x0b"])

    insns = decode_all(text, 0, at, Decoder.ZYDIS)

    assert [insns.at(row).size for row in insns.index(at).tolist()] == [2, 5, 2]


def equal(first: Insns, second: Insns) -> bool:
    columns = ("address", "size", "kind", "target")
    return np.array_equal(first.code[:], second.code[:]) and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in columns
    )


UNLOCKED = [code for code in REAL if 0xF0 not in code]  # the engines differ about lock
NOTHING = [b"\x06", b"\xd6", b"\x0f\x04", b"\xea", b"\x0f"]  # no instruction
FILL = [bytes([byte]) * count for byte in (0x00, 0x90, 0xCC) for count in (9, 64, 203)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(UNLOCKED + NOTHING + FILL), max_size=40),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_in_step_alike(parts: list[bytes], offsets: list[int]) -> None:
    """Gaps, data, fill and starts in the middle leave the same columns."""
    text = np.frombuffer(b"".join(parts), np.uint8)
    base = 0xFFFFFFFF81000000
    starts = np.array([base + offset for offset in sorted(offsets)], np.uint64)
    zydis, capstone = (
        decode(text, base, starts, one) for one in (Decoder.ZYDIS, Decoder.CAPSTONE)
    )
    assert equal(zydis, capstone), text.tobytes().hex()

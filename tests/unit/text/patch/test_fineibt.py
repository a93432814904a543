"""The hashes of clang's kCFI, at functions and their indirect calls."""

from __future__ import annotations

import struct

import pytest

from harness.text.patch.edits import written
from harness.text.patch.endbr import ENDBR64, POISON
from harness.text.patch.fineibt import (
    CfiMode,
    fineibt,
    fineibt_endbrs,
    sealed_hashes,
    sealed_preambles,
)
from tests.builders.running import TEXT, Kernel, code_of

HASH, SEED = 0x12345678, 0x0F0F0F0F
FUNCTION, CALL = TEXT + 0x40, TEXT + 0x100
PREAMBLE = bytes.fromhex("f30f1efa 4181ea 78563412 7402 0f0b 90")
CALLER = bytes.fromhex("41ba 78563412 4983eb10 0f1f4000")


def word(value: int) -> bytes:
    """As it is in code."""
    return struct.pack("<I", value & 0xFFFFFFFF)


def a_kernel(mode: CfiMode, *, seed: int = 0, number: int = HASH) -> Kernel:
    """A function with its preamble, and a call that checks it."""
    caller = b"\x41\xba" + word(-number) + bytes.fromhex("450353f1 7402 0f0b")
    return Kernel(
        {
            FUNCTION - TEXT - 16: b"\xb8" + word(number) + b"\x90" * 11 + ENDBR64,
            CALL - TEXT - 14: caller,
        },
        tables={
            ".cfi_sites": [FUNCTION - 16],
            ".retpoline_sites": [CALL],
            ".ibt_endbr_seal": [FUNCTION],
        },
        variables={
            "cfi_mode": (0, mode),
            "cfi_rand": (0, 0),  # clang's, which tells whether it was cleared
            "cfi_seed": (0, seed),
        },
        rodata={"fineibt_preamble_start": PREAMBLE, "fineibt_caller_start": CALLER},
    )


def both(kernel: Kernel) -> tuple[bytes, bytes]:
    """The preamble and the caller."""
    edits = fineibt(kernel.linked(), kernel.said())
    return (
        code_of(kernel, edits, FUNCTION - 16, 16),
        code_of(kernel, edits, CALL - 14, 14),
    )


@pytest.mark.parametrize(("seed", "number"), [(0, HASH), (SEED, HASH ^ SEED)])
def test_kcfi_stays_with_other_hashes(seed: int, number: int) -> None:
    """The seed makes them others, on both sides; with none they stay."""
    preamble, caller = both(a_kernel(CfiMode.KCFI, seed=seed))
    assert preamble == b"\xb8" + word(number) + b"\x90" * 11
    assert caller == b"\x41\xba" + word(-number) + bytes.fromhex("450353f1 7402 0f0b")


def test_callers_jump_over_their_check_where_it_is_off() -> None:
    """The hash stays, so that it can be switched on."""
    preamble, caller = both(a_kernel(CfiMode.OFF, seed=SEED))
    assert preamble == b"\xb8" + word(HASH ^ SEED) + b"\x90" * 11
    assert caller[:6] == b"\xeb\x0c" + word(-(HASH ^ SEED))


def test_fineibt_writes_the_kernels_templates() -> None:
    """Each with its hash; the caller's is not negated any more."""
    preamble, caller = both(a_kernel(CfiMode.FINEIBT, seed=SEED))
    number = word(HASH ^ SEED)
    assert preamble == PREAMBLE[:7] + number + PREAMBLE[11:]
    assert caller == CALLER[:2] + number + CALLER[6:]


def test_no_hash_is_an_endbr() -> None:
    """One that would be, or its negation, is made another (cfi_rehash())."""
    endbr = int.from_bytes(ENDBR64, "little")
    preamble, _ = both(a_kernel(CfiMode.KCFI, seed=SEED, number=endbr ^ SEED))
    assert preamble[1:5] == word(endbr >> 1 ^ 0x80200003)  # it is odd


@pytest.mark.parametrize(
    ("mode", "preamble", "endbr"),
    [
        (CfiMode.KCFI, b"\xb8" + bytes(4) + b"\x90" * 11, ENDBR64),
        (CfiMode.FINEIBT, POISON + PREAMBLE[4:7] + bytes(4) + PREAMBLE[11:], POISON),
        (CfiMode.OFF, b"\xb8" + word(HASH) + b"\x90" * 11, ENDBR64),
    ],
)
def test_a_sealed_function_has_no_hash(
    mode: CfiMode, preamble: bytes, endbr: bytes
) -> None:
    """FineIBT's ENDBR is poisoned, too, and the function's own is not needed."""
    kernel = a_kernel(mode)
    program, said = kernel.linked(), kernel.said()
    for step in (fineibt, fineibt_endbrs, sealed_preambles, sealed_hashes):
        edits = step(program, said)
        program = program if edits is None else written(program, edits)
    assert program.read(FUNCTION - 16, 20).tobytes() == preamble + endbr


def test_a_kernel_without_it_has_no_such_step() -> None:
    """CONFIG_FINEIBT=n."""
    kernel = Kernel()
    assert fineibt(kernel.linked(), kernel.said()) is None
    assert sealed_hashes(kernel.linked(), kernel.said()) is None

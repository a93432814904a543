"""Fineibt: the hashes of clang's kCFI, at functions and their indirect calls.

Before a function with a hash stands ``mov $hash, %eax``, before an indirect call
``mov $-hash, %r10d; add; je; ud2``. At boot the kernel makes the hashes others (by
cfi_seed), and with FineIBT writes its own preamble and caller over them, or else leaves
kCFI on or switches its callers off. Source: __apply_fineibt() and poison_cfi() of
arch/x86/kernel/alternative.c, 6.2 to 6.12; the templates are the kernel's own.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import U8, U64
from harness.text.patch.edits import Edits, Step, column, joined
from harness.text.patch.endbr import is_endbr, poisoned
from harness.text.patch.said import Said, bytes_at, code_at

_U32 = npt.NDArray[np.uint32]
_PREAMBLE, _HASH = 16, 7  # bytes of FineIBT's preamble, where its hash is
_CALLER, _CALLER_HASH = 14, 2
_MOV_EAX, _MOV_R10D, _JMP = 0xB8, (0x41, 0xBA), (0xEB, _CALLER - 2)
_POLY = np.uint32(0x80200003)
_VARIANTS = ("off", "kcfi", "fineibt")


class CfiMode(enum.IntEnum):
    """enum cfi_mode of asm/cfi.h."""

    AUTO = 0
    OFF = 1
    KCFI = 2
    FINEIBT = 3


def cfi_mode(said: Said) -> CfiMode | None:
    """Return what the kernel has decided on; None if it was not built for FineIBT."""
    if not said.address("fineibt_preamble_start"):
        return None
    mode = said.variable("cfi_mode", 4)
    return None if mode is None else CfiMode(mode)


def fineibt(program: Program, said: Said) -> Edits | None:
    """Return what becomes of preambles and callers."""
    mode = cfi_mode(said)
    functions = parse_sites(program, SiteTable.CFI_SITES)
    calls = parse_sites(program, SiteTable.RETPOLINE_SITES)
    if mode is None or functions is None or calls is None:
        return None
    return joined(
        _preambles(program, said, mode, functions.address),
        _callers(program, said, mode, calls.address - np.uint64(_CALLER)),
    )


def fineibt_endbrs(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the functions' own ENDBR: FineIBT's stands before it."""
    functions = parse_sites(program, SiteTable.CFI_SITES)
    if functions is None or cfi_mode(said) is not CfiMode.FINEIBT:
        return None
    return poisoned(program, functions.address + np.uint64(_PREAMBLE))


def sealed_hashes(program: Program, said: Said) -> Edits | None:
    """Return the hashes of sealed functions, which become 0 (poison_cfi())."""
    mode, sites = cfi_mode(said), parse_sites(program, SiteTable.IBT_ENDBR_SEAL)
    if sites is None or mode not in (CfiMode.KCFI, CfiMode.FINEIBT):
        return None
    start = sites.address - np.uint64(_PREAMBLE)
    at = start + np.uint64(_HASH if mode is CfiMode.FINEIBT else 1)
    none = np.zeros((len(at), 4), np.uint8)
    variant = np.full(len(at), mode - 1, np.int64)
    return column(Step.FINEIBT, at, none, variant, _VARIANTS)


def sealed_preambles(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the ENDBR in the preambles of sealed functions."""
    sites = parse_sites(program, SiteTable.IBT_ENDBR_SEAL)
    if sites is None or cfi_mode(said) is not CfiMode.FINEIBT:
        return None
    return poisoned(program, sites.address - np.uint64(_PREAMBLE))


def _preambles(program: Program, said: Said, mode: CfiMode, address: U64) -> Edits:
    code = code_at(program, address, _PREAMBLE)
    has = code[:, 0] == _MOV_EAX
    hashes = _rehashed(said, _hashes(code, 1))
    if mode is CfiMode.FINEIBT:
        code[has] = _template(said, "fineibt_preamble_start", _PREAMBLE)
        _put(code, _HASH, has, hashes)
    else:
        _put(code, 1, has, hashes)
    variant = np.full(len(address), mode - 1, np.int64)
    return column(Step.FINEIBT, address, code, variant, _VARIANTS)


def _callers(program: Program, said: Said, mode: CfiMode, address: U64) -> Edits:
    code = code_at(program, address, _CALLER)
    has = (code[:, :2] == _MOV_R10D).all(axis=1)
    # the caller's immediate is the negated hash
    negated = _hashes(code, _CALLER_HASH)
    hashes = _rehashed(said, np.uint32(0) - negated)
    has &= negated != 0
    if mode is CfiMode.FINEIBT:
        code[has] = _template(said, "fineibt_caller_start", _CALLER)
        _put(code, _CALLER_HASH, has, hashes)
    else:
        _put(code, _CALLER_HASH, has, np.uint32(0) - hashes)
        if mode is CfiMode.OFF:
            code[has, :2] = _JMP
    variant = np.full(len(address), mode - 1, np.int64)
    return column(Step.FINEIBT, address, code, variant, _VARIANTS)


def _rehashed(said: Said, hashes: _U32) -> _U32:
    """Return cfi_rehash() of each: by the seed, and never an ENDBR.

    Without a seed there is none (``cfi=norand``). The flag cfi_rand is not asked: clang
    keeps one that is never set again as whether it was cleared.
    """
    if not (seed := said.variable("cfi_seed", 4)):
        return hashes
    result = hashes ^ np.uint32(seed)
    while True:
        taken = _like_endbr(result) | _like_endbr(np.uint32(0) - result)
        if not taken.any():
            return result
        odd = (result & np.uint32(1)) != 0
        shifted = result >> np.uint32(1)
        shifted[odd] ^= _POLY
        result = np.where(taken, shifted, result)


def _like_endbr(hashes: _U32) -> npt.NDArray[np.bool_]:
    return is_endbr(hashes.astype("<u4").view(np.uint8).reshape(-1, 4))


def _hashes(code: U8, at: int) -> _U32:
    cells = np.ascontiguousarray(code[:, at : at + 4])
    return cells.view("<u4").reshape(-1).astype(np.uint32)


def _put(code: U8, at: int, rows: npt.NDArray[np.bool_], hashes: _U32) -> None:
    cells = hashes.astype("<u4").view(np.uint8).reshape(-1, 4)
    code[rows, at : at + 4] = cells[rows]


def _template(said: Said, name: str, size: int) -> U8:
    at = np.array([said.address(name)], np.uint64)
    return bytes_at(said.image, at, size).reshape(-1)

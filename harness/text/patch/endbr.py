"""Endbr: functions that nobody calls by a pointer lose their ENDBR.

Source: apply_seal_endbr() of arch/x86/kernel/alternative.c, 5.18 and later, and
gen_endbr_poison() of asm/ibt.h, whose constant is in its code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import U8, U64
from harness.text.patch.edits import Edits, Step, column
from harness.text.patch.said import Said, code_at

ENDBR64, ENDBR32 = b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb"
POISON = b"\x66\x0f\x1f\x00"  # osp nopl (%rax)
POISON_6_18 = b"\x0f\x1f\x40\xd6"  # nopl -42(%rax)
_WRITERS = ("apply_seal_endbr", "poison_endbr")
_LARGEST = 0x400  # bytes of a writer of which the size is not known
_VARIANTS = ("kept", "sealed")


def endbr_seals(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the functions in .ibt_endbr_seal."""
    del said  # it is done whatever the CPU is
    sites = parse_sites(program, SiteTable.IBT_ENDBR_SEAL)
    return None if sites is None else poisoned(program, sites.address)


def poisoned(program: Program, address: U64) -> Edits:
    """Return what poison_endbr() does at each address: nothing where is no ENDBR."""
    code = code_at(program, address, 4)
    sealed = is_endbr(code)
    code[sealed] = np.frombuffer(poison_of(program), np.uint8)
    return column(Step.ENDBR, address, code, sealed.astype(np.int64), _VARIANTS)


def is_endbr(code: U8) -> npt.NDArray[np.bool_]:
    """Tell which rows of u8[n, 4] are ENDBR, or were."""
    found = np.zeros(len(code), bool)
    for one in (ENDBR64, ENDBR32, POISON, POISON_6_18):
        found |= (code == np.frombuffer(one, np.uint8)).all(axis=1)
    return found


def poison_of(program: Program) -> bytes:
    """Return what a kernel writes over ENDBR: one of two, the one its code has."""
    for name in _WRITERS:
        index = program.symbols.find_index(name)
        if index is None:
            continue
        at = int(program.symbols.address[index])
        section = program.section_at(at)
        if section is None or not section.data.size:
            continue
        size = int(program.symbols.size[index]) or _LARGEST
        code = program.read(at, min(size, section.end - at)).tobytes()
        if POISON_6_18 in code:
            return POISON_6_18
    return POISON

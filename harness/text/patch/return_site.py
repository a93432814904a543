"""Return_site: returns that are a jump to a thunk, or plain ones.

Source: apply_returns(), patch_return() and cpu_wants_rethunk_at() of
arch/x86/kernel/alternative.c, 5.19 and later, and __static_call_fixup() of
static_call.c. Which thunk, the kernel's variable x86_return_thunk says; with
its_return_thunk only returns in the lower half of a cache line jump.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import U8, U64
from harness.text.patch.edits import Edits, Step, near, target_of
from harness.text.patch.said import Bools, Said, code_at

_RET, _INT3, _JMP, _CS = 0xC3, 0xCC, 0xE9, 0x2E
_LONGEST = 6  # bytes of a jump with a prefix
_HALF = np.uint64(0x20)
_VARIANTS = ("kept", "return", "thunk")


def return_sites(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the jumps to __x86_return_thunk."""
    sites = parse_sites(program, SiteTable.RETURN_SITES)
    if sites is None:
        return None
    address = sites.address
    linked = code_at(program, address, _LONGEST)
    # clang's have a prefix (-mindirect-branch-cs-prefix); what is written has none
    prefixed = linked[:, 0] == _CS
    opcode = np.where(prefixed, linked[:, 1], linked[:, 0])
    goes = np.where(
        prefixed, target_of(address, linked, 2), target_of(address, linked, 1)
    )
    jumps = (opcode == _JMP) & (goes == np.uint64(said.address("__x86_return_thunk")))
    code = linked.copy()
    code[jumps, :5] = returns_at(said, address)[jumps]
    code[jumps, 5] = _INT3
    size = np.where(prefixed, _LONGEST, _LONGEST - 1).astype(np.int64)
    variant = np.where(jumps, 1 + _wanted(said, address), 0).astype(np.int64)
    return Edits(Step.RETURN, address, code, size, variant, _VARIANTS)


def returns_at(said: Said, address: U64, *, thunks: bool = True) -> U8:
    """Return u8[n, 5], the return that the machine wants at each address.

    Without ``thunks`` that is the plain one, which it is before it chose a thunk.
    """
    plain = np.full((len(address), 5), _INT3, np.uint8)
    plain[:, 0] = _RET
    if not thunks:
        return plain
    thunk = np.full(len(address), said.variable("x86_return_thunk", 8) or 0, np.uint64)
    return np.where(
        _wanted(said, address)[:, None], near(b"\xe9", address, thunk), plain
    )


def _wanted(said: Said, address: U64) -> Bools:
    """Tell at which addresses the machine wants a thunk (cpu_wants_rethunk_at())."""
    thunk = said.variable("x86_return_thunk", 8)
    if thunk is None or not said.has("RETHUNK"):
        return np.zeros(len(address), bool)
    if thunk != said.address("its_return_thunk"):
        return np.ones(len(address), bool)
    return np.asarray((address & _HALF) == 0)

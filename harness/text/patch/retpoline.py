"""Retpoline: calls and jumps through a register's thunk, or through the register.

Source: patch_retpoline() of arch/x86/kernel/alternative.c, 5.17 and later. What stands
at a site is ``call``, ``cs call``, ``jmp``, ``cs jmp`` or ``jcc`` to the thunk of a
register; the thunks are 32 bytes each, in the registers' order. What is left of a site
behind the branch is filled; how, has changed twice (:class:`Fill`).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator

import numpy as np

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.patch.call_thunk import counts_calls
from harness.text.patch.edits import Edits, Step, edits_of
from harness.text.patch.endbr import POISON_6_18, poison_of
from harness.text.patch.its import Thunks, is_unsafe
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import nops, text
from harness.text.patch.said import IDEAL_NOPS, Said, code_at

_THUNK_BYTES = 32  # RETPOLINE_THUNK_SIZE
_CS, _CALL, _JMP, _INT3 = 0x2E, 0xE8, 0xE9, b"\xcc"
_LFENCE = b"\x0f\xae\xe8"
_STUFFED = 3  # CS prefixes at most


class Fill(enum.Enum):
    """How what is left of a site is filled."""

    NOPS = enum.auto()  # 5.10's stable kernels: with the NOPs that the CPU wants
    INT3 = enum.auto()  # an INT3 behind a jump, then NOPs
    STUFFED = enum.auto()  # 6.18: INT3 behind a jump, before a call up to three CS


_KEPT, _TRACKED, _FENCED, _PLAIN = "kept", "call depth thunk", "lfence", "indirect"
_ITS = "its thunk"


def retpolines(program: Program, said: Said) -> Edits | None:
    """Return what becomes of each site in .retpoline_sites."""
    sites = parse_sites(program, SiteTable.RETPOLINE_SITES)
    if sites is None or not said.address("__x86_indirect_thunk_array"):
        return None
    code = code_at(program, sites.address, 6)
    codes = [row.tobytes() for row in code]
    found = _texts(said, fill_of(program, said), sites.address.tolist(), codes)
    return edits_of(Step.RETPOLINE, list(found))


def fill_of(program: Program, said: Said) -> Fill:
    """Tell how the kernel fills a site, from what else it does."""
    if said.address(IDEAL_NOPS):
        return Fill.NOPS
    return Fill.STUFFED if poison_of(program) == POISON_6_18 else Fill.INT3


def _texts(
    said: Said, fill: Fill, addresses: list[int], codes: list[bytes]
) -> Iterator[tuple[int, bytes, str]]:
    thunks = said.address("__x86_indirect_thunk_array")
    calls = said.address("__x86_indirect_call_thunk_array")
    jumps = said.address("__x86_indirect_jump_thunk_array")
    fenced = said.has("RETPOLINE_LFENCE")
    stay = said.has("RETPOLINE") and not fenced
    tracked = stay and counts_calls(said)
    table = said.nops
    safe = Thunks() if said.has("INDIRECT_THUNK_ITS") else None
    for at, code in zip(addresses, codes, strict=True):
        size = 6 if code[0] in (_CS, 0x0F) else 5
        linked = code[:size]
        goes = at + size + int.from_bytes(code[size - 4 : size], "little", signed=True)
        register = (goes - thunks) // _THUNK_BYTES
        if tracked:
            array = calls if linked[-5] == _CALL else jumps
            goes = array + register * _THUNK_BYTES
            relative = (goes - (at + size)) & 0xFFFFFFFF
            yield at, linked[:-4] + relative.to_bytes(4, "little"), _TRACKED
            continue
        fence = _LFENCE if fenced else b""
        branch = at + len(fence) + 2 * (linked[0] == 0x0F)
        if safe is not None and not stay and is_unsafe(branch, register):
            thunk = safe.next(register, functools.partial(_goes, said, at, size))
            goes = thunk or goes
            relative = (goes - (at + size)) & 0xFFFFFFFF
            yield at, linked[:-4] + relative.to_bytes(4, "little"), _ITS
            continue
        written = linked if stay else _indirect(linked, register, fence, fill, table)
        if stay or len(written) != size:  # no room for the fence
            yield at, linked, _KEPT
        else:
            yield at, written, _FENCED if fenced else _PLAIN


def _goes(said: Said, at: int, size: int) -> int:
    """Return where the branch at ``at`` goes in the machine's memory."""
    code = code_at(said.image, np.array([at], np.uint64), size).tobytes()
    return at + size + int.from_bytes(code[-4:], "little", signed=True)


def _indirect(
    linked: bytes, register: int, fence: bytes, fill: Fill, table: NopTable
) -> bytes:
    """Return the branch through the register itself, as long as the site if it fits."""
    code = b""
    opcode = linked[1] if linked[0] == _CS else linked[0]
    if opcode == 0x0F:  # jcc: the opposite one jumps over what follows
        code = bytes([0x70 + ((linked[1] & 0xF) ^ 1), len(linked) - 2])
        opcode = _JMP
    code += fence
    modrm = (0xD0 if opcode == _CALL else 0xE0) + (register & 7)
    branch = (b"\x41" if register >= 8 else b"") + bytes([0xFF, modrm])
    left = max(len(linked) - len(code) - len(branch), 0)
    if opcode == _CALL and fill is Fill.STUFFED and left <= _STUFFED:
        return code + bytes([_CS]) * left + branch
    code += branch
    if opcode == _JMP and fill is not Fill.NOPS:
        code += _INT3 * (left if fill is Fill.STUFFED else min(left, 1))
    return code + text(list(nops(len(code), len(linked), Era.E2, table)))

"""Retpoline: calls and jumps through a register's thunk, or through the register.

Source: patch_retpoline() of arch/x86/kernel/alternative.c, 5.17 and later. What stands
at a site is ``call``, ``cs call``, ``jmp``, ``cs jmp`` or ``jcc`` to the thunk of a
register; the thunks are 32 bytes each, in the registers' order.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.patch.edits import Edits, Step, edits_of
from harness.text.patch.nops import NOPS
from harness.text.patch.said import Said, code_at

_THUNK_BYTES = 32  # RETPOLINE_THUNK_SIZE
_CS, _CALL, _JMP, _INT3 = 0x2E, 0xE8, 0xE9, b"\xcc"
_LFENCE = b"\x0f\xae\xe8"
_KEPT, _TRACKED, _FENCED, _PLAIN = "kept", "call depth thunk", "lfence", "indirect"


def retpolines(program: Program, said: Said) -> Edits | None:
    """Return what becomes of each site in .retpoline_sites."""
    sites = parse_sites(program, SiteTable.RETPOLINE_SITES)
    if sites is None or not said.address("__x86_indirect_thunk_array"):
        return None
    code = code_at(program, sites.address, 6)
    found = _texts(said, sites.address.tolist(), [row.tobytes() for row in code])
    return edits_of(Step.RETPOLINE, list(found))


def _texts(
    said: Said, addresses: list[int], codes: list[bytes]
) -> Iterator[tuple[int, bytes, str]]:
    thunks = said.address("__x86_indirect_thunk_array")
    calls = said.address("__x86_indirect_call_thunk_array")
    jumps = said.address("__x86_indirect_jump_thunk_array")
    fenced = said.has("RETPOLINE_LFENCE")
    stay = said.has("RETPOLINE") and not fenced
    tracked = stay and said.has("CALL_DEPTH")
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
        written = linked if stay else _indirect(linked, register, fenced=fenced)
        if stay or len(written) != size:  # no room for the fence
            yield at, linked, _KEPT
        else:
            yield at, written, _FENCED if fenced else _PLAIN


def _indirect(linked: bytes, register: int, *, fenced: bool) -> bytes:
    """Return the branch through the register itself, filled up with NOPs."""
    code = b""
    opcode = linked[1] if linked[0] == _CS else linked[0]
    if opcode == 0x0F:  # jcc: the opposite one jumps over what follows
        code = bytes([0x70 + ((linked[1] & 0xF) ^ 1), len(linked) - 2])
        opcode = _JMP
    if fenced:
        code += _LFENCE
    rex = b"\x41" if register >= 8 else b""
    modrm = (0xD0 if opcode == _CALL else 0xE0) + (register & 7)
    code += rex + bytes([0xFF, modrm])
    if opcode == _JMP and len(code) < len(linked):
        code += _INT3
    return code + NOPS[max(len(linked) - len(code), 0)]

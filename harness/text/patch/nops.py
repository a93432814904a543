"""Nops: what a kernel makes of the NOPs and jumps in a text that it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from harness.text.insn import Insn, InsnKind
from harness.text.patch.kind import Era, NopTable

# BYTES_NOP1 to BYTES_NOP11 of asm/nops.h.
NOPS = (
    b"",
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
)
# K8_NOP1 to K8_NOP8, up to 5.12: the longer ones are two instructions.
K8_NOPS = tuple(
    tuple(b"\x66" * (part - 1) + b"\x90" for part in parts)
    for parts in ((), (1,), (2,), (3,), (4,), (3, 2), (3, 3), (4, 3), (4, 4))
)
_LEGACY = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_JMP32 = 0xE9


class Padding(Struct, frozen=True):
    """What the kernel knows of a text's padding.

    Attributes:
        fill: bytes of 0x90 that it puts behind a replacement.
        padlen: of an original in E1, what its entry says.
        replacement: bytes of the replacement; 0 for an original.
    """

    fill: int = 0
    padlen: int = 0
    replacement: int = 0


def as_written(
    insns: Sequence[Insn],
    era: Era,
    padding: Padding,
    table: NopTable = NopTable.P6,
) -> list[Insn]:
    """Return a text's instructions after the kernel merged NOPs and shortened jumps."""
    swallowed: frozenset[int] = frozenset()
    if era is Era.E4:
        insns, swallowed = _swallowed(insns)
    if padding.replacement:
        insns = _shortened(insns, era, padding.replacement, table)
    return _merged(insns, era, padding, table, swallowed)


def merge_nops(
    insns: Sequence[Insn],
    era: Era,
    fill: int,
    padlen: int,
    table: NopTable = NopTable.P6,
) -> list[Insn]:
    """Return a text's instructions after the kernel merged its NOPs."""
    return _merged(insns, era, Padding(fill, padlen), table)


def _merged(
    insns: Sequence[Insn],
    era: Era,
    padding: Padding,
    table: NopTable,
    apart: frozenset[int] = frozenset(),
) -> list[Insn]:
    """Merge the NOPs; a run starts anew at the addresses ``apart``."""
    if not insns:
        return []
    if era is Era.E1 and not padding.fill and not _pads_first(insns, padding.padlen):
        return list(insns)
    end = insns[-1].end
    tail = end - (padding.fill or padding.padlen)
    merged: list[Insn] = []
    run: list[Insn] = []
    for insn in insns:
        mergeable = _mergeable(insn, era, tail)
        if not mergeable or insn.address in apart:
            merged += _run(run, era, end, table)
            run = []
        (run if mergeable else merged).append(insn)
    return [*merged, *_run(run, era, end, table)]


def _mergeable(insn: Insn, era: Era, tail: int) -> bool:
    if era.relocates_all:
        return is_nop(insn.code)
    if era is Era.E1:
        return insn.address >= tail
    return insn.code == b"\x90"


def is_nop(code: bytes) -> bool:
    """Whether insn_is_nop() of 6.5 and later says so: 90 without REP, or 0f 1f."""
    at = 0
    while at < len(code) and code[at] in _LEGACY:
        at += 1
    if at < len(code) and code[at] & 0xF0 == 0x40:
        at += 1
    if code[at : at + 1] == b"\x90":
        return code[0] != 0xF3
    return code[at : at + 2] == b"\x0f\x1f"


def _pads_first(insns: Sequence[Insn], padlen: int) -> bool:
    """E1 looks at the first ``padlen`` bytes and then pads the last (both a NOP?)."""
    head = b"".join(insn.code for insn in insns)[:padlen]
    return padlen > 1 and head == b"\x90" * padlen


def _run(
    run: Sequence[Insn], era: Era, end: int, table: NopTable
) -> Iterator[Insn] | list[Insn]:
    """Return what is written for a run of NOPs."""
    if not run:
        return []
    alone = len(run) == 1
    if alone and era in (Era.E5, Era.E6) and run[0].end == end:
        return list(run)  # "has the NOP already been optimized?"
    if alone and era in (Era.E2, Era.E3):
        return list(run)
    return nops(run[0].address, run[-1].end, era, table)


def nops(at: int, end: int, era: Era, table: NopTable = NopTable.P6) -> Iterator[Insn]:
    """Yield the NOPs that the kernel writes over [at, end)."""
    if era.longest_nop == 11 and end - at > 11:
        yield from _jump_over(at, end)
        return
    while at < end:
        size = min(end - at, era.longest_nop)
        for code in [NOPS[size]] if table is NopTable.P6 else K8_NOPS[size]:
            yield Insn(at, len(code), InsnKind.NOP, 0, code)
            at += len(code)


def _jump_over(at: int, end: int) -> Iterator[Insn]:
    if end - at < 128:
        code = bytes([0xEB, end - at - 2])
    else:
        code = b"\xe9" + (end - at - 5).to_bytes(4, "little", signed=True)
    yield Insn(at, len(code), InsnKind.JMP, end, code)
    yield from _traps(at + len(code), end)


def _traps(at: int, end: int) -> Iterator[Insn]:
    for address in range(at, end):
        yield Insn(address, 1, InsnKind.TRAP, 0, b"\xcc")


def _shortened(
    insns: Sequence[Insn], era: Era, length: int, table: NopTable
) -> list[Insn]:
    """Make near jumps short where the kernel does, and fill what is left.

    Before 6.5 recompute_jump() does it for one that is all of the replacement and
    goes forward, with a NOP behind it; since then for every one that leaves it.
    """
    home, result = insns[0].address, []
    for insn in insns:
        if insn.code[0] != _JMP32 or _stays(insn, home, length):
            result.append(insn)
            continue
        away = insn.target - (insn.address + 2)
        if era.relocates_all:
            fits = -128 <= away <= 127
        else:
            all_of_it = insn.address == home and length == insn.size
            fits = all_of_it and -2 <= away <= 127
        if not fits:
            result.append(insn)
            continue
        short = bytes([0xEB, away & 0xFF])
        result.append(Insn(insn.address, 2, InsnKind.JMP, insn.target, short))
        behind = insn.address + 2
        if era.relocates_all:
            result += _traps(behind, insn.end)
        else:
            result += nops(behind, insn.end, era, table)
    return result


def _stays(insn: Insn, home: int, length: int) -> bool:
    """Whether a near jump goes to a place in the replacement, by its bytes.

    One that is relocated may lead into the site, too: to its end, for one.
    """
    return 0 <= _by_bytes(insn) - home <= length


def _by_bytes(insn: Insn) -> int:
    """Return where a direct jump would go from here, were it not relocated."""
    return insn.end + int.from_bytes(insn.code[1:5], "little", signed=True)


def _swallowed(insns: Sequence[Insn]) -> tuple[list[Insn], frozenset[int]]:
    """E4: a jump to the end of the NOPs behind it counts as the first of them.

    __optimize_nops() reads the jump before it is relocated. Returns also where
    those jumps are.
    """
    result, jumps = list(insns), []
    for at, insn in enumerate(insns):
        if insn.kind is not InsnKind.JMP:
            continue
        behind = at + 1
        while behind < len(insns) and is_nop(insns[behind].code):
            behind += 1
        if behind > at + 1 and insns[behind - 1].end == _by_bytes(insn):
            size = insn.size
            result[at] = Insn(insn.address, size, InsnKind.NOP, 0, NOPS[size])
            jumps.append(insn.address)
    return result, frozenset(jumps)


def text(insns: Sequence[Insn]) -> bytes:
    """Return the bytes of a text, direct branches encoded for where they are."""
    return b"".join(_encoded(insn) for insn in insns)


def _encoded(insn: Insn) -> bytes:
    if not insn.target:
        return insn.code
    size = 1 if insn.size < 4 else 4
    relative = insn.target - insn.end
    if size == 1 and not -128 <= relative < 128:
        return insn.code  # the kernel would refuse, too
    return insn.code[:-size] + relative.to_bytes(size, "little", signed=True)

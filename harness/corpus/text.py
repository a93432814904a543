"""Text: mutants of the code: what the table says is true no more.

The same changes are made in ordinary code, in the originals of alternative sites
and in their replacements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from harness.corpus.mutant import Change, Kind, MutantClass
from harness.corpus.rewrite import Poke
from harness.elf.orc import OrcType
from harness.text.decode import format_insn
from harness.text.insn import I64, Insn, InsnKind
from harness.text.operand import SP, parse_encoding
from harness.verify.columns import Columns

_PUSH_AX, _POP_AX, _RET = b"\x50", b"\x58", b"\xc3"
_PUSH, _POP = 0x50, 0x58

Where = Callable[[Columns], npt.NDArray[np.bool_]]
Edit = Callable[[Columns, int], bytes | None]


def _kinds(columns: Columns, *kinds: InsnKind) -> npt.NDArray[np.bool_]:
    return np.isin(columns.insns.kind, kinds)


def _ordinary(columns: Columns) -> npt.NDArray[np.bool_]:
    """Code that the table describes, outside alternative sites."""
    return (columns.state >> 40 & 15 > OrcType.END_OF_STACK) & ~_original(columns)


def _original(columns: Columns) -> npt.NDArray[np.bool_]:
    table = columns.alternatives
    if table is None:
        return np.zeros(len(columns.insns), bool)
    length = table.site_length.astype(np.uint64)
    return _within(columns, table.site_address, length) & (
        columns.state >> 40 & 15 > OrcType.END_OF_STACK
    )


def _replacement(columns: Columns) -> npt.NDArray[np.bool_]:
    table = columns.alternatives
    if table is None:
        return np.zeros(len(columns.insns), bool)
    used = table.replacementlen > 0
    length = table.replacementlen[used].astype(np.uint64)
    return _within(columns, table.replacement[used], length)


def _within(
    columns: Columns, first: npt.NDArray[np.uint64], size: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Instructions in one of the ranges (which may repeat, never partly overlap)."""
    order = np.argsort(first, kind="stable")
    start, end = first[order], (first + size)[order]
    address = columns.insns.address
    at = np.searchsorted(start, address, side="right") - 1
    return np.asarray((at >= 0) & (address < end[np.maximum(at, 0)]))


def _push_pop(columns: Columns) -> npt.NDArray[np.bool_]:
    """``push %reg`` and ``pop %reg`` in their short forms."""
    insns = columns.insns
    code = insns.code[:]
    opcode = np.where(code[:, 0] & 0xF0 == 0x40, code[:, 1], code[:, 0])
    short = (opcode & 0xF0 == _PUSH) & (insns.size <= 2)
    return np.asarray(short & _kinds(columns, InsnKind.PUSH, InsnKind.POP))


def _stack_ops(columns: Columns) -> npt.NDArray[np.bool_]:
    return _push_pop(columns) | _kinds(columns, InsnKind.PUSHF, InsnKind.POPF)


def _neutral(columns: Columns) -> npt.NDArray[np.bool_]:
    return _kinds(columns, InsnKind.OTHER, InsnKind.NOP)


def _adjusts(columns: Columns) -> npt.NDArray[np.bool_]:
    return _kinds(columns, InsnKind.STACK) & np.isin(
        columns.insns.code[:][:, 1], (0x81, 0x83)
    )


def _frames(columns: Columns) -> npt.NDArray[np.bool_]:
    """``mov %rsp,%rbp`` and ``leave``."""
    code = columns.insns.code[:]
    moves = (code[:, :3] == np.frombuffer(b"\x48\x89\xe5", np.uint8)).all(axis=1)
    return np.asarray(moves | _kinds(columns, InsnKind.LEAVE))


def _nop(columns: Columns, row: int) -> bytes | None:
    return _fill(columns, row, 0)


def _flip(columns: Columns, row: int) -> bytes | None:
    """Push becomes pop, pop becomes push."""
    code = bytearray(columns.insns.at(row).code)
    code[-1] ^= _PUSH ^ _POP
    return bytes(code)


def _insert(columns: Columns, row: int) -> bytes | None:
    return _PUSH_AX + _fill(columns, row, 1)


def _insert_pop(columns: Columns, row: int) -> bytes | None:
    return _POP_AX + _fill(columns, row, 1)


def _pair(columns: Columns, row: int) -> bytes | None:
    if int(columns.insns.size[row]) < 2:
        return None
    return _PUSH_AX + _POP_AX + _fill(columns, row, 2)


def _return(columns: Columns, row: int) -> bytes | None:
    if columns.state[row] & 0xFFFF == 8:  # it may be right
        return None
    return _RET + _fill(columns, row, 1)


def _fill(columns: Columns, row: int, used: int) -> bytes:
    return b"\x90" * (int(columns.insns.size[row]) - used)


def _immediate(columns: Columns, row: int) -> bytes | None:
    """``sub $n,%rsp`` and ``add $n,%rsp`` with n greater by 8."""
    insn = columns.insns.at(row)
    encoding = parse_encoding(insn.code)
    if encoding.mod != 3 or encoding.base != SP or encoding.reg not in (0, 5):
        return None
    at = encoding.immediate
    value = int.from_bytes(insn.code[at:], "little", signed=True)
    size = len(insn.code) - at
    more = value + 8 if value + 8 < 1 << 8 * size - 1 else value - 8
    return insn.code[:at] + more.to_bytes(size, "little", signed=True)


def _later(columns: Columns, row: int) -> bytes | None:
    """The instruction and the one behind it change places."""
    insns = columns.insns
    if row + 1 >= len(insns):
        return None
    first, second = insns.at(row), insns.at(row + 1)
    neighbours = first.end == second.address and second.kind is InsnKind.OTHER
    if not neighbours or _is_relative(second):
        return None
    if (insns.target == np.uint64(second.address)).any():
        return None
    return second.code + first.code


def _is_relative(insn: Insn) -> bool:
    """Whether it may address memory from %rip, which moving it would change."""
    encoding = parse_encoding(insn.code)
    return encoding.mod == 0 and encoding.base == -1


_EDITS: dict[str, tuple[Where, Edit]] = {
    "drop": (_stack_ops, _nop),
    "flip": (_push_pop, _flip),
    "shift": (_stack_ops, _later),
    "push": (_neutral, _insert),
    "pop": (_neutral, _insert_pop),
    "pair": (_neutral, _pair),
    "return": (_neutral, _return),
    "immediate": (_adjusts, _immediate),
    "frame": (_frames, _nop),
}
_PLACES: dict[str, tuple[Where, tuple[str, ...]]] = {
    "text": (_ordinary, tuple(_EDITS)),
    "original": (_original, ("drop", "flip", "push", "pop", "pair")),
    "replacement": (_replacement, ("drop", "flip", "shift", "push", "pop", "pair")),
}


def _class(name: str, place: Where, what: Where, edit: Edit) -> MutantClass:
    def candidates(columns: Columns) -> I64:
        return np.flatnonzero(place(columns) & what(columns))

    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        code = edit(columns, row)
        if code is None:
            return None
        address = int(columns.insns.address[row])
        before = columns.program.read(address, len(code)).tobytes()
        if code == before:
            return None
        what = f"{_lines(before, address)} -> {_lines(code, address)}"
        edits = (Poke(address, code),)
        return Change(columns, edits, address, len(code), what)

    return MutantClass(name, Kind.STATE, candidates, mutate)


def _lines(code: bytes, address: int) -> str:
    return format_insn(code, address) if len(code) < 3 else code.hex(" ")


def _classes() -> Iterator[MutantClass]:
    for place, (where, edits) in _PLACES.items():
        for edit in edits:
            what, how = _EDITS[edit]
            yield _class(f"{place}/{edit}", where, what, how)


CLASSES = tuple(_classes())

"""Condition: the feature on which a replacement is used, and whether it is the right one.

No stack state shows a wrong ``cpuid`` or flag. Three witnesses do:

* the instruction: CLAC goes with SMAP, POPCNT with POPCNT;
* the original: static_cpu_has() tests the feature's bit itself until it is patched
  (_static_cpu_has() in arch/x86/include/asm/cpufeature.h);
* the other sites: those of one macro have the same texts and the same condition.

Others are those of the same object and of its kernel, never of another module.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.column import among, distinct
from harness.elf.feature import Features
from harness.finding import Finding
from harness.text.insn import I64, InsnKind
from harness.text.operation import of_codes
from harness.text.patch import ORIGINAL
from harness.verify.columns import Columns, Part
from harness.verify.kernel import Condition
from harness.verify.pattern import Patterns
from harness.verify.window import excerpt

RULE = "alternative/condition"

_DIRECT_CALL = 5  # bytes
_ENOUGH = 3  # sites that agree, from which on they are a witness
_RARE = 20  # among so many sites one may differ and be wrong


def _bit(word: int, bit: int) -> int:
    return word * 32 + bit


ALWAYS = _bit(3, 21)

# Instructions that fault, or do nothing, without one of these CPUID bits. The words
# mirror CPUID leaves and have never moved (arch/x86/include/asm/cpufeatures.h).
_BITS = {
    "0f01ca": [(9, 20), (12, 6)],  # clac: SMAP, LASS
    "0f01cb": [(9, 20), (12, 6)],  # stac: SMAP, LASS
    "f30fb8c0": [(4, 23)],  # popcnt: POPCNT
    "0f01f9": [(1, 27)],  # rdtscp: RDTSCP
    "480fc70f": [(4, 13)],  # cmpxchg16b: CX16
    "660fae38": [(9, 23)],  # clflushopt: CLFLUSHOPT
    "660fae30": [(9, 24)],  # clwb: CLWB
    "480fae30": [(10, 0)],  # xsaveopt: XSAVEOPT
    "480fc720": [(10, 1)],  # xsavec: XSAVEC
    "480fc728": [(10, 3)],  # xsaves: XSAVES
    "480fc718": [(10, 3)],  # xrstors: XSAVES
    "0f0d08": [(6, 8)],  # prefetchw: 3DNOWPREFETCH
    "0f01c1": [(8, 18)],  # vmcall: VMCALL
    "0f01d9": [(8, 15), (8, 19)],  # vmmcall: VMMCALL, VMW_VMMCALL
}
_NEEDS = {
    number: frozenset(_bit(*bit) for bit in bits)
    for number, bits in zip(of_codes(*_BITS), _BITS.values(), strict=True)
}


class _Doubt(Struct, frozen=True):
    entry: int
    message: str
    expected: str


def check_conditions(columns: Columns) -> Part:
    """Check ``cpuid`` and ``flags`` of every entry against what else tells them.

    Counts: the entries for which something does.
    """
    alternatives, patterns = columns.alternatives, columns.patterns
    if alternatives is None or patterns is None:
        return Part()
    witnessed = np.zeros(len(alternatives), bool)
    doubts: dict[int, _Doubt] = {}
    for doubt in (
        *_by_instruction(columns, alternatives, patterns, witnessed),
        *_by_call(columns, alternatives),
        *_by_test(columns, alternatives, witnessed),
        *_by_majority(columns, alternatives, patterns, witnessed),
    ):
        doubts.setdefault(doubt.entry, doubt)
    findings = [_finding(columns, alternatives, doubts[e]) for e in sorted(doubts)]
    return Part(tuple(findings), {"conditions witnessed": int(witnessed.sum())})


def _by_instruction(
    columns: Columns,
    alternatives: Alternatives,
    patterns: Patterns,
    witnessed: npt.NDArray[np.bool_],
) -> Iterator[_Doubt]:
    for number, bits in _NEEDS.items():
        entries = distinct(patterns.entry[patterns.operation == number])
        entries = entries[entries != ORIGINAL]
        if not len(entries):
            continue
        witnessed[entries] = True
        good = np.isin(alternatives.cpuid[entries], list(bits))
        good &= alternatives.flags[entries] == 0
        for entry in entries[~good].tolist():
            names = " or ".join(columns.features.name(bit) for bit in sorted(bits))
            message = f"an instruction of the replacement needs {names}"
            yield _Doubt(entry, message, names)


def _by_call(columns: Columns, alternatives: Alternatives) -> Iterator[_Doubt]:
    """ALT_FLAG_DIRECT_CALL: the original calls through memory, the replacement directly.

    Anything else makes alt_replace_call() panic (arch/x86/kernel/alternative.c).
    """
    insns = columns.insns
    entries = np.flatnonzero(alternatives.flags & AltFlag.DIRECT_CALL)
    row = insns.index(alternatives.address[entries])
    good = (row >= 0) & (alternatives.replacementlen[entries] == _DIRECT_CALL)
    good &= insns.kind[row] == InsnKind.CALL_INDIRECT
    for entry in entries[~good].tolist():
        name = condition_name(
            columns.features,
            int(alternatives.cpuid[entry]),
            int(alternatives.flags[entry]) & ~AltFlag.DIRECT_CALL,
        )
        yield _Doubt(entry, "only a call through memory can be made direct", name)


def _by_test(
    columns: Columns, alternatives: Alternatives, witnessed: npt.NDArray[np.bool_]
) -> Iterator[_Doubt]:
    """The byte and the bit that the original tests, against the last entry's cpuid."""
    site, byte, bit = _tested(columns, alternatives)
    objects = columns.program.objects_at(alternatives.site_address[site])
    for one in distinct(objects).tolist():
        own = objects == one
        tests = site[own], byte[own], bit[own]
        yield from _tests_of_one(columns, alternatives, tests, witnessed)


def _tests_of_one(
    columns: Columns,
    alternatives: Alternatives,
    tests: tuple[I64, I64, I64],
    witnessed: npt.NDArray[np.bool_],
) -> Iterator[_Doubt]:
    """Compare ``tests`` (site, byte, bit) of one object.

    An entry before the last one makes the site jump to "no" from the start.
    """
    site, byte, bit = tests
    last = alternatives.site_first[site] + alternatives.site_count[site] - 1
    cpuid = alternatives.cpuid[last].astype(np.int64)
    base = byte - (cpuid >> 3)
    values, count = np.unique(base[cpuid & 7 == bit], return_counts=True)
    usual = values[count.argmax()] if len(values) and count.max() >= _ENOUGH else None
    good = cpuid & 7 == bit
    if usual is not None:
        good &= base == usual
        witnessed[last] = True
    good &= alternatives.flags[last] == 0
    for row in np.flatnonzero(~good).tolist():
        name = ""
        if usual is not None:
            name = columns.features.name(int((byte[row] - usual) * 8 + bit[row]))
        message = f"until it is patched the site tests {name or 'another bit'}"
        yield _Doubt(int(last[row]), message, name)
    early = np.flatnonzero(among(alternatives.site, site))
    early = early[~among(early, last)]
    witnessed[early] = True
    plain = (alternatives.cpuid[early] == ALWAYS) & (alternatives.flags[early] == 0)
    for entry in early[~plain].tolist():
        message = "a site that tests a bit is patched to its default at once"
        yield _Doubt(entry, message, columns.features.name(ALWAYS))


def _tested(columns: Columns, alternatives: Alternatives) -> tuple[I64, I64, I64]:
    """Return sites, and the address of the byte and the bit that each tests.

    The original jumps to ``testb $bit, byte; jnz yes; jmp no`` elsewhere.
    """
    insns = columns.insns
    first = insns.index(alternatives.site_address)
    away = insns.target[first]
    away[(first < 0) | (insns.kind[first] != InsnKind.JMP)] = 0
    there = insns.index(away)
    code = insns.code[there]
    relative = code[:, 1] == 0x05
    absolute = (code[:, 1] == 0x04) & (code[:, 2] == 0x25)
    tests = (there >= 0) & (away > 0) & (code[:, 0] == 0xF6) & (relative | absolute)
    behind = np.minimum(there + 1, len(insns) - 1)
    tests &= insns.kind[behind] == InsnKind.JCC
    rows = np.flatnonzero(tests)
    code, relative = code[rows], relative[rows]
    at = np.where(relative, 2, 3)[:, None] + np.arange(4)
    field = np.take_along_axis(code, at, axis=1)
    byte = np.ascontiguousarray(field).view("<i4").reshape(-1).astype(np.int64)
    byte += np.where(relative, insns.ends(there[rows]).view(np.int64), 0)
    mask = np.take_along_axis(code, at[:, 3:] + 1, axis=1).reshape(-1)
    single = (mask != 0) & (mask & (mask - 1) == 0)
    bit = np.log2(np.maximum(mask, 1)).astype(np.int64)
    return rows[single].astype(np.int64), byte[single], bit[single]


def known_conditions(
    alternatives: Alternatives, patterns: Patterns
) -> tuple[Condition, ...]:
    """Return what a kernel's sites tell of its modules'."""
    entries = np.flatnonzero(patterns.telling & ~_instructed(patterns))
    pairs = _pairs(alternatives, patterns, entries)
    kinds, count = np.unique(pairs, axis=1, return_counts=True)
    return tuple(zip(*kinds.tolist(), count.tolist(), strict=True))


def _instructed(patterns: Patterns) -> npt.NDArray[np.bool_]:
    """Entries of which an instruction tells the condition."""
    found = np.zeros(len(patterns.pattern), bool)
    entry = patterns.entry[among(patterns.operation, np.array([*_NEEDS]))]
    found[entry[entry != ORIGINAL]] = True
    return found


def _pairs(alternatives: Alternatives, patterns: Patterns, entries: I64) -> I64:
    """i64[2, n], of each entry the pattern and the condition."""
    condition = alternatives.flags.astype(np.int64) << 16 | alternatives.cpuid
    return np.stack([patterns.pattern[entries].view(np.int64), condition[entries]])


def _by_majority(
    columns: Columns,
    alternatives: Alternatives,
    patterns: Patterns,
    witnessed: npt.NDArray[np.bool_],
) -> Iterator[_Doubt]:
    """One site that differs from all others of its texts.

    Two that differ in the same way are another macro with the same texts. Where an
    instruction has told already the others are not asked: CLAC is for LASS, too.
    A module may have a macro of its kernel's for a feature of its own (UNTRAIN_RET_VM):
    against it only what the kernel has many times is a witness.
    """
    entries = np.flatnonzero(patterns.telling & ~witnessed)
    pairs = _pairs(alternatives, patterns, entries)
    objects = columns.program.objects_at(alternatives.address[entries])
    known = columns.kernel.conditions if columns.kernel else ()
    others = np.array(known, np.int64).reshape(-1, 3).T
    others = others[:, among(others[0], others[0, others[2] >= _RARE])]
    for one in distinct(objects).tolist():
        own = np.flatnonzero(objects == one)
        near = others[:, among(others[0], pairs[0, own])]
        votes = _Votes(pairs[:, own], near)
        witnessed[entries[own[votes.agreed]]] = True
        for row in np.flatnonzero(votes.odd).tolist():
            many, usual = votes.others(row)
            name = condition_name(columns.features, usual & 0xFFFF, usual >> 16)
            message = f"{many} sites with these texts are for {name}"
            yield _Doubt(int(entries[own[row]]), message, name)


class _Votes:
    """What the sites of one object and of its kernel say of each of its entries.

    Attributes:
        agreed: bool[entries], nearly all with its texts have one condition.
        odd: bool[entries], it is the only one that has not.
    """

    def __init__(self, pairs: I64, others: I64) -> None:
        """Count ``pairs``, an object's, and ``others``, which come with a number."""
        every = np.concatenate([pairs, others[:2]], axis=1)
        weight = np.append(np.ones(pairs.shape[1], np.int64), others[2])
        self._kinds, kind = np.unique(every, axis=1, return_inverse=True)
        kind = kind.reshape(-1)
        self._count = np.bincount(kind, weights=weight).astype(np.int64)
        _, self._group = np.unique(self._kinds[0], return_inverse=True)
        total = np.bincount(self._group, weights=self._count).astype(np.int64)
        self._most = np.zeros(len(total), np.int64)
        np.maximum.at(self._most, self._group, self._count)
        rest = total - self._most
        agreed = (self._most >= _ENOUGH) & (rest <= np.maximum(1, total // _RARE))
        self._kind = kind[: pairs.shape[1]]
        self.agreed = agreed[self._group[self._kind]]
        self.odd = self.agreed & (self._count[self._kind] == 1)

    def others(self, row: int) -> tuple[int, int]:
        """Return how many have another condition than ``row``, and which."""
        group = self._group[self._kind[row]]
        peers = np.flatnonzero(self._group == group)
        usual = peers[self._count[peers].argmax()]
        return int(self._most[group]), int(self._kinds[1, usual])


def condition_name(features: Features, cpuid: int, flags: int) -> str:
    """Name a condition: ``SMAP``, ``not XENPV``, ``ALWAYS, direct call``."""
    name = features.name(cpuid)
    if flags & AltFlag.NOT:
        name = f"not {name}"
    if flags & AltFlag.DIRECT_CALL:
        name = f"{name}, direct call"
    rest = flags & ~(AltFlag.NOT | AltFlag.DIRECT_CALL)
    return f"{name}, flags {rest:#x}" if rest else name


def _finding(columns: Columns, alternatives: Alternatives, doubt: _Doubt) -> Finding:
    entry = doubt.entry
    address = int(alternatives.address[entry])
    own = condition_name(
        columns.features, int(alternatives.cpuid[entry]), int(alternatives.flags[entry])
    )
    nth = entry - int(alternatives.site_first[alternatives.site[entry]]) + 1
    return Finding(
        RULE,
        columns.program.location(address),
        f"the replacement is for {own}: {doubt.message}",
        declared=own,
        actual=doubt.expected,
        variant=f"replacement {nth}",
        window=excerpt(columns.program, columns.insns, address),
    )

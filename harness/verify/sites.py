"""Sites: all alternative sites of a program, every variant of each, checked.

Sites whose table is constant and whose texts do nothing to the stack are settled
by array operations; the others are walked one by one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.elf.alternative import Alternatives
from harness.elf.orc import describe, unpack
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import I64, Insn, InsnKind
from harness.text.operand import parse_encoding
from harness.text.patch import (
    ORIGINAL,
    Era,
    Streams,
    merge_nops,
    sniff_era,
)
from harness.verify import altgroup
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns, Part
from harness.verify.judge import Defect, Rule, Texts, judge
from harness.verify.lookup import Lookup
from harness.verify.transfer import is_defined
from harness.verify.variant import Variants
from harness.verify.walk import Site, Walk, walk
from harness.verify.window import Column, draw

# What cannot change a stack state, given that branches go to equal states.
_QUIET = (
    InsnKind.OTHER,
    InsnKind.NOP,
    InsnKind.CALL,
    InsnKind.CALL_INDIRECT,
    InsnKind.JMP,
    InsnKind.JMP_INDIRECT,
    InsnKind.JCC,
    InsnKind.TRAP,
    InsnKind.UD,
    InsnKind.ENDBR,
)


@dataclass(frozen=True, slots=True)
class _Context:
    program: Program
    alternatives: Alternatives
    streams: Streams
    lookup: Lookup
    callees: Callees
    variants: Variants
    era: Era
    table: I64  # [site, byte], the last column repeats
    first: I64  # site -> its first stream


def check_sites(columns: Columns) -> Part:
    """Check every text of every site against the table.

    Counts: sites, variants, boundaries (instruction starts of all of them), walked
    sites, blind ones (undefined at their start), and of the walked ones ``merge
    equal``, where the table equals what both designs make of the texts.
    """
    alternatives, streams = columns.alternatives, columns.streams
    if alternatives is None or streams is None:
        return Part()
    program, lookup = columns.program, columns.lookup
    era = sniff_era(program, alternatives)
    width = int(alternatives.site_length.max(initial=0)) + 1
    column = np.arange(width, dtype=np.uint64)
    table = lookup.at(alternatives.site_address[:, None] + column)
    context = _Context(
        program,
        alternatives,
        streams,
        lookup,
        Callees(program, columns.insns, lookup),
        Variants(alternatives, columns.features, streams.era),
        era,
        table,
        np.searchsorted(
            streams.site, np.arange(len(alternatives.site_address) + 1)
        ).astype(np.int64),
    )
    findings: list[Finding] = []
    walked = np.flatnonzero(_needs_walk(context)).tolist()
    merged_equal = 0
    for number in walked:
        found, equal = _check_site(context, number)
        findings += found
        merged_equal += equal
    counts = {
        "sites": len(alternatives.site_address),
        "variants": len(streams),
        "boundaries": len(streams.insns),
        "walked sites": len(walked),
        "blind sites": int((~_defined(table[:, 0])).sum()),
        "merge equal": merged_equal,
    }
    size = alternatives.entry_size
    note = f"alternatives of era {era}, {size} bytes per entry"
    return Part(tuple(findings), counts, (note,))


def _defined(states: I64) -> npt.NDArray[np.bool_]:
    return np.asarray((states >> 40 & 15) > 1)


def _needs_walk(context: _Context) -> npt.NDArray[np.bool_]:
    """Sites that array operations cannot settle, as bool[sites]."""
    table, streams = context.table, context.streams
    sites = context.alternatives.site_address
    length = context.alternatives.site_length
    inside = np.arange(table.shape[1]) <= length[:, None]
    busy = ((table != table[:, :1]) & inside).any(axis=1)
    insns = streams.insns
    owner = np.repeat(streams.site, np.diff(streams.first))
    loud = ~np.isin(insns.kind, _QUIET)
    start = sites[owner]
    own = (insns.target >= start) & (insns.target <= start + length[owner])
    jump = np.isin(insns.kind, (InsnKind.JMP, InsnKind.JCC)) & ~own
    target_state = context.lookup.at(insns.target)
    loud |= jump & _defined(target_state) & (target_state != table[owner, 0])
    call = (insns.kind == InsnKind.CALL) & (insns.target != 0)
    loud |= call & own
    targets = np.unique(insns.target[call & ~own])
    judged = [context.callees.at(target).returns for target in targets.tolist()]
    odd = targets[[returns is not Returns.BALANCED for returns in judged]]
    loud |= call & np.isin(insns.target, odd)
    busy[owner[loud]] = True
    # nothing can be said where the table says nothing
    busy &= _defined(table[:, 0])
    busy[streams.site[~streams.whole]] = True
    return np.asarray(busy)


def _check_site(context: _Context, number: int) -> tuple[list[Finding], bool]:
    """Return the findings at one site, and whether both designs make its table."""
    length = int(context.alternatives.site_length[number])
    site = Site(
        int(context.alternatives.site_address[number]),
        length,
        tuple(context.table[number, : length + 1].tolist()),
    )
    rows = range(int(context.first[number]), int(context.first[number + 1]))
    raw = [context.streams.rows(row) for row in rows]
    equal = False
    torn = [n for n, row in enumerate(rows) if not context.streams.whole[row]]
    linked = [walk(site, text, context.callees.at) for text in raw]
    if torn:
        message = "the text does not end where an instruction ends"
        defects = [Defect(Rule.BOUNDARY, n, length, message) for n in torn]
        walks = linked
    else:
        walks = [
            walk(site, _merged(context, row, text), context.callees.at)
            for row, text in zip(rows, raw, strict=True)
        ]
        entries = context.streams.entry[rows.start : rows.stop].tolist()
        live = [context.variants.possible(number, entry) for entry in entries]
        fills = context.streams.fill[rows.start : rows.stop].tolist()
        merges = _merges(site, linked, fills)
        equal = all(merge.cfi == site.table[:length] for merge in merges)
        texts = Texts(walks, linked, merges[0], live)
        defects = judge(site, texts, context.lookup.one)
    findings = [_finding(context, number, site, walks, d) for d in defects]
    return findings, equal


def _merged(context: _Context, row: int, text: list[Insn]) -> list[Insn]:
    site = int(context.streams.site[row])
    padlen = 0
    if int(context.streams.entry[row]) == ORIGINAL:
        first = int(context.alternatives.site_first[site])
        last = first + int(context.alternatives.site_count[site])
        padlen = int(context.alternatives.padlen[first:last].max(initial=0))
    return merge_nops(text, context.era, int(context.streams.fill[row]), padlen)


def _merges(site: Site, walks: list[Walk], fills: list[int]) -> list[altgroup.Merge]:
    """Return what each of the two designs makes of the texts as linked.

    They see replacements without their fill.
    """
    streams = [
        _stream(each, site.length - fill)
        for each, fill in zip(walks, fills, strict=True)
    ]
    designs = (altgroup.cfi_array, altgroup.merge_sort)
    return [design(streams, site.length) for design in designs]


def _stream(text: Walk, length: int) -> altgroup.Stream:
    rows = [
        altgroup.Row(offset, insn.size, text.state.get(offset), insn.kind)
        for offset, insn in sorted(text.insns.items())
        if offset < length
    ]
    return altgroup.Stream(tuple(rows), text.state.get(length))


def _finding(
    context: _Context, number: int, site: Site, walks: list[Walk], defect: Defect
) -> Finding:
    first = int(context.first[number])
    entries = context.streams.entry[first:].tolist()
    label = context.variants.label(number, entries[defect.stream])
    fits_none = defect.rule is Rule.ENTRY
    shown = _shown(defect, len(walks))
    columns = [
        Column(_short(context.variants.label(number, entries[n])), walks[n].insns)
        for n in shown
    ]
    declared = "" if defect.declared is None else describe(defect.declared)
    actual = "" if defect.actual is None else describe(defect.actual)
    verdict = [f"at +{defect.offset:#x}: {defect.message}"]
    if declared != actual:
        side = "expected there" if defect.rule is Rule.EXIT else "table"
        verdict.append(f"{side}: {declared}    true in {_short(label)}: {actual}")
    if defect.other >= 0 and defect.offset in walks[defect.other].state:
        other = describe(walks[defect.other].state[defect.offset])
        name = context.variants.label(number, entries[defect.other])
        verdict.append(f"true in {_short(name)}: {other}")
    platforms = (
        context.variants.platforms(number, entries[n])
        for n in (range(len(walks)) if fits_none else [defect.stream])
    )
    return Finding(
        rule=defect.rule.value,
        location=context.program.location(site.address + defect.offset),
        message=defect.message,
        declared=declared,
        actual=actual,
        variant="" if fits_none else label,
        platforms=tuple(sorted({name for names in platforms for name in names})),
        cause=_cause(context, site, walks, defect),
        window=draw(context.program, columns, site.table, defect.offset, verdict),
    )


def _shown(defect: Defect, count: int) -> list[int]:
    """The streams of the window: the bad one and two others at most."""
    wanted = [defect.stream, defect.other, 0, *range(1, count)]
    return sorted(list(dict.fromkeys(n for n in wanted if n >= 0))[:3])


def _short(label: str) -> str:
    head, _, condition = label.partition(" (")
    return f"{head.split(' of ')[0]} {condition.rstrip(')')}".strip()


def _cause(context: _Context, site: Site, walks: list[Walk], defect: Defect) -> str:
    """Name the mechanism: the odd callee, else a hash of texts and disagreement.

    The hash leaves out what differs from place to place: frame size, addresses.
    """
    callee = context.program.location(defect.callee) if defect.callee else None
    if callee is not None and not callee.offset:
        return f"callee {callee.symbol}"
    parts = [defect.rule.value, str(defect.offset), _difference(defect)]
    if defect.rule is not Rule.EXIT:  # texts may leave wrongly for one reason
        parts.append(str(defect.stream))
    for each in walks:
        codes = (_anonymous(insn) for _, insn in sorted(each.insns.items()))
        parts.append(" ".join(codes))
    digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
    return f"text {digest[:12]}"


def _difference(defect: Defect) -> str:
    if defect.declared is None or defect.actual is None:
        return ""
    declared, actual = unpack(defect.declared), unpack(defect.actual)
    if not (is_defined(defect.declared) and is_defined(defect.actual)):
        return f"{declared.type} {actual.type}"
    same_base = declared.sp_reg == actual.sp_reg and declared.type == actual.type
    if same_base:
        return f"sp {actual.sp_offset - declared.sp_offset:+d}"
    return f"{declared.type}/{declared.sp_reg} {actual.type}/{actual.sp_reg}"


def _anonymous(insn: Insn) -> str:
    """The instruction's bytes without its branch target or RIP-relative address."""
    if insn.target:
        return f"{insn.kind}:{insn.size}"
    encoding = parse_encoding(insn.code)
    has_address = encoding.mod == 0 and encoding.base == -1 and insn.size > 5
    return insn.code[:-4].hex() if has_address else insn.code.hex()

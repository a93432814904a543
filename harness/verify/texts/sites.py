"""Sites: all alternative sites of a program, every variant of each, checked.

Sites whose table is constant and whose texts do nothing to the stack are settled
by array operations; the others are walked one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.alternative import Alternatives
from harness.elf.column import among, distinct
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import I64, Insn, InsnKind
from harness.text.patch import Era, NopTable, Streams, nop_tables
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns, Part
from harness.verify.lookup import Lookup
from harness.verify.successor import defined
from harness.verify.texts import altgroup
from harness.verify.texts.evidence import Text, finding_of
from harness.verify.texts.judge import Defect, Rule, Texts, judge, judge_text
from harness.verify.texts.shape import Shape, shapes_of
from harness.verify.texts.walk import Site, Walk, walk
from harness.verify.variant import Variants

# What cannot change a stack state, given that branches go to equal states.
QUIET = (
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


class _Context(Struct, frozen=True):
    program: Program
    alternatives: Alternatives
    streams: Streams
    lookup: Lookup
    callees: Callees
    variants: Variants
    era: Era
    tables: tuple[NopTable, ...]
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
    era = streams.era
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
        nop_tables(program, era),
        table,
        np.searchsorted(
            streams.site, np.arange(len(alternatives.site_address) + 1)
        ).astype(np.int64),
    )
    findings = list(_uneven(context))
    walked = np.flatnonzero(_needs_walk(context))
    merged_equal = 0
    settled: dict[Shape, bool] = {}  # of shapes without findings: both designs' word
    shapes = shapes_of(alternatives, streams, table, walked)
    for number, shape in zip(walked.tolist(), shapes, strict=True):
        if shape in settled:
            merged_equal += settled[shape]
            continue
        found, equal = _check_site(context, number)
        findings += found
        merged_equal += equal
        if not found:
            settled[shape] = equal
    counts = {
        "sites": len(alternatives.site_address),
        "variants": len(streams),
        "boundaries": len(streams.insns),
        "walked sites": len(walked),
        "blind sites": int((~defined(table[:, 0])).sum()),
        "merge equal": merged_equal,
    }
    size = alternatives.entry_size
    note = f"alternatives of era {era}, {size} bytes per entry"
    return Part(tuple(findings), counts, (note,))


def _uneven(context: _Context) -> Iterator[Finding]:
    """Yield sites whose entries differ in length, in kernels before nested ones.

    Since 6.11 apply_alternatives() gives all entries of a site the longest one's
    length; before that each is padded to its own, and what lies behind stays.
    """
    if context.era in (Era.E5, Era.E6):
        return
    alternatives, program = context.alternatives, context.program
    shortest = alternatives.site_length.copy()
    np.minimum.at(shortest, alternatives.site, alternatives.instrlen.astype(np.int64))
    for number in np.flatnonzero(shortest < alternatives.site_length).tolist():
        address = int(alternatives.site_address[number])
        few, many = int(shortest[number]), int(alternatives.site_length[number])
        message = (
            f"its entries are for {few} and {many} bytes: this kernel leaves the tail "
            "of one text behind another"
        )
        place = program.location(address + few)
        window = (f"-> {place}  {many - few} bytes that stay"[:100],)
        yield Finding(Rule.BOUNDARY.value, place, message, window=window)


def _needs_walk(context: _Context) -> npt.NDArray[np.bool_]:
    """Sites that array operations cannot settle, as bool[sites]."""
    table, streams = context.table, context.streams
    sites = context.alternatives.site_address
    length = context.alternatives.site_length
    inside = np.arange(table.shape[1]) <= length[:, None]
    busy = ((table != table[:, :1]) & inside).any(axis=1)
    insns = streams.insns
    owner = np.repeat(streams.site, np.diff(streams.first))
    loud = ~np.isin(insns.kind, QUIET)
    start = sites[owner]
    end = start + length[owner].astype(np.uint64)
    own = (insns.target >= start) & (insns.target <= end)
    jump = np.isin(insns.kind, (InsnKind.JMP, InsnKind.JCC)) & ~own
    target_state = context.lookup.at(insns.target)
    loud |= jump & defined(target_state) & (target_state != table[owner, 0])
    call = (insns.kind == InsnKind.CALL) & (insns.target != 0)
    loud |= call & own
    targets = distinct(insns.target[call & ~own])
    judged = [context.callees.at(target).returns for target in targets.tolist()]
    odd = targets[[returns is not Returns.BALANCED for returns in judged]]
    loud |= call & among(insns.target, odd)
    busy[owner[loud]] = True
    # nothing can be said where the table says nothing
    busy &= defined(table[:, 0])
    busy[streams.site[~streams.whole]] = True
    return np.asarray(busy)


def _check_site(context: _Context, number: int) -> tuple[list[Finding], bool]:
    """Return the findings at one site, and whether both designs make its table."""
    streams = context.streams
    length = int(context.alternatives.site_length[number])
    site = Site(
        int(context.alternatives.site_address[number]),
        length,
        tuple(context.table[number, : length + 1].tolist()),
    )
    rows = range(int(context.first[number]), int(context.first[number + 1]))
    raw = [streams.rows(row) for row in rows]
    linked = [walk(site, text, context.callees.at) for text in raw]
    torn = [n for n, row in enumerate(rows) if not streams.whole[row]]
    if torn:
        message = "the text does not end where an instruction ends"
        defects = [Defect(Rule.BOUNDARY, n, length, message) for n in torn]
        texts = _texts(context, number, rows, linked)
        return [finding_of(context.program, site, texts, d) for d in defects], False
    merged = [
        _walk_written(context, site, row, *both)
        for row, both in zip(rows, zip(raw, linked, strict=True), strict=True)
    ]
    entries = streams.entry[rows.start : rows.stop].tolist()
    live = [context.variants.possible(number, entry) for entry in entries]
    merges = _merges(site, linked, streams.fill[rows.start : rows.stop].tolist())
    equal = all(merge.cfi == site.table[:length] for merge in merges)
    walks = Texts(merged, linked, merges[0], live)
    defects = judge(site, walks, context.lookup.one)
    if defects:
        texts = _texts(context, number, rows, merged)
        return [finding_of(context.program, site, texts, d) for d in defects], equal
    findings = [
        *_other_padding(context, number, site, rows, walks),
        *_unpatched(context, number, site, rows, walks),
    ]
    return findings, equal


def _walk_written(
    context: _Context, site: Site, row: int, raw: Sequence[Insn], linked: Walk
) -> Walk:
    """Walk a text as the kernel writes it: mostly it is that of the file."""
    written = context.streams.written(row, rows=raw)
    return linked if written == raw else walk(site, written, context.callees.at)


def _texts(
    context: _Context, number: int, rows: range, walks: Sequence[Walk]
) -> list[Text]:
    variants, entry = context.variants, context.streams.entry
    return [
        Text(
            variants.label(number, int(entry[row])),
            variants.platforms(number, int(entry[row])),
            each,
        )
        for row, each in zip(rows, walks, strict=True)
    ]


def _other_padding(
    context: _Context, number: int, site: Site, rows: range, walks: Texts
) -> Iterator[Finding]:
    """Judge the texts with the NOPs that the kernel writes on other CPUs."""
    for table in context.tables[1:]:
        for n, row in enumerate(rows):
            insns = context.streams.written(row, table)
            walked = walk(site, insns, context.callees.at)
            if not walks.live[n] or walked.state == walks.merged[n].state:
                continue
            for defect in judge_text(site, n, walked, context.lookup.one):
                texts = _texts(context, number, rows, walks.merged)
                label = f"{texts[n].label}, {table} NOPs"
                texts[n] = replace(texts[n], label=label, walk=walked)
                yield finding_of(context.program, site, texts, defect)


def _unpatched(
    context: _Context, number: int, site: Site, rows: range, walks: Texts
) -> Iterator[Finding]:
    """Judge what runs before patching, and between two of its steps.

    A linked kernel runs its originals with the NOPs of the file until it applies
    alternatives, with interrupts on for a while; a module is patched before it runs.
    E2 and E3 write a replacement first and merge its NOPs in place.
    """
    if context.program.relocatable:
        return
    seen = len(rows) if context.era in (Era.E2, Era.E3) else 1
    for n in (n for n in range(seen) if walks.live[n]):
        for defect in judge_text(site, n, walks.linked[n], context.lookup.one):
            texts = _texts(context, number, rows, walks.merged)
            label = f"{texts[n].label}, before its NOPs are merged"
            texts[n] = replace(texts[n], label=label, walk=walks.linked[n])
            found = replace(defect, rule=Rule.UNPATCHED)
            cause = _unpatched_cause(context, number, walks.linked[n])
            yield finding_of(context.program, site, texts, found, cause)


def _unpatched_cause(context: _Context, number: int, text: Walk) -> str:
    """Name what NOPs wait for; a text that is more than padding has its own cause."""
    if any(insn.kind is not InsnKind.NOP for insn in text.insns.values()):
        return ""
    first = int(context.alternatives.site_first[number])
    return f"NOPs under {context.variants.condition(first)}"


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

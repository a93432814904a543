"""Paravirt: the sites of .parainstructions, every text that a kernel writes there.

Calls and NOPs move no stack: they are settled by array operations, where the table has
one state for all bytes of the site. What is inlined, and where the table changes, is
walked.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.paravirt import parse_parainstructions
from harness.finding import Finding
from harness.text.decode import format_insn
from harness.text.insn import I64, Insn
from harness.text.patch import Era, NopTable, nop_tables
from harness.text.patch.paravirt import (
    Action,
    Operation,
    Paravirt,
    decoded,
    read_paravirt,
)
from harness.variant import Platform
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns, Part
from harness.verify.texts.evidence import Text, finding_of
from harness.verify.texts.judge import Defect, judge_text
from harness.verify.texts.judge import Rule as SiteRule
from harness.verify.texts.sites import QUIET
from harness.verify.texts.walk import Site, walk
from harness.verify.transfer import is_defined

_NEAR = 5
_HARDWARE = tuple(p.value for p in Platform if p is not Platform.XEN)


class Rule(enum.StrEnum):
    """Ids of the findings about paravirt sites."""

    STATE = "paravirt/state"
    RETURN = "paravirt/ret-1"
    END = "paravirt/end"
    EXIT = "paravirt/exit"
    TYPE = "paravirt/type"
    SITE = "paravirt/site"


_RULES = {
    SiteRule.STATE: Rule.STATE,
    SiteRule.LOOP: Rule.STATE,
    SiteRule.RETURN: Rule.RETURN,
    SiteRule.END: Rule.END,
    SiteRule.EXIT: Rule.EXIT,
}


_WORDS = {
    Action.UNKNOWN: "unknown",
    Action.CALL: "call of {name}",
    Action.JUMP: "jump to {name}",
    Action.NOTHING: "NOPs for {name}",
    Action.INLINE: "inlined {name}",
}


class _Defective(Struct, frozen=True):
    """A site with its texts, and the first thing wrong with the last of them."""

    site: Site
    texts: list[Text]
    defect: Defect


class _Context(Struct, frozen=True):
    columns: Columns
    sites: Paravirt
    table: I64  # [site, byte], one byte behind the longest site
    tables: tuple[NopTable, ...]
    callees: Callees

    def lookup(self, address: int) -> int:
        """Return the table's state at ``address``."""
        return self.columns.lookup.one(address)


def check_paravirt(columns: Columns) -> Part:
    """Check what each kernel makes of its paravirt sites against the table.

    Counts: sites, walked ones, and those whose operation the object does not tell
    (in a module without its kernel all of them): they are judged as calls.
    """
    context = _context(columns)
    if context is None:
        return Part()
    sites = context.sites
    walked = np.flatnonzero(_needs_walk(context)).tolist()
    findings = [*_lints(context), *_report(context, walked)]
    known = np.array([o.action is not Action.UNKNOWN for o in sites.operations])
    counts = {
        "paravirt sites": len(sites),
        "walked paravirt sites": len(walked),
        "paravirt sites of unknown operation": int((~known[sites.operation]).sum()),
    }
    return Part(tuple(findings), counts)


def defective(columns: Columns) -> list[int]:
    """Return the addresses of all sites that :func:`check_paravirt` has found wrong.

    Its findings have the first of each cause only.
    """
    context = _context(columns)
    if context is None:
        return []
    walked = np.flatnonzero(_needs_walk(context)).tolist()
    wrong = [number for number in walked if any(True for _ in _judged(context, number))]
    return [int(context.sites.address[number]) for number in wrong]


def _context(columns: Columns) -> _Context | None:
    found = parse_parainstructions(columns.program)
    if found is None:
        return None
    era = Era.E2 if columns.streams is None else columns.streams.era
    given = [
        Operation(slot, function, name, Action(action), code, calls)
        for slot, function, name, action, code, calls in (
            columns.kernel.operations if columns.kernel else ()
        )
    ]
    sites = read_paravirt(columns.program, found, era, given)
    width = int(sites.length.max(initial=0)) + 1
    column = np.arange(width, dtype=np.uint64)
    table = columns.lookup.at(np.add.outer(sites.address, column))
    return _Context(
        columns,
        sites,
        table,
        nop_tables(columns.program, era),
        Callees(columns.program, columns.insns, columns.lookup),
    )


def _lints(context: _Context) -> Iterator[Finding]:
    """Entries that would patch something else than the call that they lie on."""
    columns, sites = context.columns, context.sites
    row = columns.insns.index(sites.address)
    end = columns.insns.ends(np.maximum(row, 0))
    site_end = sites.address + sites.length.astype(np.uint64)
    for at in np.flatnonzero((row < 0) | (end != site_end)).tolist():
        message = "the entry does not cover one instruction"
        yield _place(context, at, Rule.SITE, message)
    if not sites.base:
        return
    slots = np.array([operation.slot for operation in sites.operations], np.uint64)
    said = np.uint64(sites.base) + np.uint64(8) * sites.type.astype(np.uint64)
    for at in np.flatnonzero(slots[sites.operation] != said).tolist():
        message = "the entry's type is another operation than the one called here"
        yield _place(context, at, Rule.TYPE, message)


def _place(context: _Context, site: int, rule: Rule, message: str) -> Finding:
    program = context.columns.program
    address = int(context.sites.address[site])
    length = int(context.sites.length[site])
    code = program.read(address, length).tobytes()
    lines = (
        f"-> {address:#x} {program.location(address)}",
        f"   {length} bytes, type {int(context.sites.type[site])}: "
        f"{format_insn(code, address)}"[:100],
    )
    return Finding(rule.value, program.location(address), message, window=lines)


def _needs_walk(context: _Context) -> npt.NDArray[np.bool_]:
    """Sites that array operations cannot settle, as bool[sites]."""
    table, sites = context.table, context.sites
    inside = np.arange(table.shape[1]) <= sites.length[:, None]
    changes = ((table != table[:, :1]) & inside).any(axis=1)
    loud = np.array([_is_loud(context, n) for n in range(len(sites.operations))], bool)
    defined = np.array([is_defined(s) for s in table[:, 0].tolist()], bool)
    return np.asarray((changes | loud[sites.operation]) & defined)


def _is_loud(context: _Context, number: int) -> bool:
    """Whether a native text of the operation can move the stack or go elsewhere."""
    operation = context.sites.operations[number]
    if operation.action is Action.CALL:
        returns = context.callees.at(operation.function).returns
        return returns is not Returns.BALANCED
    if operation.action is Action.INLINE:
        return any(insn.kind not in QUIET for insn in decoded(operation.code))
    return operation.action is Action.JUMP


def _judged(context: _Context, number: int) -> Iterator[tuple[str, _Defective]]:
    """Yield the cause and the proof of what is wrong at one site."""
    length = int(context.sites.length[number])
    states = tuple(context.table[number, : length + 1].tolist())
    site = Site(int(context.sites.address[number]), length, states)
    texts: list[Text] = []
    wrong: set[str] = set()
    for label, platforms, insns in _texts(context, number):
        text = Text(label, platforms, walk(site, insns, context.callees.at))
        texts.append(text)
        name = label.partition(",")[0]
        defects = judge_text(site, len(texts) - 1, text.walk, context.lookup)
        if not defects or name in wrong:  # the same with other NOPs
            continue
        wrong.add(name)
        yield name, _Defective(site, texts, defects[0])


def _report(context: _Context, walked: list[int]) -> list[Finding]:
    """Judge the sites; return one finding per object, rule and cause, with their number.

    There are hundreds of sites per operation, which all have its defect.
    """
    first: dict[tuple[Rule, str, int], tuple[str, _Defective]] = {}
    places: Counter[tuple[Rule, str, int]] = Counter()
    objects = context.columns.program.objects_at(context.sites.address)
    for number in walked:
        for name, found in _judged(context, number):
            key = (_RULES[found.defect.rule], name, int(objects[number]))
            first.setdefault(key, (name, found))
            places[key] += 1
    return [
        replace(
            finding_of(
                context.columns.program, found.site, found.texts, found.defect, name
            ),
            rule=rule.value,
            occurrences=places[rule, name, owner],
        )
        for (rule, _, owner), (name, found) in first.items()
    ]


def _texts(
    context: _Context, number: int
) -> Iterator[tuple[str, tuple[str, ...], list[Insn]]]:
    """Yield what can be written there: its name, where, and the instructions."""
    sites = context.sites
    operation = sites.operations[int(sites.operation[number])]
    native = [
        p for p in _HARDWARE if not (operation.vsmp_calls and p == Platform.VSMP.value)
    ]
    shown = _WORDS[operation.action].format(name=operation.name or "a function")
    seen: set[tuple[bytes, ...]] = set()
    for table in context.tables:
        insns = sites.native(number, table)
        codes = tuple(insn.code for insn in insns)
        if insns and codes not in seen:
            label = shown if not seen else f"{shown}, {table} NOPs"
            seen.add(codes)
            yield label, tuple(native), insns
    called = operation.action in (Action.CALL, Action.JUMP)
    if int(sites.length[number]) >= _NEAR and not called:
        others = {p.value for p in Platform} - set(native)
        yield "direct call", tuple(sorted(others)), sites.direct(number)

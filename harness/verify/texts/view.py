"""View: the program as each platform runs it, judged as one program.

A view differs from the linked program inside its sites only, and each text of a site is
walked by the checks of sites. What is left is where texts meet: that they fill their
sites, that what leaves one arrives at an instruction and in a state that fits, and which
texts a platform runs. That is proved here for all views at once; :func:`verify_view`
builds one of them and checks it from scratch, as if it were what was linked.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.alternative import Alternatives
from harness.elf.orc import describe
from harness.finding import Finding
from harness.text.insn import I64, U64, InsnKind
from harness.text.patch import Streams
from harness.text.patch.choice import Machine, chosen
from harness.text.patch.view import View, patcher_of, spliced
from harness.variant import Platform
from harness.verify.columns import Columns, Part
from harness.verify.edges.wholesale import RULE as WHOLESALE
from harness.verify.successor import defined
from harness.verify.texts.paravirt import defective
from harness.verify.texts.sites import check_sites
from harness.verify.transfer import ENTRY
from harness.verify.variant import Variants
from harness.verify.window import insn_text

CALLED = 8  # bytes that a call pushes
OUTSIDE = -1


class Rule(enum.StrEnum):
    """Ids of the findings about where texts meet."""

    TARGET = "view/target"
    CALL = "view/call"


def machines() -> tuple[Machine, ...]:
    """Return each platform with a CPU that has nothing, and one that has everything.

    Everything, that is, which the platform does not decide; every assignment between
    the two is tried site by site.
    """
    return tuple(
        Machine(platform, others) for platform in Platform for others in (False, True)
    )


def check_views(columns: Columns) -> Part:
    """Prove what the views of all platforms add to the checks of single sites.

    Counts the sites whose text differs between two views. A linked kernel's note tells
    whether vSMP runs native's text: since 4.20 it sets no feature of its own.
    """
    alternatives, streams = columns.alternatives, columns.streams
    if alternatives is None or streams is None:
        return Part()
    texts = {(m.platform, m.others): chosen(alternatives, m) for m in machines()}
    every = np.stack(list(texts.values()))
    counts = {
        "sites that differ between views": int((every != every[0]).any(axis=0).sum())
    }
    apart = sum(
        int((texts[Platform.VSMP, o] != texts[Platform.NATIVE, o]).sum())
        for o in (False, True)
    )
    same = f"text of {len(every[0])} sites on vsmp equals that on native"
    note = f"{apart} sites have another text on vsmp than on native" if apart else same
    notes = () if columns.program.relocatable else (note,)
    return Part(tuple(_exits(columns, alternatives, streams)), counts, notes)


class _Exits(Struct, frozen=True):
    """Branches out of texts: row of the streams' instructions, stream, target."""

    row: I64
    stream: I64
    target: U64


def _leaving(alternatives: Alternatives, streams: Streams) -> _Exits:
    insns = streams.insns
    owner = np.repeat(np.arange(len(streams)), np.diff(streams.first))
    site = streams.site[owner]
    start = alternatives.site_address[site]
    end = start + alternatives.site_length[site].astype(np.uint64)
    out = (insns.target != 0) & ((insns.target < start) | (insns.target > end))
    rows = np.flatnonzero(out & streams.whole[owner])
    return _Exits(rows, owner[rows], insns.target[rows])


def _exits(
    columns: Columns, alternatives: Alternatives, streams: Streams
) -> Iterator[Finding]:
    """Check where the branches of replacements arrive; originals are plain code."""
    exits = _leaving(alternatives, streams)
    replaced = np.flatnonzero(streams.entry[exits.stream] >= 0)
    target = exits.target[replaced]
    code = columns.program.in_code(target)
    lost = _inside(alternatives, target)
    call = streams.insns.kind[exits.row[replaced]] == InsnKind.CALL
    state = columns.lookup.at(target)
    before = columns.lookup.at(streams.insns.address[exits.row[replaced]])
    odd = call & code & defined(state) & (state != ENTRY) & ~_pushed(before, state)
    variants = Variants(alternatives, columns.features, streams.era)
    for found, rule, message in (
        (lost, Rule.TARGET, "a text goes to the inside of another site"),
        (odd & ~lost, Rule.CALL, "a text calls what is no function's entry"),
    ):
        for at in replaced[np.flatnonzero(found)].tolist():
            stream = int(exits.stream[at])
            number, entry = int(streams.site[stream]), int(streams.entry[stream])
            if variants.possible(number, entry):
                yield _finding(columns, streams, variants, exits, at, rule, message)


def _inside(alternatives: Alternatives, target: U64) -> npt.NDArray[np.bool_]:
    """Whether each target lies behind the first byte of a site."""
    order = np.argsort(alternatives.site_address)
    start = alternatives.site_address[order]
    end = start + alternatives.site_length[order].astype(np.uint64)
    at = np.maximum(np.searchsorted(start, target, side="right") - 1, 0)
    return np.asarray((target > start[at]) & (target < end[at]))


def _pushed(before: I64, state: I64) -> npt.NDArray[np.bool_]:
    """Whether ``state`` is ``before`` with a return address pushed (error_entry)."""
    return np.asarray(state == before + CALLED)


def _finding(
    columns: Columns,
    streams: Streams,
    variants: Variants,
    exits: _Exits,
    at: int,
    rule: Rule,
    message: str,
) -> Finding:
    program = columns.program
    insn = streams.insns.at(int(exits.row[at]))
    stream = int(exits.stream[at])
    number, entry = int(streams.site[stream]), int(streams.entry[stream])
    declared = columns.lookup.one(insn.target)
    label = variants.label(number, entry)
    window = (
        f"-> {program.location(insn.address)}  {insn_text(program, insn)}"[:100],
        f"   {label}"[:100],
        f"table there: {describe(declared)}"[:100],
    )
    return Finding(
        rule=rule.value,
        location=program.location(insn.address),
        message=message,
        declared=describe(declared),
        variant=label,
        platforms=variants.platforms(number, entry),
        window=window,
    )


def view_columns(columns: Columns, view: View) -> Columns:
    """Return what the checks see of a patched program: it has no sites any more."""
    return replace(
        columns,
        program=view.program,
        insns=spliced(columns.insns, view),
        alternatives=None,
        streams=None,
    )


def verify_view(columns: Columns, machine: Machine) -> Part:
    """Build the text that ``machine`` runs, and check every edge of it.

    An edge between two instructions outside of sites is the linked program's and is
    judged there, whether this machine ever comes there or not. Left out besides: sites
    of which the checks of sites have told, which name the text; and padding behind a
    jump, where nobody comes. A table that is wrong wholesale is wrong in every view.
    """
    from harness.verify.edges.flow import (
        check_flow,  # who only looks at texts follows none
    )

    patcher = patcher_of(columns.program, columns.alternatives, columns.streams)
    view = patcher.view(machine)
    patched = view_columns(columns, view)
    told = {OUTSIDE, *_told(columns, view)}
    findings = []
    for finding in check_flow(patched).findings:
        site = _site(view, finding.location.address)
        seen = site not in told and _reached(patched, view, site, finding)
        if seen or finding.rule == WHOLESALE:
            findings.append(replace(finding, platforms=(machine.platform.value,)))
    name = f"view of {machine.platform}"
    counts = {f"{name}, sites": view.sites, f"{name}, bytes": view.changed}
    return Part(tuple(findings), counts)


def _reached(patched: Columns, view: View, site: int, finding: Finding) -> bool:
    """Whether control can come to a finding's place from the start of its site."""
    insns, start, end = patched.insns, int(view.start[site]), int(view.end[site])
    todo, seen = [start], set[int]()
    while todo:
        at = todo.pop()
        row = int(insns.index(np.array([at], np.uint64))[0])
        if at in seen or not start <= at <= end or row < 0:
            continue
        seen.add(at)
        if at == end:
            continue
        insn = insns.at(row)
        todo += [insn.target] if insn.target else []
        todo += [insn.end] if insn.kind.falls_through else []
    return finding.location.address in seen


def _told(columns: Columns, view: View) -> Iterator[int]:
    """Yield the sites that have findings of their own."""
    for finding in check_sites(columns).findings:
        yield _site(view, finding.location.address)
    for address in defective(columns):
        yield _site(view, address)


def _site(view: View, address: int) -> int:
    """Return the site of ``view`` that ``address`` is in or right behind."""
    at = int(np.searchsorted(view.start, np.uint64(address), side="right")) - 1
    return at if at >= 0 and address <= int(view.end[at]) else OUTSIDE

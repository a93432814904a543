"""Wholesale: what one broken tool did everywhere is told once.

A table that is shifted, mixed up or misread contradicts the code in a hundred thousand
places. To follow each says nothing that their number does not: they are counted, with a
sample of each kind, and so is what other rules say of that table. Nothing is excused:
whatever is folded leaves a finding that stands for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from msgspec.structs import replace

from harness.finding import Finding, Lines, Location
from harness.verify.edges.doubt import findings_of
from harness.verify.edges.edge import NO_ROW, Edges
from harness.verify.edges.scope import Scope
from harness.verify.transfer import ENTRY
from harness.verify.window import WIDTH

RULE = "table/wholesale"
CAUSE = "wholesale"

_FEW = 1000  # doubtful edges that are followed whatever their share is
_SHARE = 200  # or one for so many instructions; clean kernels have one for 6,000
_CAUSES = 300  # of one rule; more are one. Some kernels have 60 known blind functions
_SHOWN = 8  # places

_TABLE = ".orc_unwind"


def broken_tables(scope: Scope, doubtful: Edges) -> tuple[Finding, ...]:
    """Return a finding for each object whose table is not worth being followed.

    Each object of a program has a table of its own.
    """
    if len(doubtful) <= _FEW:
        return ()
    program, insns = scope.columns.program, scope.columns.insns
    place = insns.address[np.maximum(doubtful.source, 0)]
    place = np.where(doubtful.source == NO_ROW, doubtful.target, place)
    owner = program.objects_at(place)
    stated = program.objects_at(insns.address[scope.defined])
    objects, count = np.unique(owner, return_counts=True)
    return tuple(
        _finding(scope, doubtful.take(owner == one), instructions)
        for one, edges in zip(objects.tolist(), count.tolist(), strict=True)
        for instructions in (int((stated == one).sum()),)
        if edges > _FEW and edges * _SHARE > instructions
    )


def _finding(scope: Scope, broken: Edges, instructions: int) -> Finding:
    program = scope.columns.program
    _, first, count = np.unique(broken.kind, return_index=True, return_counts=True)
    samples = list(findings_of(scope, broken.take(first)))
    entered = int((scope.at(scope.functions) == ENTRY).sum())
    share = len(broken) / max(instructions, 1)
    lines = [
        f"{len(broken):,} edges of {instructions:,} instructions do not hold "
        f"({share:.1%}); not one was followed",
        f"{entered:,} of {len(scope.functions):,} functions start as calls enter them",
    ]
    for number, sample in zip(count.tolist(), samples, strict=True):
        sides = f"table {sample.declared}, true {sample.actual or 'unknown'}"
        lines += [
            f"{number:9,} {sample.rule}, such as {sample.location}",
            f"{'':9} {sides}",
        ]
    section = None if program.relocatable else program.section(_TABLE)
    where = section.address if section is not None else 0
    return Finding(
        RULE,
        Location(samples[0].location.object, _TABLE, 0, where),
        "the table is wrong wholesale: it contradicts the code in thousands of places",
        occurrences=len(broken),
        window=tuple(line[:WIDTH] for line in lines),
    )


def few(findings: Iterable[Finding], *, of_all: bool = False) -> Iterator[Finding]:
    """Fold what one rule says too often of one object into its first finding.

    ``of_all``: of all objects together, which one compiler or objtool has made.
    """

    def order(finding: Finding) -> tuple[str, str]:
        return finding.rule, "" if of_all else finding.location.object

    ordered = sorted(findings, key=lambda f: (order(f), f.order))
    for _, group in itertools.groupby(ordered, key=order):
        some = list(group)
        causes = {finding.cause for finding in some if finding.cause}
        many = len(causes) + sum(not finding.cause for finding in some) > _CAUSES
        yield from [_folded(some)] if many else some


def _folded(some: list[Finding]) -> Finding:
    first = some[0]
    count = sum(finding.occurrences for finding in some)
    others = [str(finding.location) for finding in some[1 : _SHOWN + 1]]
    tail = (
        "",
        f"in {count:,} places, too many to be told apart; the next ones are",
        *(f"   {place}"[:WIDTH] for place in others),
    )
    return replace(
        first,
        cause=CAUSE,
        occurrences=count,
        platforms=tuple(sorted({p for finding in some for p in finding.platforms})),
        window=Lines(lambda: (*first.window, *tail)),
    )


def absorb(findings: Iterable[Finding]) -> list[Finding]:
    """Fold what other rules say of a table that is wrong wholesale into that finding.

    They say what the table declares, and it is known to be wrong. What says nothing of
    the table stays.
    """
    every = list(findings)
    broken = {f.location.object: f for f in every if f.rule == RULE}
    if not broken:
        return every
    kept, follow = list[Finding](), list[Finding]()
    for finding in every:
        if finding.rule != RULE:
            told = finding.declared and finding.location.object in broken
            (follow if told else kept).append(finding)
    return [*kept, *(_with(f, follow) for f in broken.values())]


def _with(whole: Finding, follow: Iterable[Finding]) -> Finding:
    mine = [f for f in follow if f.location.object == whole.location.object]
    mine.sort(key=lambda finding: finding.order)
    lines = []
    for rule, group in itertools.groupby(mine, key=lambda finding: finding.rule):
        some = list(group)
        count = sum(finding.occurrences for finding in some)
        lines.append(f"{count:9,} {rule}, such as {some[0].location}"[:WIDTH])
    places = sum(finding.occurrences for finding in mine)
    return replace(
        whole,
        occurrences=whole.occurrences + places,
        window=(*whole.window, *lines),
    )

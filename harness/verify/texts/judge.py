"""Judge: what is wrong at one alternative site, given the walks through its texts.

Three classes of conflict (docs/findings.md): a two texts disagree at one offset,
b the table is wrong where an instruction of a text starts, c the table is wrong at
the last byte of a call, where the unwinder looks its return address up.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from harness.elf.orc import OrcType, pack, unpack
from harness.text.insn import InsnKind
from harness.verify.texts.altgroup import Merge
from harness.verify.texts.walk import Site, Walk
from harness.verify.transfer import ENTRY, is_defined

IRET_FRAME = 0x80  # of struct pt_regs: where the interrupt's own five words begin


class Rule(enum.StrEnum):
    """Ids of the findings about alternatives."""

    CONFLICT = "alternative/conflict"  # class a
    STATE = "alternative/state"  # class b
    RETURN = "alternative/ret-1"  # class c
    END = "alternative/end"
    STACK = "alternative/stack"
    EXIT = "alternative/exit"
    LOOP = "alternative/loop"
    ENTRY = "alternative/entry"
    BOUNDARY = "alternative/boundary"
    OVERLAP = "alternative/overlap"
    TARGET = "alternative/target"
    UNPATCHED = "alternative/unpatched"


class Defect(Struct, frozen=True):
    """One wrong thing at a site.

    ``stream`` and ``other`` count the site's streams from 0 (``other`` is -1 where
    no second one is involved); ``offset`` counts from the site's start.
    """

    rule: Rule
    stream: int
    offset: int
    message: str
    declared: int | None = None
    actual: int | None = None
    other: int = -1
    callee: int = 0


class Texts(Struct, frozen=True):
    """The walks through a site, one for each stream.

    ``merged`` are as executed after patching, ``linked`` with the NOPs of the file;
    ``merge`` is the table that the linked ones make together; ``live`` tells which
    streams ever run.
    """

    merged: Sequence[Walk]
    linked: Sequence[Walk]
    merge: Merge
    live: Sequence[bool]


def judge(site: Site, texts: Texts, lookup: Callable[[int], int]) -> list[Defect]:
    """Return what is wrong, the first of each rule and stream only.

    ``lookup`` gives the table's state at an address outside of the site.
    """
    walks = {n: walk for n, walk in enumerate(texts.merged) if texts.live[n]}
    conflicts = list(_conflicts(site, walks))
    defects = list(conflicts)
    conflicting = {defect.stream for defect in conflicts}
    for stream, walk in walks.items():
        if stream not in conflicting:
            defects += _states(site, stream, walk)
        defects += _text(site, stream, walk, lookup)
    wrong = {defect.stream for defect in defects}
    defects += (d for d in _stack(site, walks) if d.stream not in wrong)
    if not defects:
        defects += _entries(site, texts)
    return defects


def judge_text(
    site: Site, stream: int, walk: Walk, lookup: Callable[[int], int]
) -> list[Defect]:
    """Return what is wrong with one text by itself, the first of each rule."""
    return [*_states(site, stream, walk), *_text(site, stream, walk, lookup)]


def _text(
    site: Site, stream: int, walk: Walk, lookup: Callable[[int], int]
) -> Iterable[Defect]:
    yield from _returns(site, stream, walk)
    yield from _exits(stream, walk, lookup)
    yield from _loops(stream, walk)


def _known(walk: Walk) -> Iterable[tuple[int, int]]:
    return (
        (offset, state)
        for offset, state in sorted(walk.state.items())
        if offset not in walk.assumed
    )


def _conflicts(site: Site, walks: Mapping[int, Walk]) -> Iterable[Defect]:
    """Class a: two texts have instructions at one offset, in different states."""
    at: dict[int, dict[int, int]] = {}
    for stream, walk in walks.items():
        for offset, state in _known(walk):
            if offset < site.length:
                at.setdefault(offset, {})[stream] = state
    seen = set()
    for offset, states in sorted(at.items()):
        if len(set(states.values())) < 2:
            continue
        declared = site.table[offset]
        for stream, state in states.items():
            others = [s for s, other in states.items() if other != state]
            if state == declared or not others or stream in seen:
                continue
            seen.add(stream)
            yield Defect(
                Rule.CONFLICT,
                stream,
                offset,
                "two texts of one site need different entries at one offset",
                declared,
                state,
                others[0],
                walks[stream].callee.get(offset, 0),
            )


def _states(site: Site, stream: int, walk: Walk) -> Iterable[Defect]:
    """Class b, and the state behind the site: the first wrong one of a text."""
    for offset, state in _known(walk):
        if site.table[offset] == state:
            continue
        rule = Rule.STATE if offset < site.length else Rule.END
        message = (
            "the table is wrong where an instruction of this text starts"
            if rule is Rule.STATE
            else "this text leaves the site in another state than the table says"
        )
        callee = walk.callee.get(offset, 0)
        yield Defect(
            rule, stream, offset, message, site.table[offset], state, callee=callee
        )
        return


def _returns(site: Site, stream: int, walk: Walk) -> Iterable[Defect]:
    """Class c: what the unwinder finds for the frame that a call returns to."""
    for offset in sorted(walk.calls):
        if offset in walk.assumed:
            continue
        last = offset + walk.insns[offset].size - 1
        declared, actual = site.table[last], walk.state[offset]
        if declared != actual and site.table[offset] == actual:
            yield Defect(
                Rule.RETURN,
                stream,
                last,
                "while this call is active its frame unwinds by another text's entry",
                declared,
                actual,
            )
            return


def _exits(stream: int, walk: Walk, lookup: Callable[[int], int]) -> Iterable[Defect]:
    """Jumps out of the site, and returns: what is there expects a certain state."""
    returns = [
        (offset, ENTRY, "this text returns with a frame that is not its caller's")
        for offset in walk.state
        if offset in walk.insns and walk.insns[offset].kind is InsnKind.RET
    ]
    jumps = [
        (offset, lookup(target), "the jump's target expects another state")
        for offset, target in walk.jumps
    ]
    for offset, expected, message in sorted(returns + jumps):
        actual = walk.state[offset]
        if offset in walk.assumed or expected in (actual, _as_partial(actual)):
            continue
        if is_defined(expected) and is_defined(actual):
            yield Defect(Rule.EXIT, stream, offset, message, expected, actual)
            return


def _as_partial(state: int) -> int:
    """Return what a whole register frame is by its last five words (else itself)."""
    entry = unpack(state)
    if entry.type != OrcType.REGS:
        return state
    offset = entry.sp_offset + IRET_FRAME
    return pack(replace(entry, type=OrcType.REGS_PARTIAL, sp_offset=offset))


def _loops(stream: int, walk: Walk) -> Iterable[Defect]:
    for offset, state in sorted(walk.disputed.items()):
        yield Defect(
            Rule.LOOP,
            stream,
            offset,
            "two paths through this text arrive in different states",
            walk.state[offset],
            state,
        )
        return


def _stack(site: Site, walks: Mapping[int, Walk]) -> Iterable[Defect]:
    """Where the CFA is not counted from %rsp its move shows nowhere else."""
    ends = {
        stream: depth
        for stream, walk in walks.items()
        if (depth := walk.depth.get(site.length)) is not None
    }
    for stream, depth in ends.items():
        if depth != ends[min(ends)]:
            yield Defect(
                Rule.STACK,
                stream,
                site.length,
                f"this text moves %rsp by {depth} bytes, another one by "
                f"{ends[min(ends)]}",
                other=min(ends),
            )
            return


def _entries(site: Site, texts: Texts) -> Iterable[Defect]:
    """The table is the merge of the texts as linked.

    Where they conflict (objtool does not look at all of them), each byte has at
    least the state of some text's instruction there or before.
    """
    walks = [*texts.merged, *texts.linked]
    if not is_defined(site.table[0]) or any(walk.assumed for walk in walks):
        return
    agreed = not texts.merge.incompatible
    floors = [walk.state[0] for walk in walks]
    for offset, declared in enumerate(site.table[: site.length]):
        floors = [
            walk.state.get(offset, floor)
            for walk, floor in zip(walks, floors, strict=True)
        ]
        merged = texts.merge.cfi[offset]
        if declared not in floors or (agreed and declared != merged):
            message = "the table is not what the texts of this site make together"
            actual = merged if agreed else floors[0]
            yield Defect(Rule.ENTRY, 0, offset, message, declared, actual)
            return

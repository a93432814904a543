"""Walk: one text of a site executed on unwind states instead of values.

From the state at the site's start every path through the text is followed; what
comes out is the true state at each instruction that can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from harness.text.effect import WORD
from harness.text.insn import Insn, InsnKind
from harness.verify.callee import Callee, Returns
from harness.verify.transfer import moves_sp, step

_PUSH = Insn(0, 1, InsnKind.PUSH, 0, b"\x50")
_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)


class Site(Struct, frozen=True):
    """A site: where it is, how long, and what the table says for its bytes.

    ``table`` has length + 1 states: the last one is for the byte behind it.
    """

    address: int
    length: int
    table: tuple[int, ...]


class Walk(Struct):
    """What the walk through one text found; offsets count from the site's start.

    Attributes:
        insns: offset -> instruction, reached or not.
        state: offset -> true state, of reached instructions; ``length`` is the end.
        depth: offset -> bytes that %rsp moved since the start, None if unknown.
        assumed: offsets whose state the text does not tell: the table's is taken.
        disputed: offset -> another state that another path brings there.
        calls: offsets of calls out of the site: their frames unwind at ret-1.
        callee: offset -> function whose own effect made the state, if it did.
        jumps: (offset, target) of branches that leave the site.
    """

    insns: dict[int, Insn]
    state: dict[int, int] = field(default_factory=dict)
    depth: dict[int, int | None] = field(default_factory=dict)
    assumed: set[int] = field(default_factory=set)
    disputed: dict[int, int] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    callee: dict[int, int] = field(default_factory=dict)
    jumps: list[tuple[int, int]] = field(default_factory=list)


class _Arrival(Struct, frozen=True):
    offset: int
    state: int | None  # None: the text does not tell
    depth: int | None
    before: Insn | None
    callee: int = 0


def walk(site: Site, text: Sequence[Insn], callee: Callable[[int], Callee]) -> Walk:
    """Follow every path of ``text`` from the state that the table has at its start."""
    result = Walk({insn.address - site.address: insn for insn in text})
    todo = [_Arrival(0, site.table[0], 0, None)]
    while todo:
        arrival = todo.pop()
        if not _settle(site, result, arrival):
            continue
        insn = result.insns.get(arrival.offset)
        if insn is not None:
            todo += _successors(site, result, arrival, insn, callee)
    return result


def _settle(site: Site, result: Walk, arrival: _Arrival) -> bool:
    """Record an arrival; tell whether it is the first at its offset."""
    at = arrival.offset
    if at in result.state:
        known = at not in result.assumed and arrival.state is not None
        if known and result.state[at] != arrival.state:
            result.disputed[at] = arrival.state or 0
        return False
    result.state[at] = site.table[at] if arrival.state is None else arrival.state
    result.depth[at] = arrival.depth
    if arrival.state is None:
        result.assumed.add(at)
    if arrival.callee:
        result.callee[at] = arrival.callee
    return at < site.length


def _successors(
    site: Site,
    result: Walk,
    here: _Arrival,
    insn: Insn,
    callee: Callable[[int], Callee],
) -> list[_Arrival]:
    state = result.state[here.offset]
    after = here.offset + insn.size
    goes = insn.target - site.address
    inside = insn.target and 0 <= goes <= site.length
    if insn.kind is InsnKind.CALL and inside:
        # A call within the site is a push and a jump: nobody returns to it.
        pushed = _choose(step(state, _PUSH), site, goes)
        return [_Arrival(goes, pushed, _add(here.depth, -WORD), insn)]
    if insn.kind in _CALLS:
        result.calls.append(here.offset)
        return _behind_call(here, insn, state, after, callee)
    arrivals = []
    if insn.kind in (InsnKind.JMP, InsnKind.JCC):
        if inside:
            arrivals.append(_Arrival(goes, state, here.depth, insn, here.callee))
        else:
            result.jumps.append((here.offset, insn.target))
    if insn.kind.falls_through:
        states = step(state, insn, here.before)
        next_state = _choose(states, site, after)
        depth = _add(here.depth, moves_sp(insn))
        same = next_state == state
        from_callee = result.callee.get(here.offset, 0) if same else 0
        arrivals.append(_Arrival(after, next_state, depth, insn, from_callee))
    return [arrival for arrival in arrivals if arrival.offset <= site.length]


def _behind_call(
    here: _Arrival,
    insn: Insn,
    state: int,
    after: int,
    callee: Callable[[int], Callee],
) -> list[_Arrival]:
    judged = callee(insn.target) if insn.target else None
    if judged is None or judged.returns is Returns.BALANCED:
        return [_Arrival(after, state, here.depth, insn)]
    if judged.returns is Returns.NEVER:
        return []
    if judged.returns is Returns.UNCLEAR:
        return [_Arrival(after, None, None, insn)]
    return [_Arrival(after, judged.state, None, insn, insn.target)]


def _choose(states: tuple[int, ...], site: Site, offset: int) -> int | None:
    """Of the states that are true, take the table's if it is one of them."""
    if not states:
        return None
    declared = site.table[offset] if offset <= site.length else None
    return declared if declared in states else states[0]


def _add(depth: int | None, delta: int | None) -> int | None:
    return None if depth is None or delta is None else depth + delta

"""Doubt: an edge that does not hold, as the finding that people read."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import numpy as np

from harness.elf.orc import SIGNAL, OrcType, describe
from harness.finding import Finding, Lines
from harness.text.insn import I64
from harness.verify.edges.edge import NO_ROW, EdgeKind, Edges
from harness.verify.edges.frame.claim import Answer
from harness.verify.edges.frame.walked import Refusal
from harness.verify.edges.scope import Scope
from harness.verify.successor import Bools
from harness.verify.transfer import ENTRY, step
from harness.verify.window import AROUND, WIDTH, Line, around, cell


class Rule(enum.StrEnum):
    """Ids of the findings about the text."""

    STEP = "text/step"
    BRANCH = "text/branch"
    CALL = "text/call"
    RETURN_ADDRESS = "text/ret-1"
    RETURN = "text/return"
    TAIL = "text/tail"
    FUNCTION = "text/entry"
    EX_TABLE = "text/ex-table"
    JUMP_TABLE = "text/jump-table"
    JUMP_LABEL = "text/jump-label"
    STATIC_CALL = "text/static-call"
    BUG = "text/bug"
    RETPOLINE = "text/retpoline"
    FRAME = "text/frame"
    HINT = "text/hint"
    ORPHAN = "text/orphan"


_MESSAGES = {
    EdgeKind.STEP: "the next instruction's entry is not what this one leads to",
    EdgeKind.BRANCH: "the branch leads to an entry for another frame",
    EdgeKind.CALL: "what is called does not start with its return address on top",
    EdgeKind.RETURN_ADDRESS: "while this call is active its frame unwinds by an entry "
    "that starts within it",
    EdgeKind.RETURN: "it returns with a frame that is not its caller's",
    EdgeKind.TAIL: "it leaves its function with a frame that is not its caller's",
    EdgeKind.FUNCTION: "the function does not start as a call enters it",
    EdgeKind.EX_TABLE: "the fixup's entry is for another frame",
    EdgeKind.JUMP_TABLE: "a case's entry is for another frame",
    EdgeKind.JUMP_LABEL: "the static key's branch leads to an entry for another frame",
    EdgeKind.STATIC_CALL: "the static call leaves its function with a live frame",
    EdgeKind.BUG: "behind the warning the entry is for another frame",
    EdgeKind.RETPOLINE: "it leaves its function with a frame that is not its caller's",
}
_LEAVES = (EdgeKind.RETURN, EdgeKind.TAIL, EdgeKind.STATIC_CALL, EdgeKind.RETPOLINE)
_RUNS_ON = "another function starts behind this call, which may come back"


_ANSWERS = {
    Answer.UNTOLD: "the entry counts from what holds no known place",
    Answer.ELSEWHERE: "the frame is not where the entry has it",
    Answer.RETURN: "no return address lies where the entry has the frame",
    Answer.BP: "the caller's %rbp is not where the entry has it",
    Answer.ANCHOR: "the entry takes a call's frame for an interrupt's or the reverse",
    Answer.LOST: "the frame was the same before, where the table has no state",
    Answer.UNHINTED: "the code does not tell of this frame, and no hint does",
}


def leads_nowhere(scope: Scope, edges: Edges) -> Bools:
    """Tell which of ``edges`` lead to where no instruction starts."""
    stays = ~np.isin(edges.kind, _LEAVES)
    return np.asarray(stays & (scope.columns.index(edges.target) < 0))


def drops_signal(scope: Scope, edges: Edges) -> Bools:
    """Tell which of ``edges`` lead to an interrupt's frame that says it is none.

    Only hardware makes such a frame without ``signal`` (#BP, whose address is that of
    the next instruction); no instruction makes one of another.
    """
    before = scope.state[np.maximum(edges.source, 0)]
    after = scope.at(edges.target)
    stays = ~np.isin(edges.kind, _LEAVES) & (edges.source != NO_ROW)
    both = _interrupted(before) & _interrupted(after)
    return np.asarray(stays & both & (before & ~after & SIGNAL != 0))


def gains_signal(scope: Scope, edges: Edges) -> Bools:
    """Tell which of ``edges`` are steps that only make a trap's frame a fault's.

    Whether its address is that of the next instruction hardware has decided. A copy of
    the frame is another one.
    """
    before = scope.state[np.maximum(edges.source, 0)]
    after = scope.at(edges.target)
    gains = _interrupted(before) & _interrupted(after) & (~before & after & SIGNAL != 0)
    gains &= edges.kind == EdgeKind.STEP
    for at in np.flatnonzero(gains).tolist():
        insn = scope.columns.insns.at(int(edges.source[at]))
        gains[at] = int(after[at]) & ~SIGNAL in step(int(before[at]), insn)
    return np.asarray(gains)


def gains_registers(scope: Scope, edges: Edges) -> Bools:
    """Tell which of ``edges`` are jumps from an interrupt's words to whole pt_regs.

    A jump saves no register. Where they were they lie below %rsp, or on another stack.
    """
    before = scope.state[np.maximum(edges.source, 0)] >> 40 & 15
    after = scope.at(edges.target) >> 40 & 15
    gains = (before == OrcType.REGS_PARTIAL) & (after == OrcType.REGS)
    return np.asarray(gains & (edges.kind == EdgeKind.BRANCH))


def _interrupted(states: I64) -> Bools:
    kind = states >> 40 & 15
    return np.asarray((kind == OrcType.REGS) | (kind == OrcType.REGS_PARTIAL))


def findings_of(scope: Scope, edges: Edges) -> Iterator[Finding]:
    """Return a finding for each of ``edges``."""
    for kind, source, target in zip(
        edges.kind.tolist(), edges.source.tolist(), edges.target.tolist(), strict=True
    ):
        yield _finding(scope, EdgeKind(kind), source, target)


def refusals_of(
    scope: Scope, refusals: Iterable[Refusal], doubtful: Edges
) -> Iterator[Finding]:
    """Return a finding for each claim that following the frame has refused.

    Its rule is that of the ``doubtful`` edge which leads there, if one does.
    """
    program, insns = scope.columns.program, scope.columns.insns
    # what leaves a function is refused where it stands
    leaves = np.isin(doubtful.kind, _LEAVES)
    target = np.where(leaves, doubtful.source, insns.index(doubtful.target))
    ways = zip(doubtful.source.tolist(), target.tolist(), strict=True)
    kinds = dict(zip(ways, doubtful.kind.tolist(), strict=True))
    for refusal in refusals:
        kind = kinds.get((refusal.source, refusal.row))
        if refusal.answer is Answer.UNHINTED:
            kind = None
        declared, why = describe(refusal.state), _ANSWERS[refusal.answer]
        row = refusal.row if kind is None else refusal.source
        far = abs(refusal.source - refusal.row) > AROUND
        other = refusal.source if kind is None else refusal.row
        verdict = f"{why}: table {declared}, true {refusal.actual}"
        yield Finding(
            rule=_rule(refusal.answer, kind).value,
            location=program.location(int(insns.address[row])),
            message=why if kind is None else _MESSAGES[EdgeKind(kind)],
            declared=declared,
            actual=refusal.actual,
            window=_window(scope, row, other if far else row, verdict),
        )


def _rule(answer: Answer, kind: int | None) -> Rule:
    if answer is Answer.UNHINTED:
        return Rule.HINT
    return Rule.FRAME if kind is None else Rule[EdgeKind(kind).name]


def _finding(scope: Scope, kind: EdgeKind, source: int, target: int) -> Finding:
    columns = scope.columns
    program, insns = columns.program, columns.insns
    row = source if source != NO_ROW else _row(scope, target)
    declared, actual = _sides(scope, kind, source, target)
    where = target if source == NO_ROW else int(insns.address[row])
    message = _MESSAGES[kind]
    if kind is EdgeKind.STEP and declared == actual:
        message = _RUNS_ON
    there = row if kind in _LEAVES else _row(scope, target)
    other = there if abs(there - row) > AROUND else row
    cause = ""
    if kind is EdgeKind.CALL:
        cause = f"callee {program.location(target)}"
    verdict = f"{message}: table {declared}, true {actual or 'unknown'}"
    return Finding(
        rule=Rule[kind.name].value,
        location=program.location(where),
        message=message,
        declared=declared,
        actual=actual,
        cause=cause,
        window=_window(scope, row, other, verdict),
    )


def _sides(scope: Scope, kind: EdgeKind, source: int, target: int) -> tuple[str, str]:
    """What the table declares where the edge leads, and what leads there."""
    if kind in _LEAVES:
        return describe(int(scope.state[source])), describe(ENTRY)
    declared = int(scope.at(np.array([target], np.uint64))[0])
    if kind in (EdgeKind.CALL, EdgeKind.FUNCTION):
        return describe(declared), describe(ENTRY)
    state = int(scope.state[source])
    if kind is not EdgeKind.STEP:
        return describe(declared), describe(state)
    insns = scope.columns.insns
    before = insns.at(source - 1) if source else None
    if before is not None and before.end != int(insns.address[source]):
        before = None
    after = step(state, insns.at(source), before)
    return describe(declared), " or ".join(describe(each) for each in after)


def _row(scope: Scope, address: int) -> int:
    """The instruction at ``address``, or the nearest before it."""
    at = np.searchsorted(scope.columns.insns.address, np.uint64(address), side="right")
    return max(int(at) - 1, 0)


def _window(scope: Scope, row: int, other: int, verdict: str) -> Lines:
    """The instructions around ``row``, those around ``other``, and the verdict."""

    def draw() -> Iterator[Line | str]:
        yield from _excerpt(scope, row)
        if other != row:
            yield ""
            yield from _excerpt(scope, other)
        yield verdict[:WIDTH]

    return Lines(draw)


def _excerpt(scope: Scope, row: int) -> Iterator[Line]:
    """The instructions around ``row``, one per line, with the table's state."""
    insns, program = scope.columns.insns, scope.columns.program
    for near in around(program, insns, row):
        insn = insns.at(near)
        mark = "->" if near == row else "  "
        place = str(program.location(insn.address))
        shown = describe(int(scope.state[near]))
        yield Line((f"{mark} {place[:32]:<32} ", cell(program, insn, 38), shown))

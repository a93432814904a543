"""Unit: all that control can reach from one entry with one frame, executed.

A row here is one of the program's instructions. At each the table's claim is put to
the frame; where it does not hold the walk goes on with what the code says, so that
one wrong entry is one refusal. Where the code itself hides the truth the claim is
taken, and counted (:class:`Assumption`).
"""

from __future__ import annotations

from collections.abc import Set

from msgspec import Struct, field

from harness.text.insn import InsnKind
from harness.text.operand import SP
from harness.verify.callee import Callees, Returns
from harness.verify.edges.frame.assume import (
    Assumption,
    contradicts,
    shape,
    switched,
    taken,
    was_there,
)
from harness.verify.edges.frame.body import Bodies, Body
from harness.verify.edges.frame.claim import (
    Answer,
    ask,
    bases_of,
    copied,
    describe_frame,
    place,
    weakest,
)
from harness.verify.edges.frame.execute import execute, push
from harness.verify.edges.frame.frame import Anchor, Frame
from harness.verify.edges.frame.operation import Form
from harness.verify.edges.frame.value import FRAME, RETURN, distance, initial
from harness.verify.edges.frame.walked import Refusal, Walked
from harness.verify.transfer import ENTRY, is_defined

_DEPTH = 8  # of calls that are followed to see what a function keeps
_HINT_LATE = 0
_ENDS = frozenset(int(kind) for kind in InsnKind if not kind.falls_through)
_RESULT = 1  # %rax
_PLAIN = frozenset((int(InsnKind.OTHER), int(InsnKind.NOP)))  # a preamble's


class Routes(Struct, frozen=True):
    """What is known of the ways of control, beside what instructions tell.

    Attributes:
        ends: rows of calls that never return.
        silent: addresses of functions that never return.
        exits: rows of jumps that leave their function for good.
        tables: rows of jumps that go to nothing but what their table has.
    """

    ends: Set[int] = frozenset()
    silent: Set[int] = frozenset()
    exits: Set[int] = frozenset()
    tables: Set[int] = frozenset()


class Walker(Struct):
    """Executes units of one program and keeps what it finds."""

    bodies: Bodies
    routes: Routes
    callees: Callees
    depth: int = 0
    walked: Walked = field(default_factory=Walked)
    _kept: dict[tuple[int, int], int] = field(default_factory=dict)
    _seen: dict[int, Frame] = field(default_factory=dict)
    _todo: list[int] = field(default_factory=list)
    _entered: int | None = None

    def walk(self, row: int, frame: Frame) -> None:
        """Follow all paths from ``row``, where ``frame`` holds."""
        self._seen = {}
        self._entered = frame.get(SP)
        self._join(row, frame)
        while self._todo:
            at = self._todo.pop()
            self._run(at, self._seen[at].copy())

    def keeps(self, row: int, wanted: int) -> int:
        """Return those of ``wanted`` that the function at ``row`` gives back.

        gcc knows that of functions in the same file and uses it (-fipa-ra). They
        are those that have their first values at every exit.
        """
        if not wanted or row < 0 or self.depth > _DEPTH:
            return 0
        asked = (row, wanted)
        if asked not in self._kept:
            self._kept[asked] = 0  # what a recursive function keeps is not asked
            inner = Walker(self.bodies, self.routes, self.callees, self.depth + 1)
            inner._kept, inner.walked.kept = self._kept, wanted
            inner.walk(row, weakest(ENTRY, self.bodies.address(row)))
            self._kept[asked] = inner.walked.kept
            self.walked.assumed |= inner.walked.told
        return self._kept[asked]

    def _leave(self, frame: Frame, goes: int | None) -> None:
        """Note what a function gives back: by itself, or by the one it jumps to."""
        if not self.depth:
            return
        kept = _unchanged(frame, self.walked.kept)
        self.walked.kept = kept if goes is None else self.keeps(goes, kept)
        if not self.walked.kept:
            self._todo.clear()

    def _join(self, row: int, frame: Frame) -> None:
        """Bring ``frame`` to ``row``, where paths may meet."""
        if (known := self._seen.get(row)) is None:
            self._seen[row] = frame.copy()
        elif not known.merge(frame):
            return
        if row not in self._todo:
            self._todo.append(row)

    def _arrive(self, source: int, row: int, frame: Frame) -> None:
        """Bring ``frame`` from ``source`` to ``row`` and put the claim there to it."""
        if row == self.bodies.end:
            return
        if (taken := self._put(source, row, frame)) is not None:
            self._join(row, taken)

    def _run(self, row: int, frame: Frame) -> None:
        """Execute from ``row`` to the end of its path or to where paths meet."""
        body = self.bodies.of(row)
        first, operations, states = body.first, body.operations, body.state
        executed, after, seen = self.walked.executed, body.after, self._seen
        passages = body.passages
        touched, end = body.touched, body.last
        asked, bases = -1, 0  # the state that was put to the frame as it is
        while True:
            executed.add(row)
            operation = operations[row - first]
            if row in after or row in passages:
                self._besides(body, row, frame)
            if operation.form or frame.live & operation.lost:
                if not self._do(body, row - first, frame):
                    return
                if touched[row - first] & bases:
                    asked = -1
            row += 1
            if row == end or row in body.joined or row in seen:
                self._arrive(row - 1, row, frame)
                return
            if states[row - first] != asked and not self._stands(body, row, frame):
                taken = self._put(row - 1, row, frame)
                if taken is None:
                    return
                frame = taken
            if asked != states[row - first]:
                asked = states[row - first]
                bases = bases_of(asked)

    def _stands(self, body: Body, row: int, frame: Frame) -> bool:
        """Whether the claim at ``row`` holds, and nothing else is to be asked there."""
        n = row - body.first
        steady = body.steady[n] and frame.anchor is not Anchor.NOTHING
        return steady and ask(frame, body.state[n]) is Answer.HOLDS

    def _besides(self, body: Body, row: int, frame: Frame) -> None:
        """Follow the ways from ``row`` that its instruction does not tell."""
        for other in body.after.get(row, ()):
            self._arrive(row, other, frame)
        if (passage := body.passages.get(row)) is not None:
            patched = frame.copy()
            patched.live &= ~passage.lost
            for goes in passage.goes:
                self._arrive(row, goes, patched)

    def _do(self, body: Body, n: int, frame: Frame) -> bool:
        """Execute what changes ``frame``; tell whether the next one is reached."""
        operation = body.operations[n]
        if operation.form is Form.FLOW:
            return self._flow(body, n, frame)
        if operation.form is Form.CALL:
            return self._call(body, n, frame)
        execute(frame, operation, body.address[n])
        return True

    def _flow(self, body: Body, n: int, frame: Frame) -> bool:
        """Follow what is no call; tell whether the next instruction is reached."""
        row, kind = body.first + n, body.kind[n]
        goes = body.goes[n]
        leaves = kind == InsnKind.RET
        leaves |= kind == InsnKind.JMP_INDIRECT and row not in body.after
        beyond = kind in (InsnKind.JMP, InsnKind.JCC) and goes < 0
        if beyond and frame.anchor is Anchor.IRET:
            pass  # assembly goes on in another object, with the registers that it saved
        elif leaves or beyond or row in self.routes.exits:
            self._exit(body, n, frame)
        elif row in self.routes.tables:
            pass  # through a thunk, to where `after` says
        elif kind in (InsnKind.JMP, InsnKind.JCC):
            self._arrive(row, goes, frame)
        return kind not in _ENDS

    def _exit(self, body: Body, n: int, frame: Frame) -> None:
        """The caller's frame must be as it was when its function was entered."""
        row = body.first + n
        self._leave(frame, None if body.kind[n] == InsnKind.RET else -1)
        if not is_defined(body.state[n]) or row in body.inside:
            return
        answer = _leaves(frame)
        returns = body.kind[n] == InsnKind.RET and frame.anchor is Anchor.IRET
        if returns and frame.get(SP) == FRAME:
            answer = Answer.ANCHOR  # no return address, but the interrupt's words
        if answer:
            self._refuse(row, row, ENTRY, answer, frame)

    def _call(self, body: Body, n: int, frame: Frame) -> bool:
        row, goes = body.first + n, body.goes[n]
        if row in self.routes.ends or body.target[n] in self.routes.silent:
            return False
        if goes >= 0 and body.first < goes < body.last:
            # a call within the function: it goes on there, one word lower
            push(frame, RETURN, body.address[n])
            self._arrive(row, goes, frame)
            return False
        if self.depth:
            wanted = _unchanged(frame, self.walked.kept)
        else:
            wanted = _carriers(frame, body.restored)
        kept = self.keeps(goes, wanted)
        if goes < 0 and body.kind[n] == InsnKind.CALL and (kept := wanted & ~_RESULT):
            # of another object: inline assembly tells the compiler what it keeps
            self.walked.assumed[row, row + 1] = Assumption.KEPT
        execute(frame, body.operations[n], body.address[n])
        frame.live |= kept
        return True

    # --- claims

    def _put(self, source: int, row: int, frame: Frame) -> Frame | None:
        """Put the claim at ``row`` to ``frame``; return what to go on with there."""
        body = self.bodies.of(row)
        if row in body.inside:
            return frame  # each text of the site is checked apart
        state = body.state[row - body.first]
        if not is_defined(state):
            return self._without(source, row, frame)
        entered = state == ENTRY and row == body.first
        if frame.anchor is Anchor.NOTHING and entered:
            return None
        if frame.anchor is Anchor.NOTHING:
            return self._find(source, row, frame, state)
        answer = ask(frame, state)
        if answer is Answer.HOLDS or (entered and not _leaves(frame)):
            if row == source + 1 and not entered and self._is_blind(source):
                self._refuse(source, row, state, Answer.LOST, frame)
            if entered:
                self._leave(frame, row)
            return None if entered else frame
        told = self._deny(source, row, frame, answer)
        jumped = row != source + 1 and (source, row) in self.walked.refused
        return None if entered or jumped else told

    def _is_blind(self, source: int) -> bool:
        """Whether the table has no state at ``source``, though it has the frame."""
        body = self.bodies.of(source)
        return source not in body.inside and not is_defined(self.bodies.state(source))

    def _without(self, source: int, row: int, frame: Frame) -> Frame | None:
        """Control comes to where the table has no state."""
        if frame.anchor is Anchor.NOTHING or not is_defined(self.bodies.state(source)):
            return frame
        if self._enters(source, row, frame):
            self.walked.assumed[source, row] = Assumption.WITHOUT
            return None
        by_hand = frame.anchor is Anchor.CALL or self.bodies.loaded(source) == SP
        if by_hand and self._loaded(source, frame) == SP:
            self.walked.assumed[source, row] = Assumption.LOADED
            return frame
        state = self.bodies.state(row)
        self._refuse(source, row, state, Answer.UNTOLD, frame)
        return None

    def _enters(self, source: int, row: int, frame: Frame) -> bool:
        """Whether control goes for good to what claims to have no frame.

        By a jump, or from kCFI's preamble in front of it; or by a fault, which goes
        into a new frame.
        """
        body = self.bodies.of(source)
        if row == source + 1:
            function = self.bodies.stateless(row) and self.bodies.is_function(row)
            return function and _PLAIN.issuperset(body.kind) and not _leaves(frame)
        faults = body.kind[source - body.first] == InsnKind.END
        return self.bodies.named(row) and (faults or not _leaves(frame))

    def _loaded(self, source: int, frame: Frame) -> int | None:
        """Return the register that ``source`` gave a value that nothing tells."""
        body = self.bodies.of(source)
        operation = body.operations[source - body.first]
        if operation.form is Form.QUIET:
            return self.bodies.loaded(source)
        moves = operation.form in (Form.LOAD, Form.MOVE, Form.LEA)
        adds = operation.form is Form.LEA and operation.base == operation.reg
        if not moves or adds:
            return None
        value = frame.get(operation.reg)
        told = value is not None and distance(value, FRAME) is not None
        return None if told else operation.reg

    def _find(self, source: int, row: int, frame: Frame, state: int) -> Frame:
        """The table tells of a frame for the first time."""
        if self._was_there(source, row, frame, state):
            self._refuse(source, row, state, Answer.LOST, frame)
        elif contradicts(frame, state):
            self._refuse(source, row, state, Answer.ELSEWHERE, frame)
        self.walked.assumed[source, row] = Assumption.FOUND
        return taken(frame, state, self.bodies.address(row))

    def _was_there(self, source: int, row: int, frame: Frame, state: int) -> bool:
        """Whether what ``state`` tells of was so before, where the table is silent."""
        if row != source + 1:
            return False
        body = self.bodies.of(source)
        builds = body.operations[source - body.first].builds
        called = self._moved(source, state) is not None
        return called or was_there(frame, state, self._entered, builds=builds)

    def _deny(
        self, source: int, row: int, frame: Frame, answer: Answer
    ) -> Frame | None:
        """The claim at ``row`` does not hold: take it all the same, or refuse it."""
        state, address = self.bodies.state(row), self.bodies.address(row)
        found = place(frame, state)
        if found is not None and found != FRAME and copied(frame, found):
            return self._put(source, row, taken(frame, state, address))
        makes = state == ENTRY and self.bodies.makes(source)
        loaded = self._loaded(source, frame)
        why = shape(frame, state, answer, loaded, makes=makes)
        if why is None and (moved := self._moved(source, state)) is not None:
            return moved
        if why is None:
            self._refuse(source, row, state, answer, frame)
            lost = answer in (Answer.UNTOLD, Answer.ANCHOR)
            return weakest(state, address) if lost else frame
        self.walked.assumed[source, row] = why
        if why is not Assumption.LOADED:
            return taken(frame, state, address)
        return switched(frame, state, address)

    def _moved(self, source: int, state: int) -> Frame | None:
        """Return the frame behind a call of a function that leaves %rsp elsewhere."""
        body = self.bodies.of(source)
        target = body.target[source - body.first]
        if body.kind[source - body.first] != InsnKind.CALL or not target:
            return None
        callee = self.callees.at(target)
        moved = callee.returns is Returns.MOVED and callee.state == state
        return weakest(state, body.address[source - body.first]) if moved else None

    def _refuse(
        self, source: int, row: int, state: int, answer: Answer, frame: Frame
    ) -> None:
        if (source, row) not in self.walked.refused:
            actual = describe_frame(frame)
            refusal = Refusal(row, source, state, answer, actual)
            self.walked.refused[source, row] = refusal


def _unchanged(frame: Frame, wanted: int) -> int:
    """Return those of ``wanted`` that have their first values."""
    for register in range(16):
        if wanted >> register & 1 and frame.get(register) != initial(register):
            wanted &= ~(1 << register)
    return wanted


def _carriers(frame: Frame, wanted: int) -> int:
    """Return those of ``wanted`` that hold an address of the stack."""
    sp = frame.get(SP)
    for register in range(16):
        if not wanted >> register & 1:
            continue
        value = frame.get(register)
        if value is None or sp is None or distance(value, sp) is None:
            wanted &= ~(1 << register)
    return wanted


def _leaves(frame: Frame) -> Answer:
    """Tell whether control can leave a function for good, by a return or a jump."""
    if frame.anchor is not Anchor.IRET:
        return Answer.HOLDS if frame.anchor is Anchor.NOTHING else ask(frame, ENTRY)
    sp = frame.get(SP)
    if sp == FRAME or (sp is not None and frame.slots.get(sp) == RETURN):
        return Answer.HOLDS  # as iret does, or as ret
    return Answer.ANCHOR

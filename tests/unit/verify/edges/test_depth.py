"""%rsp where %rbp is popped, under a CFA that is counted from %rbp."""

from __future__ import annotations

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.text.effect import effects_of
from harness.verify.edges.depth import depths_of, unsure_pops
from harness.verify.edges.flow import flow_of
from harness.verify.edges.scope import scope_of
from tests.builders.elfwriter import UND, call
from tests.builders.flow import columns_of, kernel

FRAME = OrcEntry(16, -16, OrcReg.BP, OrcReg.PREV_SP, OrcType.CALL, False)
PROLOGUE = "55" + "4889e5"  # push %rbp; mov %rsp,%rbp


def unsure(body: str) -> int:
    """Count the pops of %rbp that are not proved in a function with this body.

    Its last two instructions are pop %rbp and ret.
    """
    code = PROLOGUE + body + "5dc3"
    end = len(code) // 2
    rows = [
        (0, call(8)),
        (1, call(16, -16)),
        (4, FRAME),
        (end - 1, call(8)),
        (end, UND),
    ]
    columns = columns_of(kernel(code, rows, [("f", 0, end)]))
    flow = flow_of(columns)
    effects = effects_of(columns.insns)
    scope = scope_of(columns)
    depths = depths_of(scope, effects, flow.noreturn.ways, flow.ends)
    return len(unsure_pops(scope, effects, depths))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "53" + "5b",  # push, pop
        "4883ec20" + "4883c420",  # sub, add
        "53" + "4883ec18" + "488d65f8" + "5b",  # lea -8(%rbp),%rsp; pop
        "4883e4f0" + "4889ec",  # and; mov %rbp,%rsp
        "53" + "7401" + "fc" + "5b",  # one branch
        "7404" + "53" + "5b" + "eb02" + "5359",  # two ways of one depth
        "31c0" + "53" + "5b" + "75fa",  # a loop
    ],
)
def test_proved(body: str) -> None:
    """On every way %rsp is back at %rbp."""
    assert unsure(body) == 0


@pytest.mark.parametrize(
    "body",
    [
        "53",  # push
        "4883ec20" + "4883c418",
        "4883e4f0",  # and: who knows by how much
        "53" + "4883ec18" + "488d65f0" + "5b",
        "7401" + "53",  # pushed on one way only
        "31c0" + "53" + "75fd" + "5b",  # a loop that grows
    ],
)
def test_not_proved(body: str) -> None:
    """On some way it is not, or nothing is known."""
    assert unsure(body) == 1


def test_padding_brings_nothing() -> None:
    """NOPs without a state in front of a loop are no way into it."""
    body = "53" + "eb04" + "0f1f4000" + "31c0" + "75fc" + "5b"
    code = PROLOGUE + body + "5dc3"
    end = len(code) // 2
    rows = [
        (0, call(8)),
        (1, call(16, -16)),
        (4, FRAME),
        (7, UND),
        (11, FRAME),
        (end - 1, call(8)),
        (end, UND),
    ]
    assert len(flow_of(columns_of(kernel(code, rows, [("f", 0, end)]))).doubtful) == 0


def test_nothing_else_moves_the_stack() -> None:
    """A part of a function by itself: nothing tells where %rsp is."""
    columns = columns_of(kernel("5dc3", [(0, FRAME), (1, call(8))], [("f.cold", 0, 2)]))
    flow, effects = flow_of(columns), effects_of(columns.insns)
    scope = scope_of(columns)
    depths = depths_of(scope, effects, flow.noreturn.ways, flow.ends)
    assert unsure_pops(scope, effects, depths).tolist() == [0]

"""Frames of functions that align their stack anew (DRAP)."""

from __future__ import annotations

import pytest

from harness.elf.orc import OrcEntry, OrcReg, OrcType
from harness.elf.program import Program
from harness.verify.edges.flow import flow_of
from tests.builders.elfwriter import UND, call
from tests.builders.flow import columns_of, kernel, rules

KEPT = OrcEntry(0, 0, OrcReg.R10, OrcReg.UNDEFINED, OrcType.CALL, False)
BASED = OrcEntry(0, 0, OrcReg.R10, OrcReg.BP, OrcType.CALL, False)
SLOT = OrcEntry(-8, 0, OrcReg.BP_INDIRECT, OrcReg.BP, OrcType.CALL, False)

LEA, AND = "4c8d542408", "4883e4f0"  # lea 8(%rsp),%r10; and $-16,%rsp
PUSH = "41ff72f8"  # push -8(%r10)
BASE = "55" + "4889e5"  # push %rbp; mov %rsp,%rbp
SAVE, LOAD = "4152", "415a"  # push %r10, pop %r10
BACK = "498d62f8"  # lea -8(%r10),%rsp
CALL = "e8e8ffffff"  # of the function itself, from where its body starts
DOWN, UP = "4883ec18", "4883c418"  # sub and add of 24


def realigned(
    body: str = DOWN + UP,
    *,
    lea: str = LEA,
    push: str = PUSH,
    base: str = BASE,
    save: str = SAVE,
    load: str = LOAD,
    pop: str = "5d",
    back: str = BACK,
) -> Program:
    """Return a kernel with one function that aligns its stack anew."""
    parts = [
        (lea + AND, call(8)),
        (push + base, KEPT),
        (save, BASED),
        (body + load, SLOT),
        (pop, BASED),
        (back, KEPT),
        ("c3", call(8)),
    ]
    code, rows = "", []
    for text, state in parts:
        rows.append((len(code) // 2, state))
        code += text
    return kernel(code, [*rows, (len(code) // 2, UND)], [("f", 0, len(code) // 2)])


def doubts(program: Program) -> int:
    """Count the edges that single steps do not prove."""
    return len(flow_of(columns_of(program)).doubtful)


PROVED = {
    "as gcc makes it": realigned(),
    "leave": realigned(pop="c9", load="4c8b55f8"),  # mov -8(%rbp),%r10
    "pushes in between": realigned(lea=LEA + "90"),
    "a store beside the slot": realigned("488945f0" + DOWN + "488945e8" + UP),
    "and one from %rsp": realigned(DOWN + "4889442408" + UP),
    "a store above the slot": realigned("48894508"),
    "a load of the slot": realigned(DOWN + "488b45f8" + UP),
    "a call below the slot": realigned(CALL),
}
DOUBTED = {
    "another displacement": realigned(lea="4c8d542410"),
    "the register is lost at once": realigned(lea=LEA + "4531d2"),
    "%rbp is not the caller's": realigned(base="50" + "4889e5"),
    "%rbp is lost before the slot is": realigned(save="31ed" + SAVE),
    "pushed elsewhere": realigned(save="50" + SAVE, load=LOAD + "58"),
    "another register is saved": realigned(save="4151"),
    "a store to the slot": realigned("488945f8"),
    "a wide store to the slot": realigned("0f1145f0"),
    "a store to the slot from %rsp": realigned(DOWN + "4889442418" + UP),
    "a push to the slot": realigned("488d6500" + "50"),
    "popped elsewhere": realigned(DOWN),
    "another register is restored": realigned(CALL, load="4159"),
    "loaded from elsewhere": realigned(load="4c8b55f0" + "58"),
    "the register is lost behind": realigned(load=LOAD + "4531d2"),
    "%rbp popped elsewhere": realigned(load=LOAD + "50"),
    "back to elsewhere": realigned(back="498d62f0"),
    "a call where the register is the callee's": realigned(push="e8f2ffffff" + PUSH),
    "entered behind the lea": realigned(lea="7505" + LEA),
}


@pytest.mark.parametrize("name", PROVED)
def test_proved_step_by_step(name: str) -> None:
    """Nothing is in doubt, so that nothing is executed."""
    assert doubts(PROVED[name]) == 0
    assert rules(PROVED[name]) == []


@pytest.mark.parametrize("name", DOUBTED)
def test_doubted(name: str) -> None:
    """What is not as it must be stays in doubt, and execution refuses it."""
    assert doubts(DOUBTED[name]) > 0
    assert rules(DOUBTED[name]) != []


def test_back_by_another_register() -> None:
    """It is no step of ours: execution takes it, and counts it."""
    assert doubts(realigned(back="498d61f8")) > 0

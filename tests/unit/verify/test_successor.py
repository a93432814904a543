"""Successor: on columns the same rules as transfer.step has for one instruction."""

from __future__ import annotations

import itertools
import random

import numpy as np

from harness.elf.orc import OrcEntry, OrcReg, OrcType, describe, pack
from harness.text.decode import decode_all
from harness.text.effect import Effects, Form, effects_of
from harness.text.insn import InsnKind, Insns
from harness.verify.successor import NOTHING, defined, successors
from harness.verify.transfer import is_defined, step, step_form

OFFSETS = (-32768, -24, -16, -8, 0, 8, 16, 24, 40, 32767)
CODE = (
    "53 4155 55 4055 ff30 6a00 0fa0 9c 6650 5b 415d 415c 5d 5c 8f00 8fc5 8fc4 0fa1 9d"
    " 665d c9 4883c410 4883ec10 4881c400010000 4881ec00010000 4883e4f0 4801c4"
    " 488d6424f8 488da424f8000000 488d65f8 488d65f0 4889ec 488be5 4889c4 4c89d4"
    " 4889e5 488bec 488b2c24 488b6c2408 488bac2400010000 2e488b6c2408 488b6e10"
    " 8b2f 31ed 4889fd 488b2d00000000 4087e5 4887ec 4889fd 4c89e5 4489c5 4a89e5 6800010000 ff742408 41ff37 c8000000 66892c24 448b6c2408"
    " 48892c24 48896c2408 4889ac2400010000 48896d08 892c24 4c896c2408 488944240890"
)


def every_state() -> list[int]:
    """Every base, saved %rbp and type with a few offsets."""
    random.seed(3)
    return [
        pack(OrcEntry(so, random.choice((bo, -so)), sp, bp, kind, signal))
        for sp, bp, kind, so, bo, signal in itertools.product(
            OrcReg, (0, 1, 4), OrcType, OFFSETS, (0, -16), (False, True)
        )
    ]


def decode(code: str) -> Insns:
    """The instructions that ``code`` spells."""
    return decode_all(np.frombuffer(bytes.fromhex(code), np.uint8), 0x1000)


def test_defined() -> None:
    """States without a frame are told apart as transfer does."""
    states = np.array(every_state())
    assert defined(states).tolist() == [is_defined(s) for s in states.tolist()]


def test_every_form_in_every_state() -> None:
    """The columns agree with the rules for one instruction, in each form and state."""
    states = np.array(every_state())
    n = len(states)
    for form, stacked, at in itertools.product(Form, (False, True), (-8, 0, 8)):
        delta = {Form.PUSH_BP: -8, Form.POP_BP: 8}.get(form, at)
        effects = Effects(
            np.arange(n),
            np.full(n, form, np.uint8),
            np.full(n, delta),
            np.full(n, stacked),
        )
        first, second = successors(states, effects)
        for row, state in enumerate(states.tolist()):
            found = [s for s in (first[row], second[row]) if s != NOTHING]
            expected = [state]
            if is_defined(state):
                expected = list(step_form(state, form, delta, stacked=stacked))
            assert found == expected, (form, delta, stacked, describe(state))


def test_every_encoding_in_every_state() -> None:
    """What the encodings do is read off whole columns as off one instruction."""
    insns = decode("".join(CODE.split()))
    effects = effects_of(insns, np.flatnonzero(insns.kind == InsnKind.OTHER))
    assert len(insns) == len(CODE.split()) + 1
    active = set(effects.row.tolist())
    states = random.Random(1).sample(every_state(), 200)
    for state in states:
        first, second = successors(np.full(len(effects), state), effects)
        for at, row in enumerate(effects.row.tolist()):
            insn = insns.at(row)
            found = tuple(s for s in (first[at], second[at]) if s != NOTHING)
            assert found == step(state, insn), (insn, describe(state))
        for row in set(range(len(insns))) - active:
            assert step(state, insns.at(row)) == (state,)


def test_a_stack_switch_needs_the_store_before_it() -> None:
    """mov %rsp,(%r11); mov %r11,%rsp, one right behind the other."""
    assert effects_of(decode("4989234c89dc")).stacked.tolist() == [True]
    assert effects_of(decode("4989234c89d4")).stacked.tolist() == [False]
    assert effects_of(decode("498923fc4c89dc")).stacked.tolist() == [False]
    assert effects_of(decode("4c89dc")).stacked.tolist() == [False]

"""Texts are told by their instructions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.boot.shadow.record import Record
from harness.boot.shadow.texts import Texts, texts
from harness.elf.alternative import parse_alternatives
from harness.text.patch import build_streams
from tests.builders.site import ALWAYS, XENPV, Replacement, a_site

PV_CALL = bytes.fromhex("ff1500000000")
DIRECT = Replacement(bytes.fromhex("e800000000"), ALWAYS, flags=2)
INLINE = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)


def ran(
    *executed: tuple[int, str, bool],
    original: bytes = PV_CALL,
    replacements: Sequence[Replacement] = (DIRECT, INLINE),
    paravirt: bool = False,
) -> Texts:
    """Return which texts were, of (offset in the site, code, verified)."""
    program = a_site(original, list(replacements))
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    home = int(alternatives.site_address[0])
    code = [bytes.fromhex(code).ljust(16, b"\0") for _, code, _ in executed]
    right = np.array([verified for _, _, verified in executed], np.uint64)
    record = Record(
        {},
        (),
        np.array([home + at for at, _, _ in executed], np.uint64),
        right,
        np.uint64(1) - right,
        np.zeros(len(executed), np.int64),
        np.frombuffer(b"".join(code), np.uint8).reshape(-1, 16),
    )
    streams = build_streams(program, alternatives)
    calls = alternatives.site_address[: int(paravirt)]
    return texts(record, alternatives, streams, calls=calls)


def test_a_text_is_executed_if_one_of_its_instructions_is() -> None:
    """The original's call, and the inlined push of the flags that replaced it."""
    both = ran((0, "ff1500000000", False), (0, "9c", True))
    assert both.executed.tolist() == [True, False, True]
    assert both.verified.tolist() == [False, False, True]
    assert both.foreign == 0


def test_a_call_is_made_direct_wherever_it_goes() -> None:
    """Only the running kernel knows the target; one of nothing becomes NOPs."""
    assert ran((0, "e812345678", True)).verified.tolist() == [False, True, False]
    assert ran((0, "660f1f440000", True)).verified.tolist() == [False, True, False]


def test_a_call_that_no_alternative_makes_direct_is_the_original() -> None:
    """Up to 6.7 the kernel does it by a table of its own."""
    direct = (0, "e812345678", True), (5, "90", True)
    found = ran(*direct, replacements=[INLINE], paravirt=True)
    assert (found.verified.tolist(), found.foreign) == ([True, False], 0)
    assert ran(*direct, replacements=[INLINE]).foreign == 2, "no such call is here"


def test_padding_is_as_the_kernel_writes_it() -> None:
    """Behind two bytes of code: one NOP of four."""
    assert ran((2, "0f1f4000", True)).verified.tolist() == [False, False, True]


def test_what_no_text_has_is_told() -> None:
    """A breakpoint that somebody put there, or a wrong model."""
    odd = ran((0, "cc", True), (3, "ff", True))
    assert not odd.executed.any()
    assert odd.foreign == 2


def test_what_texts_share_counts_for_the_original() -> None:
    """Nothing else shows that another one was there."""
    shared = ran((0, "9c", True), original=bytes.fromhex("9c5890909090"))
    assert shared.verified.tolist() == [True, False, False]

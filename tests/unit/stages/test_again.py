"""What is tried twice, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.boot.machine import MissingMachine
from harness.errors import InfraError
from harness.stages.again import again
from harness.variant import Platform


def times(*outcomes: str | Exception) -> Callable[[], str]:
    """Return what comes to ``outcomes``, one after another."""
    left = list(outcomes)

    def once() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return once


def reason(outcome: str) -> str:
    """Return why ``outcome`` is no verdict."""
    return "" if outcome == "verdict" else outcome


def test_a_verdict_is_one() -> None:
    """It is not asked for twice."""
    assert again(Platform.KVM, times("verdict"), reason) == ("verdict", "")


@pytest.mark.parametrize("first", ["it hung", InfraError("it hung")])
def test_a_kvm_guest_has_a_second_try(first: str | InfraError) -> None:
    """What became of the first is told."""
    once = times(first, "verdict")
    assert again(Platform.KVM, once, reason) == ("verdict", "it hung")


def test_the_second_try_is_the_last() -> None:
    """An error is one then."""
    with pytest.raises(InfraError, match="again"):
        again(Platform.KVM, times(InfraError("hung"), InfraError("again")), reason)


def test_other_platforms_have_none() -> None:
    """Their machines are not known to be lost."""
    assert again(Platform.XEN, times("it hung"), reason) == ("it hung", "")
    with pytest.raises(InfraError):
        again(Platform.XEN, times(InfraError("hung"), "verdict"), reason)


def test_a_machine_that_is_not_there_is_not_there() -> None:
    """To try again would not help."""
    with pytest.raises(MissingMachine):
        again(Platform.KVM, times(MissingMachine("no kernel"), "verdict"), reason)

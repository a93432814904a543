"""Again: what is tried twice, because its machine is known to get lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from harness.boot.machine import MissingMachine
from harness.errors import InfraError
from harness.variant import Platform

T = TypeVar("T")


def again(
    platform: Platform, once: Callable[[], T], without_verdict: Callable[[T], str]
) -> tuple[T, str]:
    """Return what ``once`` does on ``platform``, and why it took a second try, or "".

    A nested KVM guest is lost or hangs now and then, which says nothing about its
    kernel: if ``once`` raises an InfraError there, or ``without_verdict`` has a reason
    against its result, it is done once more, and that counts.

    Raises:
        MissingMachine, InfraError: see ``once``.
    """
    if platform is not Platform.KVM:
        return once(), ""
    try:
        first = once()
        reason = without_verdict(first)
    except MissingMachine:
        raise
    except InfraError as exc:
        reason = exc.message
    else:
        if not reason:
            return first, ""
    return once(), reason

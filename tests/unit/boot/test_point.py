"""The evidence of a point keeps to its width."""

from __future__ import annotations

import types
from typing import cast

import pytest

from harness.boot import point
from harness.boot.point import Guest
from tests.builders.guest import ZERO


def test_a_long_name_does_not_push_the_reason_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it stopped and how the unwind ended are lines of their own."""
    monkeypatch.setattr(point, "frame_lines", lambda *_: ())
    program = types.SimpleNamespace(location=lambda _: "very_long_" * 12)
    guest = types.SimpleNamespace(program=program, text=None)
    host = types.SimpleNamespace(ended="the stack is not the task's")
    stopped = types.SimpleNamespace(
        registers=ZERO, host=host, guest=(), first_difference=0
    )

    lines = point.evidence(cast(Guest, guest), cast(point.Point, stopped))

    assert max(map(len, lines)) == 100
    assert "table's unwind ended: the stack is not the task's" in lines

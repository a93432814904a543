"""Where a guest is waited for, how long, and how far it is stepped from there."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest

from harness.boot import watch
from harness.boot.attach import Cpus
from harness.boot.needs import NATIVE_NEEDS
from harness.boot.registers import Registers
from harness.boot.tally import Tally
from harness.boot.watch import Watch
from tests.builders import image
from tests.builders.guest import SimulatedGuest, at
from tests.unit.boot.test_compare import connected

DRIVER = image.TEXT  # where it may lie


class Laid:
    """An ambush at an entry point to which the guest comes late."""

    places: frozenset[int] = frozenset()
    waited_s = 0.0

    def __init__(self, late: int) -> None:
        self.late = late

    def lay(self, addresses: set[int]) -> None:
        """Wait there."""
        self.places = frozenset(addresses)

    def wait(self, seconds: float) -> Registers | None:
        """Come there after so many times."""
        assert seconds > 0
        if not self.places:
            return None
        self.waited_s += seconds
        self.late -= 1
        return at(0xA00) if self.late == 0 and at(0xA00).rip in self.places else None


def waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, laid: Laid, rounds: int
) -> Watch:
    """Wait at an entry point, in so many rounds at a start, too; return the watch."""
    starts = [[1]] * rounds + [[]] * 9
    monkeypatch.setattr(watch, "HIT_S", 0.12)
    monkeypatch.setattr(watch, "ENTRY_HIT_S", 0.8)
    monkeypatch.setattr(watch, "ambush", lambda _: nullcontext(laid))
    monkeypatch.setattr(watch, "entry_points", lambda *_: (at(0xA00).rip, DRIVER))
    monkeypatch.setattr(Watch, "_likely_starts", lambda *_: starts.pop(0))
    monkeypatch.setattr(Watch, "_glimpse", lambda _: None)
    program, _ = image.image()
    with connected(tmp_path, SimulatedGuest()) as gdb:
        call = SimpleNamespace(driver=DRIVER)
        guest = SimpleNamespace(gdb=gdb, program=program, text=None, call=call)
        cpus = cast("Cpus", SimpleNamespace(first=guest))
        waiting = Watch(cpus, Tally(), Random(0), time.monotonic() + 9)
        with closing(waiting.hits(NATIVE_NEEDS, None)) as hits:
            assert all(steps == watch.ENTRY_STEPS for _, steps in hits)
    return waiting


@pytest.mark.parametrize(
    ("rounds", "late", "caught"),
    [(9, 7, True), (9, 8, False), (3, 4, True), (3, 5, False)],
)
def test_entries_are_waited_for_while_starts_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
    late: int,
    caught: bool,
) -> None:
    """As long as without, in all; then they are given up, for they slow a guest down."""
    laid = Laid(late)
    waiting = waited(tmp_path, monkeypatch, laid, rounds)
    assert bool(waiting.tally.entries) is caught
    assert not waiting.awaited & {DRIVER}, "where our own loop is there is no waiting"


def test_entries_that_can_have_no_breakpoint_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nested guest spins at two bytes or more."""
    laid = Laid(1)
    monkeypatch.setattr(laid, "lay", lambda _: None)
    waiting = waited(tmp_path, monkeypatch, laid, 2)
    assert waiting.time_left()
    assert not waiting.tally.entries


@pytest.mark.parametrize(
    ("points", "hit", "steps"),
    [(0, 0, 40), (1500, 0, 10), (1900, 45, 20), (2000, 0, 0)],
)
def test_starts_yield_the_points_that_are_missing(
    points: int, hit: int, steps: int
) -> None:
    """Each its part of them, never more than the most; none if there are enough."""
    nobody = cast("Cpus", None)
    waiting = Watch(nobody, Tally(), Random(0), 0.0)
    waiting.tally.counts["points"] = points
    waiting.tally.hit.update(range(hit))
    assert waiting.steps_here(NATIVE_NEEDS) == steps

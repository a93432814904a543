"""Watch: where a running guest is waited for, how long and how often.

Its entry points are, and starts that only patching made, at a few places at a time:
breakpoints slow the guest down. Places where it does not come are let go.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator

import numpy as np
from msgspec import Struct, field

from harness.boot.attach import Cpus
from harness.boot.needs import Needs
from harness.boot.point import Guest
from harness.boot.registers import Registers
from harness.boot.sample import (
    LIVE_BREAKPOINTS,
    Ambush,
    ambush,
    by_traffic,
    entry_points,
    glimpse,
)
from harness.boot.stack_info import PAGE_SIZE
from harness.boot.tally import Tally

HIT_S = 0.12  # at some places, until others are tried
ENTRY_HIT_S = 0.8  # at entry points, of which most are never reached
GLIMPSES, GLIMPSE_S = 20, 0.005  # each may show a stack's worth of places
ENTRY_STEPS = 50
MOST_STEPS = 40  # from a start that patching made
LIVE_PATCHED, LIVE_PAGES = 48, 8  # the fewer, the faster they are reached
PASSES, VAIN = 12, 4  # over all starts, in all and in a row: no workload comes to more
HITS_TOLD = 6  # after so many it is better known where the guest runs
_PATCHED = {"inside_replacement", "inside_other_cfa"}


class Watch(Struct):
    """What a guest was waited for so far, by what is needed and was seen of it.

    Attributes:
        awaited: entry points that were waited for, in all for long enough.
        passes: in how many every start was waited for that was needed then.
        vain: the last of them, without a hit.
    """

    cpus: Cpus
    tally: Tally
    rng: random.Random
    deadline: float
    awaited: set[int] = field(default_factory=set)
    passes: int = 0
    vain: int = 0

    @property
    def guest(self) -> Guest:
        """The guest on the CPU that was attached to."""
        return self.cpus.first

    @property
    def over(self) -> bool:
        """Whether starts that were not come to are out of the workload's reach."""
        return self.passes >= PASSES or self.vain >= VAIN

    def time_left(self) -> bool:
        """Whether the deadline is yet to come."""
        return time.monotonic() < self.deadline

    def look_around(self, needs: Needs) -> None:
        """Learn where the guest runs, to know where to wait for it."""
        for _ in range(GLIMPSES):
            if not self.time_left() or not self._starts_missing(needs):
                return
            self.guest.gdb.run_for(self.rng.random() * GLIMPSE_S)
            self._glimpse()

    def hits(
        self, needs: Needs, inject_nmi: Callable[[], None] | None
    ) -> Generator[tuple[Registers, int], None, None]:
        """Yield where the guest comes to entry points, and to starts that are needed.

        Of either those that were not waited for long enough before; both at once, for
        most of the time goes by waiting. With each state comes how many steps from
        there are worth to be taken. The consumer tells ``tally`` of the places, and
        must close us.
        """
        pending = self._pending_entries(inject_nmi)
        entries: set[int] = set()
        tried: set[int] = set()
        hits = len(self.tally.hit)
        waited_s = 0.0
        with ambush(self.guest.gdb) as laid:
            while self.time_left():
                if not entries:
                    entries.update(pending[:LIVE_BREAKPOINTS])
                    pending, waited_s = pending[LIVE_BREAKPOINTS:], 0.0
                    self.awaited |= entries
                starts = self._likely_starts(needs, tried)
                if not entries and not starts:
                    self._count_pass(needs, len(self.tally.hit) - hits)
                    return
                if entries and waited_s >= ENTRY_HIT_S:
                    entries.clear()
                    continue
                laid.lay(entries.union(starts))
                if not laid.places:  # none of them can have a breakpoint
                    tried.update(starts)
                    entries.clear()
                    continue
                there, before_s = len(entries), laid.waited_s
                patience_s = HIT_S if starts else ENTRY_HIT_S - waited_s
                caught = 0
                for registers in self._caught(laid, patience_s):
                    caught += 1
                    yield registers, self._steps(needs, registers, entries)
                if caught < HITS_TOLD:
                    tried.update(starts)
                    if starts:
                        self._glimpse()
                waited_s += laid.waited_s - before_s
                if len(entries) < there:
                    waited_s = 0.0

    def _caught(self, laid: Ambush, patience_s: float) -> Iterator[Registers]:
        # The guest where it comes to, a few times; less if it comes nowhere for too long.
        for _ in range(HITS_TOLD):
            if not self.time_left() or (registers := laid.wait(patience_s)) is None:
                return
            yield registers
            self.guest.gdb.remove_breakpoints(laid.places & self.tally.hit)

    def _steps(self, needs: Needs, registers: Registers, entries: set[int]) -> int:
        if registers.rip not in entries:
            return self.steps_here(needs)
        entries.discard(registers.rip)
        self.tally.entries.add(registers.rip)
        return ENTRY_STEPS

    def steps_here(self, needs: Needs) -> int:
        """Return how far to step from a start: its part of the points yet to come.

        Entry points bring some, too: as many for each start as so far.
        """
        tally = self.tally
        points = needs.points - tally.counts["points"]
        starts = needs.inside_replacement - len(tally.hit)
        brought = ENTRY_STEPS * len(tally.entries) // max(1, len(tally.hit))
        return max(0, min(MOST_STEPS, points // max(1, starts) - brought))

    def _pending_entries(self, inject_nmi: Callable[[], None] | None) -> list[int]:
        # The entry points that were not awaited yet; NMIs are one of them.
        guest = self.guest
        points = entry_points(guest.program, guest.text)
        self.tally.counts["entry_points"] = len(points)
        awaited = self.awaited | {guest.call.driver}  # where a breakpoint is in our way
        pending = [point for point in points if point not in awaited]
        self.rng.shuffle(pending)
        if pending and inject_nmi is not None:
            inject_nmi()
        return pending

    def _likely_starts(self, needs: Needs, tried: set[int]) -> list[int]:
        # The starts that the guest will most likely come to, if any are needed; those
        # with another CFA first if more of them are.
        tally = self.tally
        if not (missing := self._starts_missing(needs)):
            return []
        pending = np.array(sorted(tally.inside.keys() - tally.hit - tried), np.uint64)
        likely: list[int] = by_traffic(pending, tally.seen).tolist()
        if "inside_other_cfa" in missing:
            likely.sort(key=lambda place: not tally.inside[place])
        pages = list(dict.fromkeys(place // PAGE_SIZE for place in likely))[:LIVE_PAGES]
        close = [place for place in likely if place // PAGE_SIZE in pages]
        return close[:LIVE_PATCHED]

    def _count_pass(self, needs: Needs, new: int) -> None:
        if self._starts_missing(needs):
            self.passes += 1
            self.vain = 0 if new else self.vain + 1

    def _glimpse(self) -> None:
        gdb = self.guest.gdb
        cpu = self.cpus.of(gdb.registers()).cpu
        self.tally.seen.update(glimpse(gdb, cpu, self.guest.text))

    def _starts_missing(self, needs: Needs) -> set[str]:
        return needs.missing(self.tally.have).keys() & _PATCHED

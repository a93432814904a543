"""Compare: a whole probe of a running guest, from entry code to patched text.

The guest is stopped at thousands of places; at each, its own unwinder and ours (by the
static table) must see the same frames. The order is: wait until the kernel is up,
show that its table is the image's, run the control, then sample until what was asked
for is there or the deadline is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.attach import Cpus, attached, wait_until_up
from harness.boot.control import (
    control_entry,
    differing_entries,
    run_control,
    table_finding,
)
from harness.boot.gdb import Gdb, UnmappedMemory
from harness.boot.kernel_text import kernel_text
from harness.boot.needs import NATIVE_NEEDS, Needs
from harness.boot.point import Guest, Point, Sight, ask, finding, look
from harness.boot.registers import Registers
from harness.boot.reliable import FUNCTION, Survey, reliability
from harness.boot.sample import (
    LIVE_BREAKPOINTS,
    Ambush,
    ambush,
    by_traffic,
    entry_points,
    glimpse,
    patched_starts,
    walk,
    wander,
)
from harness.boot.stack_info import PAGE_SIZE
from harness.boot.tally import Tally
from harness.boot.wire import LostGuest
from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding
from harness.progress import Progress, silent

HIT_S = 0.12  # at some places, until others are tried
ENTRY_HIT_S = 0.8  # at entry points, of which most are never reached
TASK_HIT_S = 0.5
WANDER_STEPS = 20
GLIMPSES, GLIMPSE_S = 20, 0.005  # each may show a stack's worth of places
MOST_PENDING = 20  # states that the guest is asked about at once
ENTRY_STEPS = 50
MOST_STEPS = 40  # from a start that patching made
CONTROL_STOPS = 300  # places tried, before the control counts as impossible
LIVE_PATCHED, LIVE_PAGES = 48, 8  # the fewer, the faster they are reached
PASSES, VAIN = 12, 4  # over all starts, in all and in a row: no workload comes to more
LEAST_STARTS = 5  # that a guest has to come to all the same
HITS_TOLD = 6  # after so many it is better known where the guest runs
_PATCHED = {"inside_replacement", "inside_other_cfa"}
_UNSEEN = "control did not fail"


class CompareResult(Struct, frozen=True):
    """What a probe came to.

    Attributes:
        counts: how much was done, by name; how long it took, without waiting for the
            kernel to boot, and how long until there were as many points as needed.
        findings: where the two unwinds differ.
        notes: what a reader should know.
        reason: why this is no verdict (needs not met, control not seen), or empty.
        slide: how far KASLR has moved the kernel.
        blind: the reason is that a control went unseen, which is no machine's fault.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    reason: str
    slide: int = 0
    blind: bool = False


def probe(
    gdb: Gdb,
    program: Program,
    *,
    deadline_s: float,
    needs: Needs = NATIVE_NEEDS,
    inject_nmi: Callable[[], None] | None = None,
    seed: int = 0,
    only_first: bool = False,
    progress: Progress = silent,
) -> CompareResult:
    """Sample the guest behind ``gdb`` until ``needs`` are met or ``deadline_s`` is up.

    The guest runs ``program`` (a vmlinux with symbols), wherever KASLR
    has put it; it may be anywhere from reset on, and should run a workload.
    It is left stopped, without breakpoints of ours; with ``only_first`` where the first
    finding is, if there is one.

    Raises:
        FormatError: ``program`` lacks what a probe needs.
        LostGuest: the guest ended before it was up.
        InfraError: the kernel was not up before the deadline, or the stub failed.
    """
    deadline = time.monotonic() + deadline_s
    table = parse_orc(program)
    if table is None:
        raise FormatError(f"{program.name} carries no ORC table to compare with")
    text = kernel_text(program, table)
    progress("waiting for the kernel to come up")
    up = wait_until_up(gdb, program, text, deadline, deadline_s)
    notes = [f"KASLR moved it by {by:#x}"] if (by := up.program.slide) else []
    with attached(gdb, up.program, up.text, up.registers) as guest:
        run = _Run(Cpus(guest), needs, random.Random(seed), deadline, progress)
        run.only_first, run.notes = only_first, notes
        try:
            run.sample(parse_alternatives(up.program), inject_nmi)
        except _Enough:
            pass
        except LostGuest as exc:
            run.reason = f"the guest ended while it was probed: {exc.message}"
    return run.result()


class _Enough(Exception):
    """The guest stands where somebody wants to look."""


class _Run(Struct):
    # One probe under way.
    cpus: Cpus
    needs: Needs
    rng: random.Random
    deadline: float
    progress: Progress
    only_first: bool = False
    notes: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    awaited: set[int] = field(default_factory=set)  # of all, for long enough
    passes: int = 0  # in which every start was waited for
    vain: int = 0  # the last of them, without a hit
    began: float = field(default_factory=time.monotonic)
    reason: str = ""

    @property
    def guest(self) -> Guest:
        """The guest on the CPU that was attached to."""
        return self.cpus.first

    def sample(
        self, alternatives: Alternatives | None, inject_nmi: Callable[[], None] | None
    ) -> None:
        self.compare_tables()
        if not self.control():
            return
        self.find_starts(alternatives)
        self.wander(self.needs.points // 8)
        self.look_around()
        self.sample_places(inject_nmi)
        if not self.ask_tasks():
            return
        while self.time_left() and (missing := self.missing()):
            self.wander(100)
            if "entry_context" in missing:
                self.awaited.clear()
            self.sample_places(inject_nmi)
            if self.passes >= PASSES or self.vain >= VAIN:
                self.settle_for(self.tally.have["inside_replacement"])

    def settle_for(self, starts: int) -> None:
        """Need no more ``starts`` than the guest has come to, where all were tried."""
        asked = self.needs.inside_replacement
        if LEAST_STARTS <= starts < asked:
            self.needs = replace(self.needs, inside_replacement=starts)
            self.notes.append(
                f"the workload comes to {starts} of {len(self.tally.inside)} starts that "
                f"patching made, not {asked}: each other one was waited for "
                f"{self.passes} times in vain"
            )

    def compare_tables(self) -> None:
        differing = differing_entries(self.guest.gdb, self.guest.program)
        self.tally.counts["table_entries"] = len(self.guest.text.ip)
        self.tally.counts["table_entries_differ"] = len(differing)
        for index in differing:
            self.found(table_finding(self.guest, index))

    def control(self) -> bool:
        for registers in self.anywhere():
            point = self.check(registers)
            if point is None or not point.agrees:
                continue
            if (index := control_entry(point, self.guest)) is None:
                continue
            result = run_control(self.cpus.of(registers), registers, index)
            self.tally.counts["control_reported"] = int(result.reported is not None)
            self.tally.counts["control_clean"] = int(result.clean)
            if result.reported is None:
                self.reason = f"{_UNSEEN}: a wrong entry went unseen"
            elif not result.clean:
                self.reason = f"{_UNSEEN}: the entry was put back, yet it still differs"
            return result.passed
        self.reason = "control could not run: no agreeing trace with a caller was seen"
        return False

    def ask_tasks(self) -> bool:
        how = reliability(self.guest)
        if how is None:
            self.needs = replace(self.needs, task_stops=0)
            self.notes.append(f"not asked about tasks: this kernel has no {FUNCTION}()")
            return True
        survey = Survey()
        self.progress("asking about tasks")
        # a stop is of use only if all vCPUs have come to rest
        for _ in range(3 * self.needs.task_stops * len(self.guest.gdb.vcpus()) ** 2):
            if survey.stops == self.needs.task_stops or not self.time_left():
                break
            for registers in how.stops(self.guest, TASK_HIT_S):
                for one in survey.stop(how, self.cpus.of(registers), registers):
                    self.found(one)
            self.wander(WANDER_STEPS if self.guest.gdb.steps else 1)
        self.tally.counts |= survey.counts
        if survey.control is False:
            self.reason = f"{_UNSEEN}: a wrong entry went unseen in a task"
        elif survey.stops and survey.control is None and not survey.findings:
            self.reason = "control could not run: no task had a stack to unwind"
        return not self.reason

    def anywhere(self) -> Iterable[Registers]:
        guest = self.guest
        for _ in range(CONTROL_STOPS):
            if not self.time_left():
                return
            for states in wander(guest.gdb, guest.program, guest.text, self.rng, 1):
                yield from states

    def find_starts(self, alternatives: Alternatives | None) -> None:
        if alternatives is None:
            self.notes.append("the image has no alternatives: nothing is patched")
            return
        guest = self.guest
        starts = patched_starts(guest.gdb, guest.program, alternatives, guest.text)
        inside = dict(
            zip(starts.address.tolist(), starts.other_cfa.tolist(), strict=True)
        )
        self.tally.inside = inside
        self.tally.counts |= {
            "sites": len(alternatives.site_address),
            "sites_patched": starts.sites,
            "patched_starts": len(inside),
            "patched_starts_other_cfa": sum(inside.values()),
        }
        there = {
            "inside_replacement": len(inside),
            "inside_other_cfa": sum(inside.values()),
        }
        self.needs, notes = self.needs.at_most(there)
        self.notes += notes

    def wander(self, points: int) -> None:
        guest = self.guest
        wanted = self.tally.counts["points"] + points
        while self.tally.counts["points"] < wanted and self.time_left():
            for states in wander(
                guest.gdb, guest.program, guest.text, self.rng, WANDER_STEPS
            ):
                self.check_all(states)

    def look_around(self) -> None:
        """Learn where the guest runs, to know where to wait for it."""
        guest = self.guest
        for _ in range(GLIMPSES):
            if not self.time_left() or _PATCHED.isdisjoint(self.missing()):
                return
            guest.gdb.run_for(self.rng.random() * GLIMPSE_S)
            self.glimpse()

    def glimpse(self) -> None:
        gdb = self.guest.gdb
        cpu = self.cpus.of(gdb.registers()).cpu
        self.tally.seen.update(glimpse(gdb, cpu, self.guest.text))

    def sample_places(self, inject_nmi: Callable[[], None] | None) -> None:
        """Wait where entries are, and starts that only patching made; compare there.

        Of either those that were not waited for long enough before; both at once, for
        most of the time goes by waiting.
        """
        pending = self.pending_entries(inject_nmi)
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
                starts = self.likely_starts(tried)
                if not entries and not starts:
                    self.count_pass(len(self.tally.hit) - hits)
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
                if not self.surprise(laid, entries, patience_s):
                    tried.update(starts)
                    if starts:
                        self.glimpse()
                waited_s += laid.waited_s - before_s
                if len(entries) < there:
                    waited_s = 0.0

    def pending_entries(self, inject_nmi: Callable[[], None] | None) -> list[int]:
        """Return the entry points that were not awaited yet; NMIs are one of them."""
        guest = self.guest
        points = entry_points(guest.program, guest.text)
        self.tally.counts["entry_points"] = len(points)
        awaited = self.awaited | {guest.call.driver}  # where a breakpoint is in our way
        pending = [point for point in points if point not in awaited]
        self.rng.shuffle(pending)
        if pending and inject_nmi is not None:
            inject_nmi()
        return pending

    def count_pass(self, new: int) -> None:
        if not _PATCHED.isdisjoint(self.missing()):
            self.passes += 1
            self.vain = 0 if new else self.vain + 1

    def surprise(self, laid: Ambush, entries: set[int], patience_s: float) -> bool:
        """Compare where the guest is caught, and from there on; False if it is not."""
        for _ in range(HITS_TOLD):
            if (registers := laid.wait(patience_s)) is None:
                return False
            steps = self.steps_here()
            if registers.rip in entries:
                entries.discard(registers.rip)
                self.tally.entries.add(registers.rip)
                steps = ENTRY_STEPS
            self.check_from(registers, steps)
            self.guest.gdb.remove_breakpoints(laid.places & self.tally.hit)
            if not self.time_left():
                return True
        return True

    def steps_here(self) -> int:
        """Return how far to step from a start: its part of the points yet to come.

        Entry points bring some, too: as many for each start as so far.
        """
        tally = self.tally
        points = self.needs.points - tally.counts["points"]
        starts = self.needs.inside_replacement - len(tally.hit)
        brought = ENTRY_STEPS * len(tally.entries) // max(1, len(tally.hit))
        return max(0, min(MOST_STEPS, points // max(1, starts) - brought))

    def likely_starts(self, tried: set[int]) -> list[int]:
        """Return the starts that the guest will most likely come to, if any are needed.

        Those with another CFA first if more of them are.
        """
        if not (missing := self.missing().keys() & _PATCHED):
            return []
        tally = self.tally
        pending = np.array(sorted(tally.inside.keys() - tally.hit - tried), np.uint64)
        likely: list[int] = by_traffic(pending, tally.seen).tolist()
        if "inside_other_cfa" in missing:
            likely.sort(key=lambda place: not tally.inside[place])
        pages = list(dict.fromkeys(place // PAGE_SIZE for place in likely))[:LIVE_PAGES]
        close = [place for place in likely if place // PAGE_SIZE in pages]
        return close[:LIVE_PATCHED]

    def look(self, registers: Registers) -> Sight | None:
        try:
            return look(self.cpus.of(registers), registers)
        except UnmappedMemory:  # still on the user's page tables (PTI)
            self.tally.counts["not_mapped"] += 1
            return None

    def found(self, finding: Finding) -> None:
        self.tally.found(finding)
        if self.only_first:
            self.reason = "stopped at the first finding"
            raise _Enough

    def check(self, registers: Registers) -> Point | None:
        """Compare at this stop; return the point, if it is one."""
        if (sight := self.look(registers)) is None:
            return None
        (point,) = ask(self.cpus.of(registers), [sight], registers)
        return point if self.account(point) else None

    def check_from(self, registers: Registers, steps: int) -> None:
        """Compare here, and after each of ``steps`` instructions."""
        guest = self.guest
        self.check_all(walk(guest.gdb, guest.program, guest.text, registers, steps))

    def check_all(self, states: Iterable[Registers]) -> None:
        """Compare at each of ``states``, to which the guest is stepped meanwhile.

        It is asked about many at once, but not beyond where it may switch tasks.
        """
        pending: list[Sight] = []
        singly = self.only_first or not self.guest.gdb.steps
        for registers in states:
            if (sight := self.look(registers)) is None:
                continue
            if pending and pending[-1].task != sight.task:
                self.tally.counts["overtaken"] += len(pending)
                pending.clear()
            pending.append(sight)
            if singly or sight.switching or len(pending) == MOST_PENDING:
                self.ask(pending, registers)
        if pending:
            self.ask(pending, self.guest.gdb.registers())

    def ask(self, pending: list[Sight], registers: Registers) -> None:
        cpu = self.cpus.of(pending[-1].registers)
        points = ask(cpu, pending, registers)
        pending.clear()
        for point in points:
            self.account(point)

    def account(self, point: Point) -> bool:
        if not self.tally.point(self.guest, point):
            return False
        if not point.agrees:
            self.found(finding(self.guest, point))
        points = self.tally.counts["points"]
        if points == self.needs.points:
            self.tally.counts["needed_points_ms"] = self.milliseconds()
        if not points % 50:
            self.progress("comparing", points, self.needs.points)
        return True

    def milliseconds(self) -> int:
        return round(1e3 * (time.monotonic() - self.began))

    def time_left(self) -> bool:
        return time.monotonic() < self.deadline

    def missing(self) -> dict[str, str]:
        return self.needs.missing(self.tally.have)

    def result(self) -> CompareResult:
        tally = self.tally
        tally.counts["vcpus"] = len(self.cpus)
        tally.counts["probe_ms"] = self.milliseconds()
        if tally.entries:
            locate = self.guest.program.location
            names = sorted(str(locate(address)) for address in tally.entries)
            self.notes.append(f"entered at {', '.join(names)}")
        if skipped := tally.counts.get("module_on_stack"):
            self.notes.append(
                f"stops with module code on the stack, compared up to it only: {skipped}"
            )
        return CompareResult(
            counts=tally.have,
            findings=tuple(sorted(tally.findings.values(), key=lambda f: f.order)),
            notes=tuple(self.notes),
            reason=self.reason or self.shortfall(),
            blind=self.reason.startswith(_UNSEEN),
            slide=self.guest.program.slide,
        )

    def shortfall(self) -> str:
        if not (missing := self.missing()):
            return ""
        listed = ", ".join(f"{name} {amount}" for name, amount in missing.items())
        return f"not enough was sampled before the deadline: {listed}"

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
from contextlib import closing

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
from harness.boot.sample import patched_starts, walk, wander
from harness.boot.tally import Tally
from harness.boot.watch import Watch
from harness.boot.wire import LostGuest
from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding
from harness.progress import Progress, silent

TASK_HIT_S = 0.5
WANDER_STEPS = 20
MOST_PENDING = 20  # states that the guest is asked about at once
CONTROL_STOPS = 300  # places tried, before the control counts as impossible
LEAST_STARTS = 5  # that a guest has to come to all the same
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
        watch = Watch(Cpus(guest), Tally(), random.Random(seed), deadline)
        run = _Run(watch, needs, progress, only_first, notes)
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
    watch: Watch
    needs: Needs
    progress: Progress
    only_first: bool
    notes: list[str]
    began: float = field(default_factory=time.monotonic)
    reason: str = ""

    @property
    def cpus(self) -> Cpus:
        """The guest, on each of its CPUs."""
        return self.watch.cpus

    @property
    def guest(self) -> Guest:
        """The guest on the CPU that was attached to."""
        return self.watch.guest

    @property
    def tally(self) -> Tally:
        """What was seen so far."""
        return self.watch.tally

    def sample(
        self, alternatives: Alternatives | None, inject_nmi: Callable[[], None] | None
    ) -> None:
        self.compare_tables()
        if not self.control():
            return
        self.find_starts(alternatives)
        self.wander(self.needs.points // 8)
        self.watch.look_around(self.needs)
        self.sample_places(inject_nmi)
        if not self.ask_tasks():
            return
        while self.time_left() and (missing := self.missing()):
            self.wander(100)
            if "entry_context" in missing:
                self.watch.awaited.clear()
            self.sample_places(inject_nmi)
            if self.watch.over:
                self.settle_for(self.tally.have["inside_replacement"])

    def settle_for(self, starts: int) -> None:
        """Need no more ``starts`` than the guest has come to, where all were tried."""
        asked = self.needs.inside_replacement
        if LEAST_STARTS <= starts < asked:
            self.needs = replace(self.needs, inside_replacement=starts)
            self.notes.append(
                f"the workload comes to {starts} of {len(self.tally.inside)} starts that "
                f"patching made, not {asked}: each other one was waited for "
                f"{self.watch.passes} times in vain"
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
            for states in wander(
                guest.gdb, guest.program, guest.text, self.watch.rng, 1
            ):
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
                guest.gdb, guest.program, guest.text, self.watch.rng, WANDER_STEPS
            ):
                self.check_all(states)

    def sample_places(self, inject_nmi: Callable[[], None] | None) -> None:
        """Compare where the guest is waited for, and from there on."""
        with closing(self.watch.hits(self.needs, inject_nmi)) as hits:
            for registers, steps in hits:
                self.check_from(registers, steps)

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
        return self.watch.time_left()

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

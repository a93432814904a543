"""Compare: a whole probe of a running guest, from entry code to patched text.

The guest is stopped at hundreds of places; at each, its own unwinder and ours (by the
static table) must see the same frames. The order is: wait until the kernel is up,
show that its table is the image's, run the control, then sample until what was asked
for is there or the deadline is.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.attach import Cpus, attach, wait_until_up
from harness.boot.control import (
    control_entry,
    differing_entries,
    run_control,
    table_finding,
)
from harness.boot.gdb import Gdb, LostGuest, UnmappedMemory
from harness.boot.kernel_text import kernel_text
from harness.boot.point import Guest, Point, check_point, finding, in_entry_context
from harness.boot.registers import Registers
from harness.boot.reliable import FUNCTION, Survey, reliability
from harness.boot.sample import (
    LIVE_BREAKPOINTS,
    PatchedStarts,
    entry_points,
    hits,
    patched_starts,
    walk,
    wander,
)
from harness.boot.unwind import Ended
from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding
from harness.progress import Progress, silent

HIT_S = 0.3
ENTRY_HIT_S = 0.8
TASK_HIT_S = 0.5
WANDER_STEPS = 20
ENTRY_STEPS = 50
MAX_FINDINGS = 20
CONTROL_STOPS = 300  # places tried, before the control counts as impossible
_PATCHED = {"inside_replacement", "inside_other_cfa"}
_FIRST_COUNTS = (
    "points",
    "agree",
    "differ",
    "frames",
    "to_the_end",
    "entry_context",
    "inside_replacement",
    "inside_other_cfa",
    "control_reported",
    "control_clean",
)


class Needs(Struct, frozen=True):
    """How much has to be sampled for a verdict.

    Attributes:
        points: stopped states in all.
        entry_context: of them in entry or interrupt context.
        inside_replacement: distinct instruction starts that only patching made.
        inside_other_cfa: of them with another CFA than their site's start.
        task_stops: how often every task that does not run is asked about.
    """

    points: int = 500
    entry_context: int = 100
    inside_replacement: int = 50
    inside_other_cfa: int = 0
    task_stops: int = 4


NATIVE_NEEDS = Needs(inside_other_cfa=10)
# It cannot be stepped through entry code, nor stopped at instructions of one byte.
KVM_NEEDS = Needs(entry_context=10, inside_replacement=0)


_UNSEEN = "control did not fail"


class CompareResult(Struct, frozen=True):
    """What a probe came to.

    Attributes:
        counts: how much was done, by name.
        findings: where the two unwinds differ.
        notes: what a reader should know.
        reason: why this is no verdict (needs not met, control not seen), or empty.
        seconds: how long it took, without waiting for the kernel to boot.
        slide: how far KASLR has moved the kernel.
        blind: the reason is that a control went unseen, which is no machine's fault.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    reason: str
    seconds: float
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
    started = time.monotonic()
    cpus = Cpus(attach(gdb, up.program, up.text, up.registers))
    notes = [f"KASLR moved it by {by:#x}"] if (by := up.program.slide) else []
    run = _Run(cpus, needs, random.Random(seed), deadline, progress, only_first, notes)
    try:
        run.sample(parse_alternatives(up.program), inject_nmi)
    except _Enough:
        gdb.remove_breakpoints(gdb.breakpoints)
    except LostGuest as exc:
        run.reason = f"the guest ended while it was probed: {exc.message}"
    else:
        gdb.remove_breakpoints(gdb.breakpoints)
    return run.result(time.monotonic() - started)


class _Enough(Exception):
    """The guest stands where somebody wants to look."""


class _Run(Struct):
    # One probe under way.
    cpus: Cpus
    needs: Needs
    rng: random.Random
    deadline: float
    progress: Progress
    only_first: bool
    notes: list[str]
    starts: PatchedStarts | None = None
    inside: dict[int, bool] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)
    functions: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    entries: set[int] = field(default_factory=set)
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
        self.sample_entries(inject_nmi)
        if not self.ask_tasks():
            return
        self.wander(self.needs.points // 2)
        self.sample_patched()
        self.sample_entries(inject_nmi)
        while self.time_left() and (missing := self.missing()):
            self.wander(100)
            if "entry_context" in missing:
                self.entries.clear()
                self.sample_entries(inject_nmi)
            self.sample_patched()

    def compare_tables(self) -> None:
        differing = differing_entries(self.guest.gdb, self.guest.program)
        self.counts["table_entries"] = len(self.guest.text.ip)
        self.counts["table_entries_differ"] = len(differing)
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
            self.counts["control_reported"] = int(result.reported is not None)
            self.counts["control_clean"] = int(result.clean)
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
        self.counts |= survey.counts
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
            yield from wander(guest.gdb, guest.program, guest.text, self.rng, 1)

    def find_starts(self, alternatives: Alternatives | None) -> None:
        if alternatives is None:
            self.notes.append("the image has no alternatives: nothing is patched")
            return
        guest = self.guest
        self.starts = patched_starts(guest.gdb, guest.program, alternatives, guest.text)
        self.inside = dict(
            zip(
                self.starts.address.tolist(),
                self.starts.other_cfa.tolist(),
                strict=True,
            )
        )
        self.counts["sites"] = len(alternatives.site_address)
        self.counts["sites_patched"] = self.starts.sites
        self.counts["patched_starts"] = len(self.inside)
        self.counts["patched_starts_other_cfa"] = sum(self.inside.values())
        self.lower_needs()

    def lower_needs(self) -> None:
        """Ask for no more patched starts than the kernel has, and say so."""
        there = {
            "inside_replacement": self.counts["patched_starts"],
            "inside_other_cfa": self.counts["patched_starts_other_cfa"],
        }
        for name, most in there.items():
            asked = getattr(self.needs, name)
            if most < asked:
                self.needs = replace(self.needs, **{name: most})
                self.notes.append(f"this kernel has {most} {name}, not {asked}")

    def wander(self, points: int) -> None:
        guest = self.guest
        wanted = self.counts.get("points", 0) + points
        while self.counts.get("points", 0) < wanted and self.time_left():
            for registers in wander(
                guest.gdb, guest.program, guest.text, self.rng, WANDER_STEPS
            ):
                self.check(registers)

    def sample_entries(self, inject_nmi: Callable[[], None] | None) -> None:
        # Each entry point once, and what it leads to; a later round takes the rest.
        guest = self.guest
        points = entry_points(guest.program, guest.text)
        self.counts["entry_points"] = len(points)
        pending = [point for point in points if point not in self.entries]
        self.rng.shuffle(pending)
        if inject_nmi is not None:
            inject_nmi()
        live = pending[:LIVE_BREAKPOINTS]
        with contextlib.closing(hits(guest.gdb, live, ENTRY_HIT_S)) as found:
            for registers in found:
                self.entries.add(registers.rip)
                for state in walk(
                    guest.gdb, guest.program, guest.text, registers, ENTRY_STEPS
                ):
                    self.check(state)
                if not self.time_left():
                    return

    def sample_patched(self) -> None:
        guest = self.guest
        pending = self.ranked_starts()
        while pending and self.time_left() and self.missing().keys() & _PATCHED:
            live, pending = pending[:LIVE_BREAKPOINTS], pending[LIVE_BREAKPOINTS:]
            with contextlib.closing(hits(guest.gdb, live, HIT_S)) as found:
                for registers in found:
                    self.check(registers)
                    if not self.time_left():
                        return

    def ranked_starts(self) -> list[int]:
        # Those with another CFA first, then those in functions that were seen to run.
        locate = self.guest.program.symbols.index

        def rank(address: int) -> tuple[bool, bool, float]:
            seen = locate(address) in self.functions
            return not seen, not self.inside[address], self.rng.random()

        return sorted(self.inside.keys() - self.hit, key=rank)

    def look(self, registers: Registers) -> Point | None:
        try:
            return check_point(self.cpus.of(registers), registers)
        except UnmappedMemory:  # still on the user's page tables (PTI)
            self.count("not_mapped")
            return None

    def found(self, finding: Finding) -> None:
        # One finding for each cause, which counts the places.
        known = self.findings.get(finding.key)
        if known is not None:
            occurrences = known.occurrences + 1
            self.findings[finding.key] = replace(known, occurrences=occurrences)
        elif len(self.findings) < MAX_FINDINGS:
            self.findings[finding.key] = finding
        if self.only_first:
            self.reason = "stopped at the first finding"
            raise _Enough

    def check(self, registers: Registers) -> Point | None:
        # Returns the point, if it is one.
        if (point := self.look(registers)) is None:
            return None
        if not point.comparable and point.agrees:
            self.count("module_on_stack")
            return None
        self.count("points")
        self.count("frames", len(point.guest))
        self.count("agree" if point.agrees else "differ")
        self.count("entry_context", in_entry_context(self.guest, point))
        self.count("to_the_end", point.host.ended in (Ended.USER, Ended.END_OF_STACK))
        if registers.rip in self.inside:
            self.hit.add(registers.rip)
        locate = self.guest.program.symbols.index
        self.functions.update(locate(ip) for ip in point.host.ips)
        if not point.agrees:
            self.found(finding(self.guest, point))
        if not self.counts["points"] % 50:
            self.progress("comparing", self.counts["points"], self.needs.points)
        return point

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def time_left(self) -> bool:
        return time.monotonic() < self.deadline

    def have(self) -> dict[str, int]:
        return self.counts | {
            "entry_points_hit": len(self.entries),
            "vcpus": len(self.cpus),
            "inside_replacement": len(self.hit),
            "inside_other_cfa": sum(self.inside[place] for place in self.hit),
        }

    def missing(self) -> dict[str, str]:
        # What is needed and not there yet: name -> how much of how much.
        have = self.have()
        wanted = {name: getattr(self.needs, name) for name in Needs.__struct_fields__}
        return {
            name: f"{have.get(name, 0)} of {count}"
            for name, count in wanted.items()
            if have.get(name, 0) < count
        }

    def result(self, seconds: float) -> CompareResult:
        counts = self.have()
        first = {name: counts.get(name, 0) for name in _FIRST_COUNTS}
        if self.entries:
            locate = self.guest.program.location
            names = sorted(str(locate(address)) for address in self.entries)
            self.notes.append(f"entered at {', '.join(names)}")
        if skipped := self.counts.get("module_on_stack"):
            self.notes.append(
                f"stops with module code on the stack, compared up to it only: {skipped}"
            )
        return CompareResult(
            counts=first | counts,
            findings=tuple(sorted(self.findings.values(), key=lambda f: f.order)),
            notes=tuple(self.notes),
            reason=self.reason or self.shortfall(),
            blind=self.reason.startswith(_UNSEEN),
            seconds=seconds,
            slide=self.guest.program.slide,
        )

    def shortfall(self) -> str:
        if not (missing := self.missing()):
            return ""
        listed = ", ".join(f"{name} {amount}" for name, amount in missing.items())
        return f"not enough was sampled before the deadline: {listed}"

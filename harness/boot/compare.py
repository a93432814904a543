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
from dataclasses import dataclass, field, replace

from harness.boot.call import unwind_call
from harness.boot.control import (
    control_entry,
    differing_entries,
    run_control,
    table_finding,
)
from harness.boot.gdb import Gdb, LostGuest, UnmappedMemory
from harness.boot.kernel_text import KernelText, kernel_text
from harness.boot.point import Guest, Point, check_point, finding, in_entry_context
from harness.boot.registers import Registers
from harness.boot.sample import (
    LIVE_BREAKPOINTS,
    PatchedStarts,
    entry_points,
    hits,
    patched_starts,
    usable,
    walk,
    wander,
)
from harness.boot.stack_info import cpu_stacks, per_cpu_base, stack_layout
from harness.boot.unwind import Ended
from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.orc import parse_orc
from harness.elf.program import Program
from harness.errors import FormatError, InfraError
from harness.finding import Finding
from harness.progress import Progress, silent

POLL_S = 0.05
HIT_S = 0.3
ENTRY_HIT_S = 0.8
WANDER_STEPS = 20
ENTRY_STEPS = 50
RUNNING = 2  # enum system_states: init memory is being freed, or later
MAX_FINDINGS = 20
CONTROL_STOPS = 300  # places tried, before the control counts as impossible
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
_NEVER = "no kernel was seen at its linked address within {:g} s"


@dataclass(frozen=True, slots=True)
class Needs:
    """How much has to be sampled for a verdict.

    Attributes:
        points: stopped states in all.
        entry_context: of them in entry or interrupt context.
        inside_replacement: distinct instruction starts that only patching made.
        inside_other_cfa: of them with another CFA than their site's start.
    """

    points: int = 500
    entry_context: int = 100
    inside_replacement: int = 50
    inside_other_cfa: int = 0


NATIVE_NEEDS = Needs(inside_other_cfa=10)


@dataclass(frozen=True, slots=True)
class CompareResult:
    """What a probe came to.

    Attributes:
        counts: how much was done, by name.
        findings: where the two unwinds differ.
        notes: what a reader should know.
        reason: why this is no verdict (needs not met, control not seen), or empty.
        seconds: how long it took, without waiting for the kernel to boot.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    reason: str
    seconds: float


def probe(
    gdb: Gdb,
    program: Program,
    *,
    deadline_s: float,
    needs: Needs = NATIVE_NEEDS,
    inject_nmi: Callable[[], None] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> CompareResult:
    """Sample the guest behind ``gdb`` until ``needs`` are met or ``deadline_s`` is up.

    The guest has one vCPU, was started with ``nokaslr`` and runs ``program`` (a
    vmlinux with symbols); it may be anywhere from reset on, and should run a workload.
    It is left stopped, without breakpoints of ours.

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
    registers = wait_until_up(gdb, program, text, deadline, deadline_s)
    started = time.monotonic()
    guest = _guest(gdb, program, text, registers)
    run = _Run(guest, needs, random.Random(seed), deadline, progress)
    try:
        run.sample(parse_alternatives(program), inject_nmi)
    except LostGuest as exc:
        run.reason = f"the guest ended while it was probed: {exc.message}"
    else:
        gdb.remove_breakpoints(gdb.breakpoints)
    return run.result(time.monotonic() - started)


def wait_until_up(
    gdb: Gdb, program: Program, text: KernelText, deadline: float, deadline_s: float
) -> Registers:
    """Let the guest run until its kernel is done with booting; it stops in its text.

    Raises:
        InfraError: that did not happen before ``deadline`` (time.monotonic()).
    """
    banner = _required(program, "linux_banner")
    state = _required(program, "system_state")
    expected = program.read(banner, 16).tobytes()
    seen = False
    while time.monotonic() < deadline:
        registers = gdb.registers()
        if text.holds(registers.rip) and gdb.read_or_none(banner, 16) == expected:
            seen = True
            running = int.from_bytes(gdb.read(state, 4), "little") >= RUNNING
            if running and usable(program, text, registers):
                return registers
        gdb.run_for(POLL_S * (0.1 if seen else 1))
    message = "the kernel did not finish booting within {:g} s" if seen else _NEVER
    raise InfraError(
        message.format(deadline_s),
        hint="is nokaslr on its command line, and is this the vmlinux that runs?",
    )


@dataclass(slots=True)
class _Run:
    # One probe under way.
    guest: Guest
    needs: Needs
    rng: random.Random
    deadline: float
    progress: Progress
    starts: PatchedStarts | None = None
    inside: dict[int, bool] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)
    functions: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    entries: set[str] = field(default_factory=set)
    reason: str = ""

    def sample(
        self, alternatives: Alternatives | None, inject_nmi: Callable[[], None] | None
    ) -> None:
        self.compare_tables()
        if not self.control():
            return
        self.find_starts(alternatives)
        self.sample_entries(inject_nmi)
        self.wander(self.needs.points // 2)
        self.sample_patched()
        while not self.missing_only_patched() and self.time_left():
            self.wander(100)
            self.sample_entries(inject_nmi)
        self.wander(self.needs.points - self.counts.get("points", 0))

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
            result = run_control(self.guest, registers, index)
            self.counts["control_reported"] = int(result.reported is not None)
            self.counts["control_clean"] = int(result.clean)
            if result.reported is None:
                self.reason = "control did not fail: a wrong entry went unseen"
            elif not result.clean:
                self.reason = "control: the entry was put back, yet it still differs"
            return result.passed
        self.reason = "control could not run: no agreeing trace with a caller was seen"
        return False

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

    def wander(self, points: int) -> None:
        guest = self.guest
        wanted = self.counts.get("points", 0) + points
        while self.counts.get("points", 0) < wanted and self.time_left():
            for registers in wander(
                guest.gdb, guest.program, guest.text, self.rng, WANDER_STEPS
            ):
                self.check(registers)

    def sample_entries(self, inject_nmi: Callable[[], None] | None) -> None:
        guest = self.guest
        points = list(entry_points(guest.program, guest.text))
        self.counts["entry_points"] = len(points)
        self.rng.shuffle(points)
        if inject_nmi is not None:
            inject_nmi()
        live = points[:LIVE_BREAKPOINTS]
        with contextlib.closing(hits(guest.gdb, live, ENTRY_HIT_S)) as found:
            for registers in found:
                self.count("entry_points_hit")
                self.entries.add(str(guest.program.location(registers.rip)))
                for state in walk(
                    guest.gdb, guest.program, guest.text, registers, ENTRY_STEPS
                ):
                    self.check(state)
                if not self.time_left():
                    return

    def sample_patched(self) -> None:
        guest = self.guest
        pending = self.ranked_starts()
        while pending and self.time_left() and self.missing_patched():
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
            return not self.inside[address], not seen, self.rng.random()

        return sorted(self.inside.keys() - self.hit, key=rank)

    def look(self, registers: Registers) -> Point | None:
        try:
            return check_point(self.guest, registers)
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

    def missing_patched(self) -> bool:
        inside, other = len(self.hit), sum(self.inside[place] for place in self.hit)
        return (
            inside < self.needs.inside_replacement
            or other < self.needs.inside_other_cfa
        )

    def missing_only_patched(self) -> bool:
        return self.counts.get("entry_context", 0) >= self.needs.entry_context

    def result(self, seconds: float) -> CompareResult:
        self.counts["inside_replacement"] = len(self.hit)
        self.counts["inside_other_cfa"] = sum(self.inside[p] for p in self.hit)
        first = {name: self.counts.get(name, 0) for name in _FIRST_COUNTS}
        if self.entries:
            self.notes.append(f"entered at {', '.join(sorted(self.entries))}")
        if skipped := self.counts.get("module_on_stack"):
            self.notes.append(
                f"{skipped} stops were not compared to the end: module code was on the "
                "stack, whose table is in the module"
            )
        return CompareResult(
            counts=first | self.counts,
            findings=tuple(sorted(self.findings.values(), key=lambda f: f.order)),
            notes=tuple(self.notes),
            reason=self.reason or self.shortfall(),
            seconds=seconds,
        )

    def shortfall(self) -> str:
        missing = [
            f"{name} {self.counts.get(name, 0)} of {wanted}"
            for name in Needs.__slots__
            if self.counts.get(name, 0) < (wanted := getattr(self.needs, name))
        ]
        if not missing:
            return ""
        return "not enough was sampled before the deadline: " + ", ".join(missing)


def _guest(gdb: Gdb, program: Program, text: KernelText, registers: Registers) -> Guest:
    if (base := per_cpu_base(registers)) is None:
        raise InfraError(
            f"the guest has no per-CPU area: gs_base {registers.gs_base:#x}"
        )
    cpu = cpu_stacks(stack_layout(program), base, gdb.read)
    call = unwind_call(program, cpu.double_fault_top)
    gdb.insert_breakpoint(call.return_address)
    return Guest(gdb, program, text, cpu, call)


def _required(program: Program, name: str) -> int:
    if (address := program.symbols.find(name)) is None:
        raise FormatError(
            f"{program.name} has no symbol {name}",
            hint="the probe needs a vmlinux with its symbols",
        )
    return address

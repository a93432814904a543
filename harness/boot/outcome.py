"""Outcome: how one boot ended, judged from evidence, QEMU's word and the console.

Four ends, never mixed up: the guest did its work and said so (booted), it died
(panicked), it did not end in time (hung), or the machine below it failed (lost).
The first three are about the kernel, the last is about us.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from msgspec import Struct, field

from harness.boot.evidence import Evidence
from harness.errors import InfraError
from harness.finding import Finding, Location
from harness.variant import Platform

TAIL_LINES = 40
TAIL_COLUMNS = 100

# Parts that may fall short without a fault of the kernel: a module may refuse to
# load by design (the kernel's test modules do), and tasks end while they are read.
_INEXACT_PARTS = {"modules", "stacks"}
_PANIC = re.compile(r"Kernel panic - not syncing.*|\(XEN\) Panic on CPU.*")
# What the kernel's log says about itself when it is not well; taints W and D.
_TAINTED = {7: "D (it oopsed)", 9: "W (it warned)"}
_WARNING = re.compile(r"^(WARNING|BUG|Oops|general protection fault).*", re.MULTILINE)


class Status(enum.StrEnum):
    """How a boot ended."""

    BOOTED = "booted"
    PANICKED = "panicked"
    HUNG = "hung"
    LOST = "lost"


class Rule(enum.StrEnum):
    """What can be wrong with a kernel that was booted; see docs/findings.md."""

    PANIC = "boot/panic"
    HANG = "boot/hang"
    WORKLOAD = "boot/workload"
    PLATFORM = "boot/platform"
    WARNING = "boot/warning"


class Ending(Struct, frozen=True):
    """How QEMU ended.

    Attributes:
        timed_out: it did not, and was killed at the deadline.
        returncode: its exit status.
        reason: the reason in its SHUTDOWN event, empty if it told none.
        output: what it wrote itself (errors, not the guest's console).
        host_alive: at the deadline, a nested guest's host still ran.
    """

    timed_out: bool
    returncode: int
    reason: str = ""
    output: str = ""
    host_alive: bool = True

    @property
    def by_guest(self) -> bool:
        """The guest ended it: it powered off or reset."""
        return self.reason in ("guest-shutdown", "guest-reset", "guest-panic")


class BootResult(Struct, frozen=True):
    """One boot, ended.

    Attributes:
        message: one sentence that says why, with every deadline that mattered.
        console: the kernel's console, whole.
        seconds: from QEMU's start to its end.
        deadline_s: how long it could have taken.
        versions: program -> version (qemu, xen, linux).
        facts: how this machine was made (``kvm``: host or nested), what it counted.
        command: how QEMU was started, to run it again.
    """

    status: Status
    platform: Platform
    message: str
    evidence: Evidence
    console: str
    seconds: float
    deadline_s: float
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    @property
    def console_tail(self) -> tuple[str, ...]:
        """The console's last lines, cut to 100 columns."""
        return tail(self.console)

    @property
    def counts(self) -> dict[str, int]:
        """What the guest did, part by part, and how many records told it."""
        counts = {part.name: part.done for part in self.evidence.parts}
        return {**counts, "records": self.evidence.records}


def tail(text: str, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines of ``text``, without control characters."""
    clean = re.sub(r"[^\n\t -~]", "", text.replace("\r", ""))
    return tuple(line[:TAIL_COLUMNS] for line in clean.splitlines()[-lines:])


def judge(
    ending: Ending, evidence: Evidence, console: str, deadline_s: float
) -> tuple[Status, str]:
    """Return how the boot ended, and the sentence that says why."""
    if evidence.complete and (ending.by_guest or ending.reason == "host-qmp-quit"):
        return Status.BOOTED, f"userspace closed with {evidence.records} records"
    if panic := _PANIC.search(console):
        return Status.PANICKED, panic.group(0).strip()
    reached = _reached(evidence)
    if ending.timed_out:
        return Status.HUNG, f"no end within its deadline of {deadline_s:g} s, {reached}"
    if ending.by_guest:
        return Status.PANICKED, f"the guest reset without a word, {reached}"
    said = "; ".join(tail(ending.output, 3)) or "no word of it"
    return (
        Status.LOST,
        f"qemu ended with {ending.returncode} ({said}), not by the guest, {reached}",
    )


def _reached(evidence: Evidence) -> str:
    if not evidence.hello:
        return "before userspace ran"
    last = evidence.parts[-1].name if evidence.parts else "hello"
    return f"userspace got as far as {last} (record {evidence.records})"


Proof = Callable[[BootResult], str]
"""Looks for one thing that only its platform does; returns what is missing, or ''."""


def logged(pattern: str, meaning: str) -> Proof:
    """Return the Proof that the kernel logged ``pattern``."""
    compiled = re.compile(pattern)

    def proof(result: BootResult) -> str:
        if compiled.search(result.evidence.kernel_log or result.console):
            return ""
        return f"{meaning}: the kernel did not log {pattern!r}"

    return proof


def findings(result: BootResult, proofs: tuple[Proof, ...]) -> tuple[Finding, ...]:
    """Return what is wrong with the kernel that booted so.

    Raises:
        InfraError: the machine was lost, so that there is no verdict.
    """
    if result.status is Status.LOST:
        raise InfraError(
            f"lost the {result.platform} machine: {result.message}\n"
            + "\n".join(result.console_tail),
            hint="orc-harness doctor tells whether this machine's QEMU works",
        )
    rule = {Status.PANICKED: Rule.PANIC, Status.HUNG: Rule.HANG}.get(result.status)
    if rule:
        return (_finding(result, rule, result.message, result.console_tail),)
    found = [
        _finding(result, Rule.WORKLOAD, f"{part.name}: {_short(part.done, part.asked)}")
        for part in result.evidence.parts
        if not part.whole and not (part.done and part.name in _INEXACT_PARTS)
    ]
    found += [
        _finding(result, Rule.PLATFORM, missing, result.console_tail)
        for proof in proofs
        if (missing := proof(result))
    ]
    return (*found, *_warnings(result))


def _short(done: int, asked: int) -> str:
    return f"the kernel did {done} of {asked} things as asked"


def _warnings(result: BootResult) -> tuple[Finding, ...]:
    text = result.evidence.facts.get("tainted", "0")
    taint = int(text) if text.isdecimal() else 0
    flags = [meaning for bit, meaning in _TAINTED.items() if taint >> bit & 1]
    if not flags:
        return ()
    log = result.evidence.kernel_log
    first = _WARNING.search(log)
    window = tail(log[first.start() :])[:1] if first else ()
    lines = log[first.start() :].splitlines()[:TAIL_LINES] if first else []
    message = f"the kernel tainted itself {', '.join(flags)}: {''.join(window)}"
    return (_finding(result, Rule.WARNING, message, tail("\n".join(lines))),)


def _finding(
    result: BootResult, rule: Rule, message: str, window: tuple[str, ...] = ()
) -> Finding:
    return Finding(
        rule=rule.value,
        location=Location("bzImage", str(result.platform), 0),
        message=message,
        declared="a boot to the end of the workload",
        actual=str(result.status),
        platforms=(str(result.platform),),
        window=window,
        reproduce=f"orc-harness boot BUILD_DIR --platform {result.platform}",
    )

"""Shadow: a boot under the plugin, from the table to what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.boot import boot
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.boot.kernel_text import KernelText, kernel_text
from harness.boot.machine import MachineConfig
from harness.boot.outcome import Status
from harness.boot.shadow import judge, record, table
from harness.boot.shadow.equip import PREFIX, Equip, equip
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from harness.errors import FormatError, InfraError
from harness.finding import Finding
from harness.variant import Platform

LEAST_VERIFIED = 10_000_000  # a boot of the small kernel has 90 million
HOST_TEXT_BYTES = 64 << 20  # more than any distribution's kernel has
TRIES = 3


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """What a boot under the plugin came to.

    Attributes:
        counts: how much was done, by name.
        seen: how often each entry of the sorted table was executed and verified.
        reason: why this is no verdict, or empty.
        seconds: how long the boot took.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    seen: judge.Seen
    reason: str
    seconds: float


def shadow(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    config: MachineConfig,
    program: Program,
    *,
    saved_bp: bool = False,
) -> ShadowResult:
    """Boot ``kernel`` (``program`` is its vmlinux) and check what it executes.

    With ``saved_bp`` also where the caller's %rbp was saved, which takes longer.

    Raises:
        FormatError: there is no ORC table, or no symbols that bound the text.
        MissingMachine: this machine has not what the platform takes.
        InfraError: the machine failed, or the kernel did not come to its end.
    """
    orc = parse_orc(program)
    if orc is None:
        raise FormatError(f"{program.name} carries no ORC table to check")
    text, orc = kernel_text(program, orc), orc.sorted()
    # this host's KVM executes what no plugin sees
    config = replace(config, host_kvm=False)
    columns = table.columns(orc, text, table.starts(program))
    more = ("bp=on",) if saved_bp else ()
    equipped = equip(toolbox, columns, platform, *more)
    for _ in range(TRIES):
        found, seconds, host = run(toolbox, kernel, platform, config, equipped)
        if not any(
            begin < host + HOST_TEXT_BYTES and host < end for begin, end in text.ranges
        ):
            return _judged(found, orc, text, program, platform, seconds)
    raise InfraError(
        f"KASLR put the nested guest's host {TRIES} times where the guest has its text"
    )


def run(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    config: MachineConfig,
    equipped: Equip,
) -> tuple[record.Record, float, int]:
    """Boot under the plugin; return what it left, how long it took, and the text of
    a nested guest's host, else 0.

    Raises:
        See :func:`shadow`.
    """
    with boot.session(toolbox, kernel, platform, config, equipped) as running:
        running.start()
        ended = running.end()
        machine = running.machine
        report = machine.read(f"{PREFIX}.report")
        places = machine.read(f"{PREFIX}.places")
        host = machine.outer_evidence().facts.get("host.text", "0")
    if ended.status is not Status.BOOTED:
        raise InfraError(
            f"the kernel booted without the plugin, but {ended.status} with it: "
            f"{ended.message}\n" + "\n".join(ended.console_tail)
        )
    return record.parse(report, places), ended.seconds, int(host, 16)


def _judged(
    found: record.Record,
    orc: OrcTable,
    text: KernelText,
    program: Program,
    platform: Platform,
    seconds: float,
) -> ShadowResult:
    known = _known(found.pc, text)
    seen = judge.seen(found, orc, known)
    return ShadowResult(
        counts=judge.counts(found, orc, seen, known),
        findings=judge.findings(found, orc, program, str(platform)),
        seen=seen,
        reason=judge.reason_against(found, LEAST_VERIFIED),
        seconds=seconds,
    )


def _known(pc: npt.NDArray[np.uint64], text: KernelText) -> npt.NDArray[np.bool_]:
    known = np.zeros(len(pc), dtype=bool)
    for begin, end in text.ranges:
        known |= (pc >= np.uint64(begin)) & (pc < np.uint64(end))
    return known

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
from harness.boot.shadow import judge, table
from harness.boot.shadow.equip import PREFIX, equip
from harness.boot.shadow.record import Record, parse
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from harness.errors import FormatError, InfraError
from harness.finding import Finding
from harness.variant import Platform

LEAST_VERIFIED = 10_000_000  # a boot of the small kernel has 90 million


@dataclass(frozen=True, slots=True)
class Checked:
    """One boot under the plugin.

    Attributes:
        known: bool[n], beside ``record.pc``: the table is about it.
        seen: how often each entry of the sorted table was executed and verified.
        seconds: how long the boot took.
    """

    record: Record
    known: npt.NDArray[np.bool_]
    seen: judge.Seen
    seconds: float


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """What a boot under the plugin says of the kernel.

    Attributes:
        counts: how much was done, by name.
        seen: how often each entry of the sorted table was executed and verified.
        record: what was executed.
        reason: why this is no verdict, or empty.
        seconds: how long the boot took.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    seen: judge.Seen
    record: Record
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
    orc = sorted_table(program)
    more = ("bp=on",) if saved_bp else ()
    checked = check(toolbox, kernel, platform, config, program, orc, *more)
    found, seen = checked.record, checked.seen
    return ShadowResult(
        counts=judge.counts(found, orc, seen, checked.known),
        findings=judge.findings(found, orc, program, str(platform)),
        seen=seen,
        record=found,
        reason=judge.reason_against(found, LEAST_VERIFIED),
        seconds=checked.seconds,
    )


def sorted_table(program: Program) -> OrcTable:
    """Return the table of ``program`` in the order of its addresses.

    Raises:
        FormatError: it has none.
    """
    orc = parse_orc(program)
    if orc is None:
        raise FormatError(f"{program.name} carries no ORC table to check")
    return orc.sorted()


def check(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    config: MachineConfig,
    program: Program,
    orc: OrcTable,
    *arguments: str,
) -> Checked:
    """Boot ``kernel`` under the plugin, which is given ``orc`` and ``arguments``.

    Raises:
        See :func:`shadow`.
    """
    text = kernel_text(program, orc)
    columns = table.columns(orc, text, table.starts(program))
    equipped = equip(toolbox, columns, platform, *arguments)
    # this host's KVM executes what no plugin sees, and the table is of linked addresses
    config = replace(config, host_kvm=False, kaslr=False)
    with boot.session(toolbox, kernel, platform, config, equipped) as running:
        running.start()
        ended = running.end()
        report = running.machine.read(f"{PREFIX}.report")
        places = running.machine.read(f"{PREFIX}.places")
    if ended.status is not Status.BOOTED:
        raise InfraError(
            f"the kernel booted without the plugin, but {ended.status} with it: "
            f"{ended.message}\n" + "\n".join(ended.console_tail)
        )
    found = parse(report, places)
    known = _known(found.pc, text)
    return Checked(found, known, judge.seen(found, orc, known), ended.seconds)


def _known(pc: npt.NDArray[np.uint64], text: KernelText) -> npt.NDArray[np.bool_]:
    known = np.zeros(len(pc), dtype=bool)
    for begin, end in text.ranges:
        known |= (pc >= np.uint64(begin)) & (pc < np.uint64(end))
    return known

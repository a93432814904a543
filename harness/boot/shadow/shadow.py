"""Shadow: a boot under the plugin, from the table to what is wrong with it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from harness.boot import boot
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox, taken
from harness.boot.kernel_text import kernel_text
from harness.boot.machine import MachineConfig
from harness.boot.outcome import Status
from harness.boot.shadow import judge, table
from harness.boot.shadow.code import code_of
from harness.boot.shadow.equip import PREFIX, equip
from harness.boot.shadow.record import Record, parse
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from harness.errors import FormatError, InfraError
from harness.finding import Finding
from harness.variant import Platform

# Is given the tables of modules (arch/x86/kernel/unwind_orc.c, 4.14 and later).
_MODULE_INIT = "unwind_module_init"
# The whole workload (boot/guest/init.c), and what only old programs need.
_WIDE = "orc.wide=1 vsyscall=emulate"
LEAST_VERIFIED = 10_000_000  # a boot of the small kernel has 200 million


class Checked(Struct, frozen=True):
    """One boot under the plugin.

    Attributes:
        seen: how often each entry of the sorted table was executed and verified.
        seconds: how long the boot took.
        died: how the kernel ended that did not come to its end, or empty.
        cut: the parts of the workload that it did not do whole (``tree 1 of 3``).
    """

    record: Record
    seen: judge.Seen
    seconds: float
    died: str = ""
    cut: tuple[str, ...] = ()


class ShadowResult(Struct, frozen=True):
    """What a boot under the plugin says of the kernel.

    Attributes:
        counts: how much was done, by name.
        seen: how often each entry of the sorted table was executed and verified.
        record: what was executed.
        reason: why this is no verdict, or empty.
        seconds: how long the boot took.
        cut: the parts of the workload that it did not do whole.
    """

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    seen: judge.Seen
    record: Record
    reason: str
    seconds: float
    cut: tuple[str, ...] = ()


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
    code = code_of(program, orc, taken(kernel.modules), found.modules)
    # who has lost %rsp says nothing of anybody
    lost = bool(found.counts.get("misread"))
    return ShadowResult(
        counts=judge.counts(found, orc, seen),
        findings=() if lost else judge.findings(found, code, str(platform)),
        seen=seen,
        record=found,
        reason=checked.died or judge.reason_against(found, LEAST_VERIFIED),
        seconds=checked.seconds,
        cut=checked.cut,
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
    if (init := program.symbols.find(_MODULE_INIT)) is not None:
        arguments = (*arguments, f"module={init:#x}")
    equipped = equip(toolbox, columns, platform, *arguments)
    # this host's KVM executes what no plugin sees, and the table is of linked addresses
    append = f"{config.append} {_WIDE}".strip()
    config = replace(config, host_kvm=False, kaslr=False, append=append)
    with boot.session(toolbox, kernel, platform, config, equipped) as running:
        running.start()
        ended = running.end()
        report = running.machine.read(f"{PREFIX}.report")
        places = running.machine.read(f"{PREFIX}.places")
        modules = running.machine.read(f"{PREFIX}.modules")
    died = ""
    if ended.status is not Status.BOOTED:
        died = (
            "the kernel booted without the plugin and the wide workload, but "
            f"{ended.status} with them: {ended.message}\n"
            + "\n".join(ended.console_tail)
        )
        if not report:  # QEMU was killed
            raise InfraError(died)
    found = parse(report, places, modules)
    cut = [p for p in ended.evidence.parts if p.done < p.asked]
    return Checked(
        found,
        judge.seen(found, orc),
        ended.seconds,
        died,
        tuple(f"{part.name} {part.done} of {part.asked}" for part in cut),
    )

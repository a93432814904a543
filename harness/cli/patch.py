"""``orc-harness patch``: a kernel's text as one platform runs it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from harness import kernel_build
from harness.cli import options
from harness.cli.console import OUT
from harness.elf.feature import parse_cpufeatures
from harness.errors import ExitCode, UserError
from harness.report import text
from harness.stages import patch
from harness.text.patch import NopTable
from harness.variant import Platform


class Cpu(enum.StrEnum):
    """The features that neither the platform decides nor an option names."""

    NONE = "none"
    ALL = "all"


def command(
    kernel: Annotated[
        Path,
        typer.Argument(metavar="VMLINUX", help="A linked kernel, or a build of one."),
    ],
    platform: Annotated[
        Platform, typer.Option("--platform", help="What the kernel runs on.")
    ],
    target: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the patched ELF file here."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="A feature that the CPU has (repeatable)."),
    ] = None,
    no_feature: Annotated[
        list[str] | None,
        typer.Option("--no-feature", help="One that it has not (repeatable)."),
    ] = None,
    cpu: Annotated[
        Cpu, typer.Option("--cpu", help="Whether it has all the other features.")
    ] = Cpu.NONE,
    nops: Annotated[
        NopTable,
        typer.Option(
            "--nops",
            help="Up to 5.12: K8 for AMD's family 15 and Intel before Ivy Bridge.",
        ),
    ] = NopTable.P6,
    check: Annotated[
        bool, typer.Option("--check", help="Check the patched text as one program.")
    ] = False,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Patch a kernel's text as a platform does when it boots; write it, or check it.

    The layout stays: only bytes in sites of alternatives and of paravirt calls change.
    """
    build = kernel_build.find(kernel)
    if not build.kernels:
        raise UserError(
            f"{kernel} has no linked kernel", hint="give a vmlinux, or a build of one"
        )
    both = set(feature or ()) & set(no_feature or ())
    if both:
        raise UserError(f"--feature and --no-feature both name {', '.join(both)}")
    asked = dict.fromkeys(feature or (), True) | dict.fromkeys(no_feature or (), False)
    header = build.cpufeatures
    names = None if header is None else parse_cpufeatures(header.read_text())
    path = build.kernels[0]
    machine = patch.machine_of(
        path, platform, asked, others=cpu is Cpu.ALL, features=names
    )
    patched = patch.patch(path, machine, target, table=nops, check=check)
    _show(patched, target, check, output)
    raise typer.Exit(ExitCode.FINDINGS if patched.findings else ExitCode.CLEAN)


def _show(
    patched: patch.Patched, target: Path | None, check: bool, output: options.Format
) -> None:
    if output is options.Format.JSON:
        OUT.out(options.to_json(patched), end="")
        return
    where = f" -> {target}" if target else ""
    OUT.print(
        f"{patched.name} on {patched.platform}: {patched.sites} sites, "
        f"{patched.bytes} bytes changed (era {patched.era}){where}",
        markup=False,
    )
    for note in patched.notes:
        OUT.print(f"  note: {note}", markup=False)
    for finding in patched.findings:
        OUT.print("\n".join(text.lines(finding)) + "\n", markup=False)
    if check:
        OUT.print(f"  checked: {len(patched.findings)} findings", markup=False)

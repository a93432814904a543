"""``orc-harness boot``: one built kernel on a platform."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness import matrix
from harness.boot.debug import Stopped
from harness.cli import options
from harness.cli.console import ERR, board
from harness.cli.outcome import show
from harness.result import run_result
from harness.variant import Platform


def command(
    build: Annotated[
        Path,
        typer.Argument(
            metavar="BUILD_DIR",
            help="A finished kernel build: bzImage, vmlinux and modules.",
        ),
    ],
    platform: Annotated[
        Platform, typer.Option("--platform", help="Where to boot it.")
    ] = Platform.NATIVE,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare the unwinders too.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Compare, and leave the machine stopped at the first finding, for gdb.",
        ),
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="Check every executed instruction's entry too."),
    ] = False,
    shadow_bp: Annotated[
        bool,
        typer.Option(
            "--shadow-bp", help="And where each saved %rbp is, which takes longer."
        ),
    ] = False,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    qemu: options.QemuOption = None,
    xen: options.XenOption = None,
    cpu: options.CpuOption = None,
    append: options.AppendOption = "",
    xen_args: options.XenArgsOption = "",
    kaslr: options.KaslrOption = False,
    smp: options.SmpOption = 1,
    timeout: options.TimeoutOption = None,
    seed: options.SeedOption = 0,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Boot a kernel that is built already, under QEMU; judge it by its evidence."""
    started = datetime.now(UTC)
    request = matrix.Request(
        runtime=runtime.value,
        machine=options.machine_config(
            qemu, xen, cpu, append, xen_args, kaslr, smp, timeout
        ),
        seed=seed,
    )
    with board() as lines:
        stages, tools = matrix.boot_build(
            request,
            build,
            platform,
            lines,
            probed=compare or debug,
            shadowed=shadow,
            saved_bp=shadow_bp,
            on_stop=_stand if debug else None,
        )
    result = run_result("boot", str(build), stages, started=started, tools=tools)
    show(result, output)
    raise typer.Exit(result.exit_code)


def _stand(stopped: Stopped) -> None:
    """Say where the machine stands and how to look into it, until Enter or Ctrl-C."""
    ERR.print(
        f"stopped at {stopped.where}: {stopped.why}\n"
        f"  attach: {stopped.command}\n"
        "  Enter ends the machine",
        markup=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.readline()

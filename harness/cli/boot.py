"""``orc-harness boot``: one built kernel on a platform."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness import matrix
from harness.cli import options
from harness.cli.console import board
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
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    qemu: options.QemuOption = None,
    xen: options.XenOption = None,
    cpu: options.CpuOption = None,
    append: options.AppendOption = "",
    timeout: options.TimeoutOption = None,
    seed: options.SeedOption = 0,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Boot a kernel that is built already, under QEMU; judge it by its evidence."""
    started = datetime.now(UTC)
    request = matrix.Request(
        runtime=runtime.value,
        machine=options.machine_config(qemu, xen, cpu, append, timeout),
        seed=seed,
    )
    with board() as lines:
        stages, tools = matrix.boot_build(request, build, platform, compare, lines)
    result = run_result("boot", str(build), stages, started=started, tools=tools)
    show(result, output)
    raise typer.Exit(result.exit_code)

"""``orc-harness readback``: a running kernel's text, every byte of it predicted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness import matrix
from harness.cli import options
from harness.cli.console import board
from harness.cli.outcome import show
from harness.errors import UserError
from harness.result import run_result
from harness.stages import readback, third
from harness.variant import Platform


def command(
    builds: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUILD_DIR...",
            help="Finished kernel builds (bzImage, vmlinux): one per --platform, or one "
            "for all.",
        ),
    ],
    platform: Annotated[
        list[Platform] | None,
        typer.Option("--platform", help="Where to boot it (repeatable)."),
    ] = None,
    vmcore: Annotated[
        Path | None,
        typer.Option(
            "--vmcore",
            metavar="FILE",
            help="Read this dump of a machine that ran the kernel; boot nothing.",
        ),
    ] = None,
    kaslr: options.KaslrOption = False,
    smp: options.SmpOption = 1,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    qemu: options.QemuOption = None,
    xen: options.XenOption = None,
    cpu: options.CpuOption = None,
    append: options.AppendOption = "",
    xen_args: options.XenArgsOption = "",
    timeout: options.TimeoutOption = None,
    seed: options.SeedOption = 0,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Read a running kernel's text, or a dump's; predict every byte of it.

    It is booted to the end of its init. A byte that is not as predicted is a finding. Of a
    dump each sleeping task is unwound, too: by the table and, where it is installed, with
    drgn. The second table has the platforms
    side by side: the bytes that each step of patching explains, the variants that won.
    """
    started = datetime.now(UTC)
    wanted = platform or [Platform.NATIVE]
    tools: dict[str, str] = {}
    with board() as lines:
        if vmcore is not None:
            if len(builds) != 1 or platform:
                raise UserError("--vmcore takes one build, and no --platform")
            line = lines(vmcore.name)
            stages = [readback.stage_dump(vmcore, builds[0], line)]
            stages.append(third.stage(vmcore, builds[0], stages[0], line))
        else:
            config = options.machine_config(
                qemu, xen, cpu, append, xen_args, kaslr, smp, timeout
            )
            request = matrix.Request(
                runtime=runtime.value,
                machine=config,
                seed=seed,
            )
            stages, tools = matrix.read_back_builds(
                request, pairs(builds, wanted), lines
            )
    named = ", ".join(map(str, builds))
    result = run_result("readback", named, stages, started=started, tools=tools)
    show(result, output)
    raise typer.Exit(result.exit_code)


def pairs(builds: list[Path], platforms: list[Platform]) -> list[tuple[Path, Platform]]:
    """Return which build boots on which platform.

    Raises:
        UserError: they do not pair.
    """
    if len(builds) == 1:
        builds = builds * len(platforms)
    if len(builds) != len(platforms):
        raise UserError(
            f"{len(builds)} builds for {len(platforms)} platforms",
            hint="give one build per --platform, in the same order, or one for all",
        )
    return list(zip(builds, platforms, strict=True))

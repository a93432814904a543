"""``orc-harness doctor``: what can this machine do?"""

from __future__ import annotations

import typer
from rich.table import Table

from harness import doctor
from harness.cli import options
from harness.cli.console import OUT
from harness.errors import ExitCode


def command(
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Tell what this machine can and cannot do, why, and the command that mends it.

    Exits with 3 when the main job cannot run here.
    """
    checks = list(doctor.examine(runtime.value))
    if output is options.Format.JSON:
        OUT.out(options.to_json(checks), end="")
    else:
        table = Table("", "for", "seen", "to mend it")
        for check in checks:
            mark = "[green]yes[/green]" if check.good else "[red]no[/red]"
            mend = "" if check.good else check.mend
            table.add_row(f"{mark} {check.name}", check.can, check.seen, mend)
        OUT.print(table)
    ready = all(check.good for check in checks if check.name in doctor.NEEDED)
    raise typer.Exit(ExitCode.CLEAN if ready else ExitCode.INFRASTRUCTURE)

"""``orc-harness report-fp``: a finding as a file that shows it again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.console import OUT
from harness.errors import UserError
from harness.stages import explain
from harness.verify import reproducer


def command(
    key: Annotated[str, typer.Argument(help="The finding's key.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The vmlinux, bzImage, .o or .ko it is in."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where to write it. Default: the key as a file name here."
        ),
    ] = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Cut a finding out of its file as one small reproducer.

    It has the bytes of the function, its unwind entries and alternatives, and what
    else the finding takes, and no more: enough to judge whether the kernel is wrong
    or we are. Attach it to a report.
    """
    made = explain.cut_out(key, file)
    path = to or Path(re.sub(r"[^A-Za-z0-9]+", "-", made.key).strip("-") + ".json")
    data = reproducer.dump(made)
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise UserError(f"cannot write {path}: {exc.strerror}") from exc
    if output is options.Format.JSON:
        OUT.out(data.decode(), end="")
        return
    code = sum(len(s.data) // 2 for s in made.sections if s.executable)
    OUT.print(f"wrote {path}: {code} bytes of code of {made.finding.location}")

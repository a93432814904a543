"""``orc-harness extract``: what is in a kernel file, as columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness import kernel_build
from harness.cli import options
from harness.cli.console import OUT
from harness.stages import extract


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUILD_DIR|FILE...",
            help="Kernel builds, vmlinux, bzImage, .o or .ko[.xz|.zst|.gz] files.",
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Write each file unpacked, and its columns as NAME.npz, below this.",
        ),
    ] = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Show the ORC format, tables and patch sites of kernel files; or save them."""
    files = [file for path in paths for file in kernel_build.find(path).files]
    extracts = [extract.extract(file, directory) for file in files]
    if output is options.Format.JSON:
        OUT.out(options.to_json(extracts), end="")
        return
    for found in extracts:
        OUT.print(f"{found.name}: {found.summary}", markup=False)
        for note in found.notes:
            OUT.print(f"  note: {note}", markup=False)

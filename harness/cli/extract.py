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
            help="Save the sections and tables of each file as NAME.npz below this.",
        ),
    ] = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Show the ORC format, tables and patch sites of kernel files; or save them."""
    extracts = [
        extract.extract(file, _target(build, file, directory))
        for build in map(kernel_build.find, paths)
        for file in build.files
    ]
    if output is options.Format.JSON:
        OUT.out(options.to_json(extracts), end="")
        return
    for found in extracts:
        OUT.print(f"{found.name}: {found.summary}", markup=False)
        for note in found.notes:
            OUT.print(f"  note: {note}", markup=False)


def _target(
    build: kernel_build.KernelBuild, file: Path, directory: Path | None
) -> Path | None:
    if directory is None:
        return None
    inside = file.relative_to(build.root) if file != build.root else Path(file.name)
    return directory / inside.with_name(f"{inside.name}.npz")

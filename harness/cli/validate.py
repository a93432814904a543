"""``orc-harness validate``: is the ORC of what somebody built right?"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from harness import allowance, kernel_build
from harness.cli import options, saved
from harness.cli.console import board
from harness.progress import Progress
from harness.result import Stage, StageResult, run_result
from harness.stages import validate
from harness.stages.guard import guard, skipped


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUILD_DIR|FILE...",
            help="Kernel builds, vmlinux, bzImage, .o or .ko[.xz|.zst|.gz] files.",
        ),
    ],
    jobs: options.JobsOption = None,
    known: options.KnownOption = None,
    vmlinux: Annotated[
        Path | None,
        typer.Option(help="The kernel of the modules, where it is not among them."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Validate again what was validated.")
    ] = False,
    dwarf: Annotated[
        bool,
        typer.Option("--dwarf", help="Ask the compiler's .debug_frame, too."),
    ] = False,
    store: options.StoreOption = None,
    baseline: options.BaselineOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Validate ORC against every alternative: no Docker, no source tree needed.

    A directory is searched for vmlinux, vmlinux.o, modules, .config and
    cpufeatures.h, as any kernel build leaves them. /boot/vmlinuz-* and /lib/modules/*
    are joined by their release, and need no debug packages. A file that was validated
    before, as it is now and by the same code, gets the verdict that it got then.
    """
    builds, without = kernel_build.find_each(paths)
    roots = [*(build.root for build in builds), *without]
    names = kernel_build.told_apart({root: root.absolute().name for root in roots})
    started = datetime.now(UTC)
    saved.check(store)
    base = saved.Base(baseline, store)
    workers = jobs or allowance.jobs()
    with board() as lines:

        def stage(build: kernel_build.KernelBuild) -> StageResult:
            name = names[build.root]
            return guard(
                Stage.VALIDATE,
                name,
                lambda: validate.stage(
                    build,
                    name,
                    workers,
                    _ready(lines(name)),
                    known_in=known or (),
                    archived=not no_cache,
                    dwarf=dwarf,
                    vmlinux=vmlinux,
                ),
            )

        result = run_result(
            "validate",
            ", ".join(str(path.absolute()) for path in paths),
            [
                *map(stage, builds),
                *(skipped(Stage.VALIDATE, names[p], why) for p, why in without.items()),
            ],
            started=started,
        )
    from harness.cli.outcome import conclude

    judged = conclude(result, output, base=base, store=store)
    raise typer.Exit(judged.exit_code)


def _ready(line: Progress) -> Progress:
    """Return ``line``, which imports what prints the result: by then others work."""

    def told(what: str, done: int = 0, total: int | None = None) -> None:
        line(what, done, total)
        importlib.import_module("harness.cli.outcome")

    return told

"""``orc-harness matrix``: versions x variants x toolchains x options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from harness import allowance
from harness.cells import cluster as clusters
from harness.cells import local
from harness.cells import night as nights
from harness.cells.cell import MATRIX, Cell, choose, read
from harness.cells.cluster import Cluster
from harness.cells.kept import Kept
from harness.cells.need import Need, of_build, of_cell, of_machine
from harness.cells.work import Built, Maker, Terms
from harness.cli import options, saved
from harness.cli.console import ERR, OUT, board
from harness.cli.outcome import conclude
from harness.errors import ExitCode, HarnessError
from harness.progress import silent
from harness.report import folder


class Planned(Struct, frozen=True):
    """What would become of one cell.

    Attributes:
        kernel: ``kept``, ``to build`` or ``unknown`` (its image is not made yet).
        result: ``kept`` or ``to make``.
        build, guest: what they take.
    """

    cell: str
    toolchain: str
    source: str
    kernel: str
    result: str
    build: Need
    guest: Need


def names(incomplete: str) -> list[str]:
    """Return the cells of the default matrix that begin so, for completion."""
    return [one.name for one in read() if one.name.startswith(incomplete)]


def command(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CELL]...",
            help="Cells by name, * for any letters. Default: all but the nightly ones.",
            show_default=False,
            autocompletion=names,
        ),
    ] = None,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="The nightly ones, too.")
    ] = False,
    matrix: Annotated[
        Path, typer.Option("--matrix", help="The file that lists them.")
    ] = MATRIX,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only tell: what is kept, what would be made, what it takes."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Answer nothing from an earlier night.")
    ] = False,
    tree: options.TreeOption = None,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    seed: options.SeedOption = 0,
    report: options.ReportOption = options.REPORT,
    store: options.StoreOption = None,
    baseline: options.BaselineOption = None,
    output: options.FormatOption = options.Format.TEXT,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="URL",
            help="On the workers of a dask scheduler: tcp://host:8786, or tls://.",
            show_default=False,
        ),
    ] = None,
    artifacts: Annotated[
        str,
        typer.Option(
            "--artifacts",
            metavar="URL",
            help="With --scheduler: where machines leave kernels and results for each "
            "other; a directory, or s3://bucket/prefix.",
            show_default=False,
        ),
    ] = "",
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="Who is trusted.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="Who we are.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="The key of that.")
    ] = None,
) -> None:
    """Run the matrix of kernels and machines; make only the cells that changed.

    A cell is a kernel on a machine. Its result is kept under the hash of all that it
    depends on: the next night answers it from there, unless something has changed. A
    run that was killed goes on where it was. What fails for want of a machine is tried
    once more on a fresh one; both results are kept.
    """
    chosen = choose(read(matrix), cells or (), nightly=nightly)
    workers = jobs or allowance.jobs()
    if plan:
        terms = Terms("", tree, runtime.value, workers, seed, again)
        _show_plan(_planned(Maker(terms, lambda _: silent), chosen), output)
        raise typer.Exit(ExitCode.CLEAN)
    folder.prepare(report)
    saved.check(store)
    base = saved.Base(baseline, store)
    cluster = None
    if scheduler:
        cluster = Cluster(scheduler, artifacts, tls_ca, tls_cert, tls_key)
        cluster.check()
        if cluster.open_to_all:
            _say(
                f"note: {scheduler} is not encrypted: who reaches it can run code there"
            )
    asked = nights.question(
        chosen, tree=tree and tree.absolute(), runtime=runtime, seed=seed, again=again
    )
    with nights.night(asked) as tonight:
        if tonight.resumed:
            _say(f"going on with the run {tonight.name}, which was not finished")
        terms = Terms(tonight.name, tree, runtime.value, workers, seed, again)
        kept = _make(terms, chosen, cluster)
        _say(_counted(kept, tonight.name))
        for path in nights.write_attempts(kept, report):
            _say(f"tried twice, and both results are kept: {path}")
        label = "matrix" if matrix == MATRIX else f"matrix {matrix.stem}"
        label += f" of {tree.absolute()}" if tree else ""  # each has its own history
        result = nights.result(tonight, kept, chosen, label)
        judged = conclude(result, output, base=base, store=store, report=report)
    raise typer.Exit(judged.exit_code)


def _say(line: str) -> None:
    ERR.print(line, markup=False)


def _make(terms: Terms, chosen: Sequence[Cell], cluster: Cluster | None) -> list[Kept]:
    with board() as lines:
        done = 0
        overall = lines("matrix")

        def on_kept(kept: Kept) -> None:
            nonlocal done
            done += 1
            overall(f"{kept.name}: finished", done, len(chosen))

        if cluster is None:
            return local.run(Maker(terms, lines), chosen, terms.jobs, on_kept)
        try:
            return clusters.run(cluster, terms, chosen, on_kept, lines("workers"))
        except KeyboardInterrupt:
            _say(
                f"note: the workers of {cluster.address} go on with what they have "
                "begun, to its end; the rest is cancelled"
            )
            raise


def _counted(kept: Sequence[Kept], night: str) -> str:
    made = sum(one.night == night for one in kept)
    return (
        f"{len(kept)} cells: {made} made in this run, {len(kept) - made} unchanged, "
        "answered from the cache"
    )


def _planned(maker: Maker, chosen: Sequence[Cell]) -> list[Planned]:
    planned: list[Planned] = []
    unknown: dict[str, None] = {}
    for group in local.groups(chosen):
        try:
            known = maker.known(group)
        except HarnessError as exc:
            known = None
            unknown[str(exc)] = None
        planned += (_plan_of(maker, cell, known) for cell in group)
    for why in unknown:
        _say(f"note: {why}")
    return planned


def _plan_of(maker: Maker, cell: Cell, known: tuple[Built, bool] | None) -> Planned:
    wanted = cell.build
    answered = known is not None and cell.name in known[0].answers
    kernel = "unknown" if known is None else "kept" if known[1] else "to build"
    return Planned(
        cell.name,
        wanted.toolchain,
        str(maker.terms.tree or wanted.package),
        kernel,
        "kept" if answered else "to make",
        of_build(wanted, maker.terms.jobs),
        of_cell(cell),
    )


def _show_plan(planned: Sequence[Planned], output: options.Format) -> None:
    if output is options.Format.JSON:
        OUT.out(options.to_json(planned), end="")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in ("cell", "toolchain", "kernel", "result"):
        table.add_column(title, no_wrap=True)
    for title in ("build MB", "guest MB"):
        table.add_column(title, justify="right")
    for one in planned:
        row = (one.cell, one.toolchain, one.kernel, one.result)
        memory = (one.build.memory_mb, one.guest.memory_mb)
        table.add_row(*row, *map(str, memory))
    OUT.print(table)
    OUT.print(f"this machine has {of_machine()}", markup=False)

"""``orc-harness corpus``: is what is wrong on purpose found?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from harness import allowance, kernel_build, matrix
from harness.artifacts import Store, load
from harness.cache import cache_dir
from harness.cli import booted, executed, options
from harness.cli.console import OUT, board
from harness.cli.outcome import show
from harness.container.engine import connect
from harness.container.job import Engine
from harness.corpus import built, measure, objects, score, shipped
from harness.corpus.classes import Zone, chosen, zones
from harness.corpus.garden import Grown, grow, tally
from harness.corpus.plant import Plant, is_planted, read_plants
from harness.errors import ExitCode, UserError
from harness.kernel_build import KernelBuild
from harness.progress import Progress
from harness.result import StageResult, run_result
from harness.variant import Platform

COUNT = 100
TIMEOUT_S = 3600.0
Wanted = TypeVar("Wanted", shipped.Kernel, built.Build)


def command(
    build: Annotated[
        Path | None,
        typer.Option(
            "--of",
            metavar="BUILD",
            help="Spoil this kernel build or file. Default: the smallest in the store.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The first mutant's number.")] = 0,
    count: Annotated[
        int, typer.Option("--count", help="Mutants of each class and zone.")
    ] = COUNT,
    group: Annotated[
        str,
        typer.Option(
            "--class",
            help="Only this class or group (orc, text, ...), plant, kernel or build.",
        ),
    ] = "",
    zone: Annotated[
        Zone | None, typer.Option("--zone", help="Only mutants drawn there.")
    ] = None,
    plants: Annotated[
        bool, typer.Option("--plants", help="Grow the source plants instead.")
    ] = False,
    handmade: Annotated[
        bool, typer.Option("--objects", help="Judge the hand-made objects instead.")
    ] = False,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="Validate kernels of Debian's mirror instead."),
    ] = False,
    builds: Annotated[
        bool,
        typer.Option(
            "--builds", help="Build and validate other versions and toolchains instead."
        ),
    ] = False,
    boots: Annotated[
        bool,
        typer.Option(
            "--boots",
            help="Build other versions and mitigations, boot them and prove them there "
            "instead.",
        ),
    ] = False,
    executed_: Annotated[
        bool,
        typer.Option(
            "--executed",
            help="Boot the build with --count wrong entries that it executes instead.",
        ),
    ] = False,
    nightly: Annotated[
        bool,
        typer.Option("--nightly", help="With --kernels, --builds or --boots: all."),
    ] = False,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Deadline of the mutants, in seconds.")
    ] = TIMEOUT_S,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Measure the verifier: mutants of a kernel, plants in its source, objects.

    Exits with 1 where recall or precision is less than what is asked for.
    """
    workers = jobs or allowance.jobs()
    if plants:
        code = _plants(_named(group), runtime.value, workers, output)
    elif kernels:
        from_mirror = shipped.chosen(group, nightly)
        code = _silent(
            "Debian's mirror", shipped.judge, from_mirror, runtime, workers, output
        )
    elif builds:
        of_ours = built.chosen(group, nightly)
        code = _silent("our builds", built.judge, of_ours, runtime, workers, output)
    elif boots:
        code = booted.command(group, nightly, seed, workers, runtime, output)
    elif handmade:
        code = _objects(runtime.value, workers, output)
    elif executed_:
        found = kernel_build.find(build) if build else _stored()
        code = executed.command(found, seed, count, runtime, output)
    else:
        wanted = [
            measure.Wanted(one.name, place, number)
            for number in range(seed, seed + count)
            for one in chosen(group)
            for place in zones(one)
            if zone in (None, place)
        ]
        code = _mutants(build, wanted, workers, timeout, output)
    raise typer.Exit(code)


def _named(pattern: str) -> list[Plant]:
    """Return the plants whose name begins with ``pattern``.

    Raises:
        UserError: there is none.
    """
    plants = read_plants()
    if found := [plant for plant in plants if plant.name.startswith(pattern)]:
        return found
    names = ", ".join(plant.name for plant in plants)
    raise UserError(f"no plant {pattern}", hint=f"there are {names}")


def _mutants(
    build: Path | None,
    wanted: list[measure.Wanted],
    jobs: int,
    timeout_s: float,
    output: options.Format,
) -> ExitCode:
    found = kernel_build.find(build) if build else _stored()
    paths = (*found.kernels, *found.modules) or found.files
    started = time.monotonic()
    with board() as lines:
        progress = lines("corpus")
        progress("validating the clean kernel")
        alarms = measure.new_findings(measure.read_subjects(paths))
        outcomes = measure.measure(
            paths, wanted, jobs=jobs, timeout_s=timeout_s, progress=progress
        )
    result = score.Result(
        subjects=tuple(map(str, paths)),
        seconds=round(time.monotonic() - started, 1),
        false_alarms=tuple(finding.key for finding in alarms),
        scores=tuple(score.score(outcomes)),
        missed=tuple(outcome for outcome in outcomes if outcome.missed),
        unfinished=len(wanted) - len(outcomes),
    )
    if output is options.Format.JSON:
        OUT.out(options.to_json(result), end="")
    else:
        OUT.print(_recall(result))
        for line in _misses(result):
            OUT.print(line, markup=False)
    return result.exit_code


def _stored() -> KernelBuild:
    """Find the smallest native kernel in the store, plants apart.

    Raises:
        UserError: there is none.
    """
    store = Store(cache_dir() / "store")
    builds = [load(store.root / key) for key in sorted(store.keys())]
    clean = [
        build
        for build in builds
        if build.manifest.variant == Platform.NATIVE
        and not is_planted(build.manifest.tree)
    ]
    if not clean:
        raise UserError(
            "there is no native kernel in the store",
            hint="orc-harness build --variant native makes one; or --of BUILD",
        )
    smallest = min(clean, key=lambda build: build.vmlinux.stat().st_size)
    return kernel_build.find(smallest.directory)


def _recall(result: score.Result) -> Table:
    table = Table(
        "class", "zone", "made", "found", "equivalent", "missed", "recall", ""
    )
    for one in result.scores:
        equivalent = sum(one.equivalent.values())
        missed = one.made - one.detected - equivalent
        mark = "" if one.wanted is None else "met" if one.met else "NOT MET"
        style = "red" if not one.met else None
        table.add_row(
            one.name,
            one.zone,
            str(one.made),
            str(one.detected),
            str(equivalent),
            str(missed),
            f"{one.recall:.1%}",
            mark,
            style=style,
        )
    return table


def _misses(result: score.Result) -> Iterator[str]:
    for one in result.scores:
        seen = ", ".join(f"{rule} {n}" for rule, n in one.detectors.items())
        yield f"{one.name} ({one.zone}): {seen or 'nobody'}"
    for outcome in result.missed:
        yield f"missed {outcome.place}: {outcome.what} {outcome.error}".rstrip()
        yield f"  orc-harness corpus {outcome.wanted.command}"
    for key in result.false_alarms:
        yield f"false alarm on the clean kernel: {key}"
    if result.unfinished:
        yield f"{result.unfinished} mutants were not tried before the deadline"
    made = sum(one.made for one in result.scores)
    alarms = len(result.false_alarms)
    yield (
        f"{made} mutants in {result.seconds:.0f} s, {len(result.missed)} missed, "
        f"{alarms} false alarms"
    )


def _plants(
    plants: list[Plant], runtime: str, jobs: int, output: options.Format
) -> ExitCode:
    with board() as lines:
        request = matrix.Request(runtime=runtime, jobs=jobs)
        with matrix.workshop(request, lines) as shop:
            grown = grow(shop, plants, jobs, lines)
    if output is options.Format.JSON:
        OUT.out(options.to_json(grown), end="")
    else:
        OUT.print(_garden(plants, grown))
        for one in grown:
            if one.error:
                OUT.print(f"{one.plant}: {one.error}", markup=False)
        OUT.print(tally(grown))
    good = all(one.good for one in grown)
    return ExitCode.CLEAN if good else ExitCode.FINDINGS


def _garden(plants: Sequence[Plant], grown: Sequence[Grown]) -> Table:
    table = Table()
    for title in ("plant", "objtool", "seen by", "ours", "place", "blame", "s", ""):
        table.add_column(title, overflow="fold")  # names are told whole
    for plant, one in zip(plants, grown, strict=True):
        found = one.findings[: 1 if one.found else 0]
        blame = one.findings[0].blame.partition(":")[0] if found else ""
        if plant.static and not one.blamed:
            blame = f"{blame} (not {plant.blame})"
        table.add_row(
            plant.name,
            "noisy" if one.objtool else "silent" if one.directory else "",
            ", ".join(stage for stage, count in one.seen.items() if count),
            ", ".join(finding.rule for finding in found),
            ", ".join(str(finding.location) for finding in found),
            blame,
            f"{one.seconds:.0f}",
            one.mark,
            style=None if one.good else "red",
        )
    return table


def _silent(
    origin: str,
    judge: Callable[[Engine, Wanted, int, Progress], StageResult],
    wanted: Sequence[Wanted],
    runtime: options.Runtime,
    jobs: int,
    output: options.Format,
) -> ExitCode:
    started = datetime.now(UTC)
    with board() as lines, connect(runtime.value) as engine:
        engine.reap()
        stages = [judge(engine, one, jobs, lines(one.name)) for one in wanted]
    result = run_result("kernels", origin, stages, started=started)
    show(result, output)
    if output is options.Format.TEXT:
        for stage in stages:
            for note in stage.notes:
                OUT.print(f"{stage.variant}: {note}", markup=False)
    return result.exit_code


def _objects(runtime: str, jobs: int, output: options.Format) -> ExitCode:
    with board() as lines:
        request = matrix.Request(runtime=runtime, jobs=jobs)
        with matrix.workshop(request, lines) as shop:
            judged = objects.judge(shop, lines("objects"))
    if output is options.Format.JSON:
        OUT.out(options.to_json(judged), end="")
    else:
        table = Table("object", "class", "objtool", "orc-harness", "")
        for one in judged:
            said = "\n".join(one.objtool) or one.expected.objtool.value
            ours = "\n".join(sorted({f.rule for f in one.findings})) or "clean"
            mark = "" if one.good else "NOT AS EXPECTED"
            table.add_row(one.name, one.expected.conflict, said, ours, mark)
        OUT.print(table)
    good = all(one.good for one in judged)
    return ExitCode.CLEAN if good else ExitCode.FINDINGS

"""``orc-harness bisect``: which commit made a finding."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.bisect import request as requests
from harness.bisect.letter import letter
from harness.bisect.oracle import Oracle
from harness.bisect.question import LINKED
from harness.cli import options
from harness.cli import oracle as oracles
from harness.cli.console import ERR, OUT, board
from harness.errors import ExitCode, UserError
from harness.variant import Platform, Variant, from_config, variant

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="vmlinux|PATH.o",
        help="The least that shows the finding: an object takes a second to build.",
    ),
]
OneVariantOption = Annotated[
    Platform, typer.Option("--variant", help="Which variant to build.")
]
OneConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE[:PLATFORM]",
        help="A whole .config instead of a variant.",
        show_default=False,
    ),
]
ToolchainsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--toolchain",
        help="Toolchain image; repeatable: the first that builds a commit is taken.",
        show_default="bookworm",
    ),
]


def command(
    tree: Annotated[
        Path, typer.Option("--tree", help="Kernel source, with its git history.")
    ],
    good: Annotated[
        str, typer.Option("--good", help="A commit that has not the finding.")
    ],
    bad: Annotated[
        str, typer.Option("--bad", help="A commit that has it, made on the good one.")
    ] = "HEAD",
    finding: Annotated[
        str,
        typer.Option(
            "--finding",
            metavar="KEY",
            help="Its key. Default: the first that is new at the bad end.",
            show_default=False,
        ),
    ] = "",
    target: TargetOption = LINKED,
    oracle: oracles.OracleOption = oracles.Who.VALIDATE,
    boots: oracles.BootsOption = oracles.BOOTS,
    confidence: oracles.ConfidenceOption = oracles.CONFIDENCE,
    rate: oracles.RateOption = 0.0,
    seed: oracles.SeedOption = 0,
    platform: OneVariantOption = Platform.NATIVE,
    profile: options.ProfileOption = options.Profile.SMALL,
    fragment: options.FragmentOption = None,
    config: OneConfigOption = None,
    toolchain: ToolchainsOption = None,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the same bisection was stopped."),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            metavar="FILE",
            help="Believe the answers that `git bisect log` wrote.",
            show_default=False,
        ),
    ] = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Find the commit that made a finding; write a report that can be mailed.

    Both ends are proved first. The tree is only read. What was answered is on the
    disk at once: after a kill, or Ctrl-C, go on with --resume.

    With --oracle readback, compare or shadow each kernel is booted, as often as it
    takes to be sure: at first --boots times at the bad end, to know how often the
    finding shows.
    """
    asked = oracles.asked(oracle, target, boots, confidence, rate, seed)
    wanted = request(
        tree, finding, target, chosen(platform, profile, fragment, config), toolchain,
        asked, runtime, jobs,
    )  # fmt: skip
    room = requests.find_room(tree)
    if dirty := room.repository.dirty():
        note = f"note: {len(dirty)} changed files are in no commit: not looked at"
        ERR.print(note, markup=False)
    with board() as lines:
        found = requests.bisect(wanted, good, bad, lines, resume=resume, log=replay)
    if output is options.Format.JSON:
        OUT.out(options.to_json(found), end="")
    else:
        again = shlex.join(["orc-harness", *sys.argv[1:]])
        step = ["orc-harness", "bisect-step", "--finding", found.sought.key]
        step += oracles.words(asked, found.answers)
        step += _shared(target, platform, profile, fragment, config, toolchain)
        about = room.repository.about
        OUT.out(letter(found, about, again, shlex.join(step)), end="")
    if not found.found:
        raise typer.Exit(ExitCode.FINDINGS)


def request(
    tree: Path,
    finding: str,
    target: str,
    built: Variant,
    toolchain: list[str] | None,
    oracle: Oracle,
    runtime: options.Runtime,
    jobs: int | None,
) -> requests.Request:
    """Return what the options of both commands ask for.

    Raises:
        UserError: the target is nothing that can be built and judged alone.
    """
    require_target(target)
    usual = requests.Request(tree, built)
    return requests.Request(
        tree,
        built,
        finding,
        target,
        tuple(toolchain or usual.toolchains),
        oracle,
        runtime.value,
        jobs or usual.jobs,
    )


def require_target(target: str) -> None:
    """Raise UserError unless ``target`` can be built and judged alone."""
    if target != LINKED and not _is_object(target):
        raise UserError(
            f"--target {target} is neither vmlinux nor an object",
            hint="name an object by its path in the tree, such as lib/hweight.o",
        )


def _is_object(target: str) -> bool:
    path = Path(target)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and path.suffix == ".o" and path.name != "vmlinux.o"


def chosen(
    platform: Platform,
    profile: options.Profile,
    fragment: list[Path] | None,
    config: str | None,
) -> Variant:
    """Return the one variant that the options ask for."""
    if config is not None:
        ((path, where),) = options.configs([config])
        return from_config(path, where)
    return variant(platform, profile.value, fragment or ())


def _shared(
    target: str,
    platform: Platform,
    profile: options.Profile,
    fragment: list[Path] | None,
    config: str | None,
    toolchain: list[str] | None,
) -> list[str]:
    """Return the options that ``bisect-step`` takes to build the same."""
    words = ["--target", target]
    if config is None:
        words += ["--variant", platform.value, "--profile", profile.value]
    else:
        words += ["--config", str(Path(config).absolute())]
    for path in fragment or ():
        words += ["--fragment", str(path.absolute())]
    for name in toolchain or ():
        words += ["--toolchain", name]
    return words

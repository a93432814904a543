"""``orc-harness config-bisect``: which Kconfig options make a finding."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.bisect.config import request as requests
from harness.bisect.config.letter import letter
from harness.bisect.config.request import ConfigRequest
from harness.bisect.oracle import Oracle
from harness.bisect.question import LINKED
from harness.build.tree import PACKAGE
from harness.cli import bisect, options
from harness.cli import oracle as oracles
from harness.cli.console import OUT, board
from harness.errors import ExitCode
from harness.variant import Platform

PlatformOption = Annotated[
    Platform,
    typer.Option("--platform", help="The platform that a whole .config is for."),
]
ToolchainOption = Annotated[
    str, typer.Option("--toolchain", help="Toolchain image that configures and builds.")
]
_TOOLCHAIN = "bookworm"


def command(
    good: Annotated[
        str,
        typer.Option(
            "--good",
            metavar="CONFIG",
            help="Without the finding: a .config, or a variant and fragments: "
            "native+my.config",
        ),
    ],
    bad: Annotated[
        str,
        typer.Option("--bad", metavar="CONFIG", help="The same, with the finding."),
    ],
    tree: options.TreeOption = None,
    package: options.PackageOption = PACKAGE,
    finding: Annotated[
        str,
        typer.Option(
            "--finding",
            metavar="KEY",
            help="Its key. Default: the first that is new with the bad configuration.",
            show_default=False,
        ),
    ] = "",
    target: bisect.TargetOption = LINKED,
    oracle: oracles.OracleOption = oracles.Who.VALIDATE,
    boots: oracles.BootsOption = oracles.BOOTS,
    confidence: oracles.ConfidenceOption = oracles.CONFIDENCE,
    rate: oracles.RateOption = 0.0,
    seed: oracles.SeedOption = 0,
    platform: PlatformOption = Platform.NATIVE,
    profile: options.ProfileOption = options.Profile.SMALL,
    toolchain: ToolchainOption = _TOOLCHAIN,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the same search was stopped."),
    ] = False,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Find the Kconfig options that make a finding; write a report that can be mailed.

    Both ends are completed by the tree's own olddefconfig and proved first. What
    comes out is the fewest options that make the finding when they are set on the
    good configuration, together if it takes more than one.
    """
    asked = oracles.asked(oracle, target, boots, confidence, rate, seed)
    wanted = request(
        tree, package, profile, platform, finding, target, asked, toolchain,
        runtime, jobs,
    )  # fmt: skip
    with board() as lines:
        found = requests.bisect(wanted, good, bad, lines, resume=resume)
    if output is options.Format.JSON:
        OUT.out(options.to_json(found), end="")
    else:
        again = shlex.join(["orc-harness", *sys.argv[1:]])
        step = ["orc-harness", "config-bisect-step", "--config", "CONFIG"]
        step += ["--finding", found.sought.key, "--target", target]
        step += oracles.words(asked, found.answers)
        step += ["--tree", str(tree)] if tree else ["--package", package]
        step += ["--platform", platform.value, "--profile", profile.value]
        step += ["--toolchain", toolchain]
        OUT.out(letter(found, again, shlex.join(step)), end="")
    if not found.found:
        raise typer.Exit(ExitCode.FINDINGS)


def request(
    tree: Path | None,
    package: str,
    profile: options.Profile,
    platform: Platform,
    finding: str,
    target: str,
    oracle: Oracle,
    toolchain: str,
    runtime: options.Runtime,
    jobs: int | None,
) -> ConfigRequest:
    """Return what the options of both commands ask for.

    Raises:
        UserError: the target is nothing that can be built and judged alone.
    """
    bisect.require_target(target)
    return ConfigRequest(
        tree,
        package,
        profile.value,
        platform,
        finding,
        target,
        oracle,
        toolchain,
        runtime.value,
        jobs or ConfigRequest().jobs,
    )

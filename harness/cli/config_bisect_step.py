"""``orc-harness config-bisect-step``: one configuration's answer, as an exit code."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.bisect.config import request as requests
from harness.bisect.question import LINKED
from harness.build.tree import PACKAGE
from harness.cli import bisect, config_bisect, options
from harness.cli import oracle as oracles
from harness.cli.app import Answered
from harness.cli.bisect_step import EXIT
from harness.cli.console import OUT, board
from harness.variant import Platform


def command(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="CONFIG",
            help="A .config, or a variant and fragments: native+my.config",
        ),
    ],
    finding: Annotated[
        str, typer.Option("--finding", metavar="KEY", help="The finding's key.")
    ],
    tree: options.TreeOption = None,
    package: options.PackageOption = PACKAGE,
    target: bisect.TargetOption = LINKED,
    oracle: oracles.OracleOption = oracles.Who.VALIDATE,
    boots: oracles.BootsOption = oracles.BOOTS,
    seed: oracles.SeedOption = 0,
    platform: config_bisect.PlatformOption = Platform.NATIVE,
    profile: options.ProfileOption = options.Profile.SMALL,
    toolchain: config_bisect.ToolchainOption = "bookworm",
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Say whether one configuration has a finding, by the exit code.

    Exits with 0 if it has not, 1 if it has, 125 if nobody can tell (it does not
    build). Whatever else happens ends with 128: a broken host makes none bad.
    """
    asked = oracles.asked(oracle, target, boots, oracles.CONFIDENCE, 0, seed)
    wanted = config_bisect.request(
        tree, package, profile, platform, finding, target, asked, toolchain,
        runtime, jobs,
    )  # fmt: skip
    with board() as lines:
        answer = requests.step(wanted, config, lines)
    if output is options.Format.JSON:
        OUT.out(options.to_json(answer), end="")
    else:
        reason = f": {answer.reason}" if answer.reason else ""
        OUT.print(f"{config} is {answer.outcome}{reason}", markup=False)
    raise Answered(EXIT[answer.outcome])

"""``orc-harness bisect-step``: one commit's answer, for ``git bisect run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.bisect import request as requests
from harness.bisect.answer import Outcome
from harness.bisect.question import LINKED
from harness.cli import bisect, options
from harness.cli import oracle as oracles
from harness.cli.app import Answered
from harness.cli.console import OUT, board
from harness.variant import Platform

# git bisect run: 1 to 124 and 126, 127 are bad, 125 is a skip, 128 and above abort.
EXIT = {Outcome.GOOD: 0, Outcome.BAD: 1, Outcome.SKIP: 125}


def command(
    finding: Annotated[
        str, typer.Option("--finding", metavar="KEY", help="The finding's key.")
    ],
    tree: Annotated[
        Path, typer.Option("--tree", help="The tree that git bisect checks out.")
    ] = Path(),
    target: bisect.TargetOption = LINKED,
    oracle: oracles.OracleOption = oracles.Who.VALIDATE,
    boots: oracles.BootsOption = oracles.BOOTS,
    seed: oracles.SeedOption = 0,
    platform: bisect.OneVariantOption = Platform.NATIVE,
    profile: options.ProfileOption = options.Profile.SMALL,
    fragment: options.FragmentOption = None,
    config: bisect.OneConfigOption = None,
    toolchain: bisect.ToolchainsOption = None,
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Say whether the commit that is checked out has a finding: git bisect run this.

    Exits with 0 if it has not, 1 if it has, 125 if nobody can tell (it does not
    build). Whatever else happens ends with 128, at which git bisect stops: a broken
    host makes no commit bad.
    """
    built = bisect.chosen(platform, profile, fragment, config)
    asked = oracles.asked(oracle, target, boots, oracles.CONFIDENCE, 0, seed)
    wanted = bisect.request(
        tree, finding, target, built, toolchain, asked, runtime, jobs
    )
    with board() as lines:
        answer = requests.step(wanted, lines)
    if output is options.Format.JSON:
        OUT.out(options.to_json(answer), end="")
    else:
        reason = f": {answer.reason}" if answer.reason else ""
        OUT.print(f"{answer.commit[:12]} is {answer.outcome}{reason}", markup=False)
    raise Answered(EXIT[answer.outcome])

"""Oracle: the options that say who is asked, and how sure the answer has to be."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Annotated

import typer
from msgspec.structs import replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.oracle import Oracle
from harness.bisect.question import LINKED
from harness.bisect.quorum import Quorum
from harness.errors import UserError
from harness.result import Stage


class Who(enum.StrEnum):
    """Who can be asked whether a kernel has a finding."""

    VALIDATE = "validate"
    READBACK = "readback"
    COMPARE = "compare"
    SHADOW = "shadow"


OracleOption = Annotated[
    Who,
    typer.Option(
        "--oracle",
        help="Who says whether it is there: the validator, or one that boots the kernel.",
    ),
]
BootsOption = Annotated[
    int,
    typer.Option(
        "--boots",
        min=1,
        help="Boots of the bad end, which tell how often it shows; bisect-step: boots "
        "without it that make a kernel good.",
    ),
]
ConfidenceOption = Annotated[
    float,
    typer.Option(
        "--confidence",
        min=0.5,
        max=0.9999,
        help="How sure the whole conclusion of boots has to be.",
    ),
]
RateOption = Annotated[
    float,
    typer.Option(
        "--rate",
        min=0.0,
        max=1.0,
        help="How often a bad kernel shows it, if you know: 1 is at each boot. 0: "
        "measure it.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Where the sampling of the first boot starts.")
]
BOOTS = 10
CONFIDENCE = 0.95


def asked(
    who: Who, target: str, boots: int, confidence: float, rate: float, seed: int
) -> Oracle:
    """Return the oracle that the options ask for.

    Raises:
        UserError: it boots, and an object does not; or a number is none.
    """
    for option, value in (("--confidence", confidence), ("--rate", rate)):
        if math.isnan(value):  # which is out of no range
            raise UserError(f"{option} nan is no number")
    if who is Who.VALIDATE:
        return Oracle()
    if target != LINKED:
        raise UserError(
            f"--oracle {who} boots a kernel, and --target {target} is an object",
            hint="leave --target out",
        )
    quorum = Quorum(boots, confidence, rate)
    if rate:
        quorum = replace(quorum, looks=quorum.runs(rate, 1))
    return Oracle(Stage(who.value), quorum, seed)


def words(oracle: Oracle, answers: Sequence[Answer]) -> list[str]:
    """Return the options with which a step asks as often as the search did."""
    if oracle.stage is Stage.VALIDATE:
        return []
    goods = [a.runs for a in answers if a.outcome is Outcome.GOOD]
    given = ["--oracle", oracle.stage.value, "--boots", str(max(goods, default=1))]
    return [*given, "--seed", str(oracle.seed)] if oracle.seed else given

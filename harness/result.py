"""Result: what one run came to, stage by stage, with every status kept apart."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from harness.character import spelt
from harness.errors import ExitCode, FormatError, UserError
from harness.finding import Finding, Lines

SCHEMA = "orc-harness/1"
_NAMED = "name the result.json of a run, or the report directory it is in"

T = TypeVar("T")


class Status(enum.StrEnum):
    """How a stage ended. They never stand in for each other."""

    PASS = "PASS"
    FAIL = "FAIL"  # the kernel is wrong: there are new findings
    ERROR = "ERROR"  # we, or the machine, are wrong: no verdict
    MISS = "MISS"  # this machine has not what it takes: no verdict
    SKIP = "SKIP"  # the configuration makes it impossible: no verdict


class Stage(enum.StrEnum):
    """The steps of the main job, in order."""

    BUILD = "build"
    VALIDATE = "validate"
    BOOT = "boot"
    READBACK = "readback"
    COMPARE = "compare"
    SHADOW = "shadow"
    COVERAGE = "coverage"  # one of all variants: what their shadow stages have covered


# Where kernels run, too, and no machine of ours is: a MISS of each run, with its reason.
ELSEWHERE = {
    "pvh": "takes hardware virtualisation below Xen, which QEMU's TCG gives it none of",
    "hvm": "takes hardware virtualisation below Xen, which QEMU's TCG gives it none of",
    "fred": "QEMU's TCG has no CPU with it",
    "tdx": "takes a host CPU and a firmware with it",
}


class Kind(enum.StrEnum):
    """What coverage counts; the stages' counts have these names in them."""

    ENTRIES = "entries"  # of the ORC table, that have a state
    SITES = "sites"  # of alternatives
    TEXTS = "texts"  # of those sites: the original, and each replacement
    FUNCTIONS = "functions"


class StageResult(Struct, frozen=True):
    """One stage of one variant.

    Attributes:
        counts: what was done, by name (``sites``: 2472); printed in this order.
        findings: new ones first; known ones are in ``known``.
        reason: why there is no verdict, for ERROR, MISS and SKIP.
        exit_code: for ERROR, the exit code that the error asks for.
        notes: what a reader should know and need not act on.
        objects: for validate, the files that it judged, by name, sorted.
    """

    stage: Stage
    variant: str
    status: Status
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    known: tuple[Finding, ...] = ()
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    notes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> bool:
        """It says no more than that no machine of ours is for it."""
        return self.status is Status.MISS and self.variant in ELSEWHERE


class RunResult(Struct, frozen=True):
    """One whole run; the JSON document is this class, field by field.

    ``baseline`` is the run whose findings are known in this one, if it was judged
    against one.
    """

    schema: str
    run_id: str
    started: str
    seconds: float
    profile: str
    tree: str
    tools: dict[str, str]
    stages: tuple[StageResult, ...]
    baseline: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """The process's exit code for this result."""
        return exit_code(self.stages)


def exit_code(stages: Iterable[StageResult]) -> ExitCode:
    """Rank the stages: internal over infrastructure over usage over findings.

    A verdict that is missing is worse than a verdict that is bad: a run with an
    ERROR never exits with 1.
    """
    worst = ExitCode.CLEAN
    for stage in stages:
        if stage.status is Status.ERROR:
            worst = max(worst, ExitCode(stage.exit_code or ExitCode.INTERNAL))
        elif stage.status is Status.FAIL:
            worst = max(worst, ExitCode.FINDINGS)
    return worst


def run_result(
    profile: str,
    tree: str,
    stages: Iterable[StageResult],
    *,
    started: datetime,
    tools: dict[str, str] | None = None,
) -> RunResult:
    """Return the result of a run that ``started`` then and ends now."""
    stages = tuple(stages)
    return RunResult(
        schema=SCHEMA,
        run_id=f"{started:%Y%m%dT%H%M%S}-{os.urandom(3).hex()}",
        started=started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
        profile=profile,
        tree=tree,
        tools=tools or {},
        stages=stages,
    )


def dump(result: RunResult) -> bytes:
    """Return ``result`` as indented JSON; findings have their key in it."""
    text = json.dumps(plain(legible(result)), indent=2, ensure_ascii=False)
    return text.encode() + b"\n"


def load(path: Path) -> RunResult:
    """Read a result that :func:`dump` wrote.

    Raises:
        UserError: it cannot be read.
        FormatError: it is not JSON of this schema.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=RunResult)
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}", hint=_NAMED) from exc
    except ValueError as exc:
        raise FormatError(
            f"{path} is no result of {SCHEMA}: {exc}", hint=_NAMED
        ) from exc
    if result.schema != SCHEMA:
        raise FormatError(f"{path} has schema {result.schema}, expected {SCHEMA}")
    return result


def legible(value: T) -> T:
    """Return ``value`` as every document takes it: with odd characters spelt out."""
    return cast("T", _legible(value))


def _legible(value: object) -> object:
    match value:
        case enum.Enum():
            return value
        case str():
            return spelt(value)
        case Struct():
            names = value.__struct_fields__
            return replace(value, **{n: _legible(getattr(value, n)) for n in names})
        case dict():
            return {_legible(key): _legible(each) for key, each in value.items()}
        case Lines():  # nobody may want to see them
            return Lines(lambda: map(spelt, value))
        case list() | tuple():
            return tuple(map(_legible, value))
    return value


def plain(value: object) -> object:
    """Return ``value`` as what JSON has; a finding has its key in it, too."""
    if isinstance(value, Struct):
        names = [*value.__struct_fields__, *["key"] * isinstance(value, Finding)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | Lines):
        return [plain(each) for each in value]
    return value

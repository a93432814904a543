"""Kept: what a cell came to, by all that it depends on; every attempt of it.

A cell is tried once more if the machine let us down. Both attempts are kept. What one of
them found is not lost by the other; where only one came to a verdict, that is it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness import baseline
from harness.errors import ExitCode, InfraError
from harness.history.diff import VERDICTS
from harness.result import Stage, StageResult, Status, plain

ATTEMPTS = 2  # of a build, and of what follows it
_RANKS = {Status.FAIL: 0, Status.PASS: 1, Status.ERROR: 2}  # others after them


class Kept(Struct, frozen=True):
    """One cell's result.

    Attributes:
        key: hash of all that the result depends on.
        name: what the cell was called then.
        night: the run that it was made in.
        attempts: what each came to, the last at the end.
        tools: what the kernel and the machine were made with.
        tree: the source, as people call it.
        host: the machine that it was made on.
    """

    key: str
    name: str
    night: str
    attempts: tuple[tuple[StageResult, ...], ...]
    tools: dict[str, str]
    tree: str = ""
    host: str = ""

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """The verdict, of all attempts."""
        return merged(self.attempts)

    @property
    def final(self) -> bool:
        """Whether another night would come to the same: nothing of it was an error."""
        return all(stage.status is not Status.ERROR for stage in self.stages)


def tried(attempt: Callable[[], list[StageResult]]) -> list[list[StageResult]]:
    """Return what ``attempt`` came to; twice, if the first was the machine's fault."""
    attempts = [attempt()]
    while len(attempts) < ATTEMPTS and any(map(_machine_failed, attempts[-1])):
        attempts.append(attempt())
    return attempts


def _machine_failed(stage: StageResult) -> bool:
    return stage.status is Status.ERROR and stage.exit_code == ExitCode.INFRASTRUCTURE


def merged(attempts: Sequence[Sequence[StageResult]]) -> tuple[StageResult, ...]:
    """Return one result per stage: what was found, else what was judged.

    Where nothing was, an error is what it came to: the other attempt may have left
    the stage out only because it failed before. It says in its notes what became of
    the others; of equals the last counts.
    """
    order: dict[Stage, list[StageResult]] = {}
    for attempt in attempts:
        for stage in attempt:
            order.setdefault(stage.stage, []).append(stage)
    return tuple(_one(tried) for tried in order.values())


def _one(tried: list[StageResult]) -> StageResult:
    chosen = min(tried[::-1], key=lambda stage: _RANKS.get(stage.status, len(_RANKS)))
    others = tuple(
        f"another attempt: {stage.status}{f': {stage.reason}' if stage.reason else ''}"
        for stage in tried
        if stage is not chosen
    )
    return replace(chosen, notes=(*chosen.notes, *others))


def judged_again(
    stages: Iterable[StageResult], entries: Sequence[baseline.Known], today: date
) -> tuple[StageResult, ...]:
    """Return kept ``stages`` as today's baseline has them: known findings apart."""
    return tuple(_again(stage, entries, today) for stage in stages)


def _again(
    stage: StageResult, entries: Sequence[baseline.Known], today: date
) -> StageResult:
    if stage.status not in VERDICTS:
        return stage
    every = sorted(
        (*stage.findings, *stage.known), key=lambda one: (-one.occurrences, one.order)
    )
    new, known = baseline.split(every, entries, today)
    status = Status.FAIL if new else Status.PASS
    return replace(stage, status=status, findings=new, known=known)


def renamed(stages: Iterable[StageResult], name: str) -> tuple[StageResult, ...]:
    """Return ``stages`` as those of the cell that is called ``name`` now."""
    return tuple(replace(stage, variant=name) for stage in stages)


def dump(kept: Kept) -> bytes:
    """Return ``kept`` as JSON; what is no character in a console is escaped."""
    return json.dumps(plain(kept)).encode()


def parse(data: bytes) -> Kept | None:
    """Return what :func:`dump` wrote, or None if that is not it (another version's)."""
    try:
        return msgspec.convert(json.loads(data), Kept)
    except ValueError:
        return None


class Results(Struct, frozen=True):
    """Those that are kept below ``root``, a file each."""

    root: Path

    def find(self, key: str) -> Kept | None:
        """Return the result of ``key``, if there is one that can be read."""
        try:
            return parse((self.root / f"{key}.json").read_bytes())
        except OSError:
            return None

    def keep(self, kept: Kept) -> None:
        """Write ``kept``, whole or not at all, in place of what was there.

        Raises:
            InfraError: it cannot be written.
        """
        scratch = self.root / f".{kept.key}.{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                file.write(dump(kept))
                file.flush()
                os.fsync(file.fileno())  # who is killed with the machine finds it, too
            scratch.replace(self.root / f"{kept.key}.json")
        except OSError as exc:
            raise InfraError(
                f"cannot keep the result of {kept.name}: {exc}",
                hint=f"make room in {self.root}, or name another cache",
            ) from exc

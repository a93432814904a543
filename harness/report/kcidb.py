"""KCIDB: a run as what the kernel's common result database takes (schema 5.3).

A checkout for the run, a build per variant, a test per other stage, with the statuses
that we have from there. A finding is an issue, named by its key, so that it is the same
one in every report; that it was found, new or known, is an incident. What is of all
variants is of no build, and left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from harness.errors import UserError
from harness.report import text
from harness.result import RunResult, Stage, StageResult, legible

ORIGIN = "orc_harness"
VERSION = {"major": 5, "minor": 3}

_ORIGIN = re.compile(r"[a-z0-9_]+")
_EXCERPT = 16 << 10  # characters: more belongs into a file that is linked
_PATH = "orc_harness"
_COMPILERS = ("gcc", "clang")

Entry = dict[str, object]


def to_kcidb(result: RunResult, origin: str = ORIGIN) -> str:
    """Return ``result`` as JSON, reported by the CI system ``origin``.

    Raises:
        UserError: ``origin`` is no name that KCIDB takes.
    """
    if not _ORIGIN.fullmatch(origin):
        raise UserError(
            f"{origin!r} is no origin", hint="lower-case letters, digits, underscores"
        )
    stages = [stage for stage in result.stages if stage.stage is not Stage.COVERAGE]
    result = legible(replace(result, stages=tuple(stages)))
    run = f"{origin}:{result.run_id}"
    document: Entry = {
        "version": VERSION,
        "checkouts": [_checkout(result, run, origin)],
        "builds": list(_builds(result, run, origin)),
        "tests": list(_tests(result, run, origin)),
        "issues": list(_issues(result, origin)),
        "incidents": list(_incidents(result, run, origin)),
    }
    return json.dumps(document, indent=2) + "\n"


def _checkout(result: RunResult, run: str, origin: str) -> Entry:
    return {
        "id": run,
        "origin": origin,
        "tree_name": result.tree,
        "start_time": result.started,
        "valid": True,
        "misc": {"profile": result.profile, "tools": result.tools},
    }


def _builds(result: RunResult, run: str, origin: str) -> Iterator[Entry]:
    compiler = next(filter(None, map(result.tools.get, _COMPILERS)), "")
    made = {s.variant: s for s in result.stages if s.stage is Stage.BUILD}
    for variant in dict.fromkeys(stage.variant for stage in result.stages):
        entry: Entry = {
            "id": f"{run}:{variant}",
            "checkout_id": run,
            "origin": origin,
            "architecture": "x86_64",
            "config_name": variant,
        }
        if compiler:
            entry["compiler"] = compiler
        if stage := made.get(variant):
            entry |= _outcome(stage)
        yield entry


def _named(result: RunResult, run: str) -> Iterator[tuple[str, str, StageResult]]:
    """Yield each stage with the name of its build and its own, which none else has."""
    seen = Counter[tuple[str, str]]()
    for stage in result.stages:
        build = f"{run}:{stage.variant}"
        place = (stage.variant, stage.stage.value)
        seen[place] += 1
        again = f"#{seen[place]}" if seen[place] > 1 else ""
        yield build, f"{build}:{stage.stage}{again}", stage


def _tests(result: RunResult, run: str, origin: str) -> Iterator[Entry]:
    for build, name, stage in _named(result, run):
        if stage.stage is not Stage.BUILD:
            yield {
                "id": name,
                "build_id": build,
                "origin": origin,
                "path": f"{_PATH}.{stage.stage}",
                "environment": {"comment": stage.variant},
            } | _outcome(stage)


def _outcome(stage: StageResult) -> Entry:
    entry: Entry = {
        "status": stage.status.value,
        "duration": round(stage.seconds, 3),
        "misc": {"counts": stage.counts, "notes": list(stage.notes)},
    }
    if stage.reason:
        entry["comment"] = stage.reason
    shown = "\n".join(line for found in stage.findings for line in text.lines(found))
    if shown:
        entry["log_excerpt"] = shown[:_EXCERPT]
    return entry


def _issues(result: RunResult, origin: str) -> Iterator[Entry]:
    found = {
        finding.key: finding
        for stage in result.stages
        for finding in (*stage.findings, *stage.known)
    }
    for key, finding in found.items():
        yield {
            "id": f"{origin}:{key}",
            "version": 1,
            "origin": origin,
            "culprit": {"code": True, "tool": False, "harness": False},
            "comment": f"{finding.location}: {finding.message}",
        }


def _incidents(result: RunResult, run: str, origin: str) -> Iterator[Entry]:
    for build, name, stage in _named(result, run):
        built = stage.stage is Stage.BUILD
        for number, finding in enumerate((*stage.findings, *stage.known)):
            key = finding.key
            yield {
                "id": f"{name}:{key}",
                "origin": origin,
                "issue_id": f"{origin}:{key}",
                "issue_version": 1,
                "build_id" if built else "test_id": build if built else name,
                "present": True,
                "misc": {
                    "known": number >= len(stage.findings),
                    "occurrences": finding.occurrences,
                },
            }

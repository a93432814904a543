"""KTAP: a run as the kernel's own test format (Documentation/dev-tools/ktap.rst).

A test per variant, a subtest per stage. ERROR has its directive; MISS and SKIP are
SKIP, with the status before the reason. What is found are diagnostic lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.report import text
from harness.result import RunResult, StageResult, Status, legible

_VERSION = "KTAP version 1"
_INDENT = "  "
_BAD = (Status.FAIL, Status.ERROR)


def to_ktap(result: RunResult) -> str:
    """Return ``result`` as a KTAP document."""
    result = legible(result)
    variants = list(dict.fromkeys(stage.variant for stage in result.stages))
    lines = [_VERSION, f"1..{len(variants)}"]
    for number, variant in enumerate(variants, 1):
        stages = [stage for stage in result.stages if stage.variant == variant]
        lines += [_INDENT + line for line in _subtest(variant, stages)]
        bad = any(stage.status in _BAD for stage in stages)
        lines.append(f"{'not ok' if bad else 'ok'} {number} {_name(variant)}")
    return "\n".join(lines) + "\n"


def _subtest(variant: str, stages: list[StageResult]) -> Iterator[str]:
    yield _VERSION
    yield f"# Subtest: {_name(variant)}"
    yield f"1..{len(stages)}"
    for number, stage in enumerate(stages, 1):
        yield from _diagnostics(stage)
        yield _result(number, stage)


def _result(number: int, stage: StageResult) -> str:
    name = f"{number} {stage.stage}"
    reason = " ".join(stage.reason.split())
    match stage.status:
        case Status.PASS:
            return f"ok {name}"
        case Status.FAIL:
            return f"not ok {name}"
        case Status.ERROR:
            return f"not ok {name} # ERROR {reason}"
        case Status.MISS | Status.SKIP:
            return f"ok {name} # SKIP {stage.status}: {reason}"


def _diagnostics(stage: StageResult) -> Iterator[str]:
    yield from _comments(f"{name}: {count}" for name, count in stage.counts.items())
    for finding in stage.findings:
        yield from _comments(text.lines(finding))
    if stage.known:
        yield f"# {len(stage.known)} known findings"


def _comments(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield from (f"# {part}" for part in line.splitlines() or [""])


def _name(variant: str) -> str:
    """Return a name without what begins a directive, on one line."""
    return " ".join(variant.replace("#", "_").split())

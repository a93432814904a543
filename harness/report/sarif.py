"""SARIF: a run as static analysers report to code hosts (OASIS SARIF 2.1.0).

A finding is at file and line where debug information tells (harness/elf/line.py), and
always at its symbol. Its key is the fingerprint by which hosts follow it. What is known
is there, and suppressed; a stage without a verdict is a notification of the invocation.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import attr
import sarif_om as om

from harness.data import FINDINGS
from harness.finding import Finding, Location
from harness.report.rules import Rule, read_rules
from harness.result import RunResult, StageResult, Status, legible

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FINGERPRINT = "orcHarnessKey/v1"
_ROOT = "SRCROOT"  # what relative names start at: the kernel tree
_LINE = re.compile(r"(.+):(\d+)")


def to_sarif(result: RunResult) -> str:
    """Return ``result`` as a SARIF log."""
    result = legible(result)
    found = list(_found(result.stages))
    names = list(dict.fromkeys(finding.rule for finding, _, _ in found))
    run = om.Run(
        tool=om.Tool(driver=_driver(names)),
        invocations=[_invocation(result)],
        automation_details=om.RunAutomationDetails(
            id=f"{result.profile}/{result.run_id}"
        ),
        results=[
            _result(finding, stage, known, names.index(finding.rule), result)
            for finding, stage, known in found
        ],
    )
    log = om.SarifLog(version="2.1.0", schema_uri=SCHEMA, runs=[run])
    return json.dumps(_plain(log), indent=2) + "\n"


def _found(
    stages: Iterable[StageResult],
) -> Iterator[tuple[Finding, StageResult, bool]]:
    for stage in stages:
        yield from ((finding, stage, False) for finding in stage.findings)
        yield from ((finding, stage, True) for finding in stage.known)


def _driver(names: Iterable[str]) -> om.ToolComponent:
    try:
        rules = read_rules(FINDINGS.read_text())
    except OSError:  # installed without its tree: rules have no words then
        rules = {}
    return om.ToolComponent(
        name="orc-harness",
        version=importlib.metadata.version("orc-harness"),
        rules=[_rule(name, rules.get(name)) for name in names],
    )


def _rule(name: str, rule: Rule | None) -> om.ReportingDescriptor:
    if rule is None or not rule.texts:
        return om.ReportingDescriptor(id=name)
    words = [*rule.meaning, *filter(None, [rule.action])]
    return om.ReportingDescriptor(
        id=name,
        short_description=om.MultiformatMessageString(text=rule.texts[0]),
        full_description=om.MultiformatMessageString(text="\n\n".join(words)),
    )


def _invocation(result: RunResult) -> om.Invocation:
    return om.Invocation(
        execution_successful=all(s.status is not Status.ERROR for s in result.stages),
        start_time_utc=result.started.replace("+00:00", "Z"),
        exit_code=int(result.exit_code),
        tool_execution_notifications=[
            om.Notification(
                level="error" if stage.status is Status.ERROR else "note",
                message=om.Message(
                    text=f"{stage.status} {stage.variant} {stage.stage}: {stage.reason}"
                ),
            )
            for stage in result.stages
            if stage.status in (Status.ERROR, Status.MISS, Status.SKIP)
        ],
    )


def _result(
    finding: Finding, stage: StageResult, known: bool, rule: int, run: RunResult
) -> om.Result:
    facts = {
        "stage": stage.stage.value,
        "variant": stage.variant,
        "text": finding.variant,
        "platforms": list(finding.platforms),
        "declared": finding.declared,
        "actual": finding.actual,
        "blame": finding.blame,
        "reproduce": finding.reproduce,
        "window": list(finding.window),
    }
    return om.Result(
        rule_id=finding.rule,
        rule_index=rule,
        level="error",
        message=om.Message(text=f"{finding.location}: {finding.message}"),
        locations=[_location(finding.location)],
        partial_fingerprints={FINGERPRINT: finding.key},
        occurrence_count=finding.occurrences,
        baseline_state=("unchanged" if known else "new") if run.baseline else None,
        suppressions=[om.Suppression(kind="external")] if known else None,
        properties={name: value for name, value in facts.items() if value},
    )


def _location(where: Location) -> om.Location:
    symbol = om.LogicalLocation(
        name=where.symbol,
        fully_qualified_name=f"{where.object}:{where}",
        kind="function",
    )
    physical = None
    if match := _LINE.fullmatch(where.line):
        path, line = Path(match[1]), int(match[2])
        physical = om.PhysicalLocation(
            artifact_location=om.ArtifactLocation(
                uri=path.as_uri() if path.is_absolute() else quote(match[1]),
                uri_base_id=None if path.is_absolute() else _ROOT,
            ),
            region=om.Region(start_line=line) if line else None,  # 1 is the first
        )
    return om.Location(physical_location=physical, logical_locations=[symbol])


def _plain(value: object) -> object:
    """Return ``value`` as what JSON has, under SARIF's names, without the defaults."""
    kind = type(value)
    if attr.has(kind):
        return {
            field.metadata["schema_property_name"]: _plain(there)
            for field in attr.fields(kind)
            if (there := getattr(value, field.name)) != field.default
        }
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value

"""JUnit: a run as the XML that CI systems draw.

One suite per variant, one case per stage, one case per finding. MISS and SKIP
are skipped cases with their reason; ERROR is an error; FAIL is a failure.
"""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from harness.finding import Finding
from harness.result import RunResult, StageResult, Status, legible


def to_junit(result: RunResult) -> bytes:
    """Return ``result`` as a JUnit XML document."""
    result = legible(result)
    xml = JUnitXml(name=f"orc-harness {result.profile}")
    for variant in dict.fromkeys(stage.variant for stage in result.stages):
        suite = TestSuite(name=variant)
        suite.timestamp = result.started
        for stage in result.stages:
            if stage.variant == variant:
                suite.add_testcases(_cases(stage))
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    return bytes(xml.tostring())  # type: ignore[no-untyped-call]


def _cases(stage: StageResult) -> list[TestCase]:
    case = TestCase(
        name=stage.stage.value,
        classname=f"orc-harness.{stage.variant}",
        time=round(stage.seconds, 3),
    )
    counts = " ".join(f"{name}={count}" for name, count in stage.counts.items())
    case.system_out = "\n".join([counts, *stage.notes])
    reason = "\n  hint: ".join(filter(None, (stage.reason, stage.hint)))
    if stage.status is Status.ERROR:
        case.result = [Error(reason, type_="ERROR")]
    elif stage.status in (Status.MISS, Status.SKIP):
        case.result = [Skipped(f"{stage.status}: {reason}")]
    elif stage.status is Status.FAIL:
        new = len(stage.findings)
        case.result = [Failure(reason or f"{new} new findings", type_="FAIL")]
    return [case, *(_finding_case(stage, finding) for finding in stage.findings)]


def _finding_case(stage: StageResult, finding: Finding) -> TestCase:
    case = TestCase(
        name=finding.key, classname=f"orc-harness.{stage.variant}.{stage.stage}"
    )
    failure = Failure(finding.message, type_=finding.rule)
    failure.text = "\n".join(
        [f"{finding.location}: {finding.message}", *finding.window, finding.reproduce]
    )
    case.result = [failure]
    return case

"""JUnit keeps FAIL, ERROR, MISS and SKIP apart."""

from __future__ import annotations

from xml.etree import ElementTree

from harness.finding import Finding, Location
from harness.report.junit import to_junit
from harness.result import SCHEMA, RunResult, Stage, StageResult, Status

FINDING = Finding("a/b", Location("vmlinux", "f", 4), "wrong <here>", window=("x",))


def cases(*stages: StageResult) -> dict[str, ElementTree.Element]:
    result = RunResult(SCHEMA, "r", "2026", 1.0, "small", "linux", {}, stages)
    root = ElementTree.fromstring(to_junit(result))
    return {case.get("name", ""): case for case in root.iter("testcase")}


def test_statuses() -> None:
    """Each status becomes its own element, with the reason."""
    found = cases(
        StageResult(Stage.BUILD, "xen", Status.PASS, counts={"objects": 3}),
        StageResult(Stage.VALIDATE, "xen", Status.FAIL, findings=(FINDING,)),
        StageResult(Stage.BOOT, "xen", Status.MISS, reason="no /dev/kvm"),
        StageResult(Stage.COMPARE, "xen", Status.ERROR, reason="lost the guest"),
    )

    kinds = {name: [child.tag for child in case] for name, case in found.items()}
    assert kinds["build"] == ["system-out"]
    assert "failure" in kinds["validate"]
    assert "failure" in kinds[FINDING.key]
    assert found["boot"].find("skipped").get("message") == "MISS: no /dev/kvm"
    assert found["compare"].find("error").get("message") == "lost the guest"

"""Runtime: which looks at a running kernel there are, and when none is worth it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.boot.outcome import BootResult
from harness.coverage import Coverage
from harness.progress import silent
from harness.result import Stage, StageResult, Status
from harness.stages import runtime
from tests.builders.results import finding, stage
from tests.unit.stages.test_shadow import BOOTED, SUBJECT

EXECUTED = Coverage({})


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[BootResult | None]:
    """A kernel that boots; what each later stage is told about that."""
    told: list[BootResult | None] = []

    def later(of: Stage, at: int) -> Callable[..., StageResult]:
        def ran(*arguments: object) -> StageResult:
            told.append(arguments[at])  # type: ignore[arg-type]
            return stage(of=of)

        return ran

    def booted(*_: object) -> tuple[StageResult, BootResult | None]:
        return stage(of=Stage.BOOT), BOOTED

    monkeypatch.setattr(runtime.boot, "stage", booted)
    monkeypatch.setattr(runtime.readback, "stage", later(Stage.READBACK, 2))
    monkeypatch.setattr(runtime.compare, "stage", later(Stage.COMPARE, 2))
    shadowed = later(Stage.SHADOW, 1)
    monkeypatch.setattr(runtime.shadow, "stage", lambda *a: (shadowed(*a), EXECUTED))
    return told


def test_every_look_is_taken(looked: list[BootResult | None]) -> None:
    """In the order of the report, and each knows that it boots."""
    stages, part = runtime.run(SUBJECT, 0, silent)

    assert tuple(one.stage for one in stages) == runtime.STAGES
    assert {one.status for one in stages} == {Status.PASS}
    assert looked == [BOOTED] * 3
    assert part == EXECUTED


def test_a_kernel_that_is_another_than_was_asked_for(
    looked: list[BootResult | None],
) -> None:
    """It is a MISS with the reason: nothing of it would count for what was asked."""
    (first, *rest), part = runtime.run(SUBJECT, 0, silent, lambda _: "no IBT")

    assert (first.stage, first.status) == (Stage.BOOT, Status.MISS)
    assert {one.status for one in rest} == {Status.SKIP}
    assert {one.reason for one in (first, *rest)} == {"no IBT"}
    assert looked == []
    assert part is None


def test_a_boot_that_is_wrong_stays_wrong(
    looked: list[BootResult | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is another kernel is no excuse for what it did."""
    bad = stage(finding(rule="boot/warning"), of=Stage.BOOT)
    monkeypatch.setattr(runtime.boot, "stage", lambda *_: (bad, BOOTED))

    (first, *_), _ = runtime.run(SUBJECT, 0, silent, lambda _: "no IBT")

    assert first.status is Status.FAIL

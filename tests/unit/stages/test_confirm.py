"""Confirm: the static verdict and the running kernel, each tells of the other."""

from __future__ import annotations

from harness.finding import Finding, Location
from harness.result import Stage, StageResult, Status
from harness.stages.confirm import confirm

STATIC = Finding(
    "text/step", Location("vmlinux", "f", 4), "wrong", declared="sp+8 call"
)
RUNNING = Finding(
    "shadow/cfa",
    Location("vmlinux", "f", 9),
    "not where the entry says",
    declared="sp+8 call",
    occurrences=3,
)


def confirmed(static: Finding, running: Finding) -> tuple[Finding, Finding]:
    """Return both as a run of the two stages has them."""
    stages = confirm(
        [
            StageResult(Stage.BUILD, "native", Status.PASS),
            StageResult(Stage.VALIDATE, "native", Status.FAIL, findings=(static,)),
            StageResult(Stage.SHADOW, "native", Status.PASS, known=(running,)),
        ]
    )
    return stages[1].findings[0], stages[2].known[0]


def test_one_state_of_one_function_is_one_cause() -> None:
    """Wherever in the function each saw it; new or known."""
    static, running = confirmed(STATIC, RUNNING)
    assert static.seen == (f"shadow of native, 3 places: {RUNNING.key}",)
    assert running.seen == (f"validate of native, one place: {STATIC.key}",)


def test_a_cause_that_both_name() -> None:
    """Then the place does not matter: who is called is in another function."""
    static, running = confirmed(
        Finding(
            "alternative/state", Location("vmlinux", "a", 0), "x", cause="callee g"
        ),
        Finding("shadow/cfa", Location("vmlinux", "b", 0), "y", cause="callee g"),
    )
    assert len(static.seen) == len(running.seen) == 1


def test_what_has_nothing_to_do_with_each_other() -> None:
    """Another function, another state, or no state at all."""
    elsewhere = Finding(
        "shadow/cfa", Location("vmlinux", "h", 4), "y", declared="sp+8 call"
    )
    other_state = Finding(
        "shadow/cfa", Location("vmlinux", "f", 4), "y", declared="sp+9"
    )
    stateless = Finding("readback/byte", Location("vmlinux", "f", 4), "y")
    for running in (elsewhere, other_state, stateless):
        assert [found.seen for found in confirmed(STATIC, running)] == [(), ()]
    nowhere = Finding("text/step", Location("vmlinux", "f", 4), "wrong")
    assert confirmed(nowhere, stateless)[0].seen == ()

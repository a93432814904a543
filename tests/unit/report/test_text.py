"""The text report has every status, count and remedy."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

from msgspec.structs import replace
from rich.console import Console

from harness.finding import Finding, Location
from harness.matrix import elsewhere
from harness.report import text
from harness.result import (
    ELSEWHERE,
    SCHEMA,
    RunResult,
    Stage,
    StageResult,
    Status,
    dump,
    run_result,
)

FINDING = Finding(
    "alternative/ret-1",
    Location("vmlinux", "f", 4),
    "wrong at ret-1",
    declared="sp+16 call",
    actual="sp+8 call",
    window=("the evidence",),
    reproduce="orc-harness validate vmlinux",
    occurrences=2,
)


def test_table_has_a_row_per_variant_and_a_cell_per_stage() -> None:
    """Counts and seconds are printed; a stage that never ran is a dash."""
    result = RunResult(
        SCHEMA,
        "r",
        "2026",
        1.0,
        "small",
        "linux",
        {},
        (
            StageResult(Stage.BUILD, "xen", Status.PASS, 2.0, {"compiled": 1234}),
            StageResult(Stage.BOOT, "kvm", Status.MISS, reason="no svm"),
        ),
    )
    out = io.StringIO()

    Console(file=out, width=100).print(text.table(result))

    assert "PASS 2.0 s" in out.getvalue()
    assert "compiled 1,234" in out.getvalue()
    assert "MISS" in out.getvalue()


def test_a_stage_that_comes_again_has_a_row_of_its_own() -> None:
    """A FAIL is never hidden under a PASS of the same name."""
    result = RunResult(
        SCHEMA,
        "r",
        "2026",
        1.0,
        "validate",
        "two files",
        {},
        tuple(
            StageResult(Stage.VALIDATE, "vmlinux", status)
            for status in (Status.FAIL, Status.PASS)
        ),
    )

    assert text.table(result).row_count == 2


def test_a_finding_carries_both_sides_and_its_command() -> None:
    """What is declared, what is true, the window and how to see it again."""
    printed = "\n".join(text.lines(FINDING))

    for part in ("vmlinux: f+0x4", "[2 places]", "sp+16", "sp+8", "the evidence"):
        assert part in printed
    assert printed.endswith("reproduce orc-harness validate vmlinux")


def test_problems_name_the_remedy() -> None:
    """A stage without a verdict says why and what to do."""
    stage = StageResult(
        Stage.BOOT, "kvm", Status.MISS, reason="no svm", hint="use --cpu max"
    )

    assert list(text.problems([stage])) == [
        "MISS kvm boot: no svm",
        "  hint: use --cpu max",
    ]


def test_what_no_machine_is_for_is_one_line() -> None:
    """With its reasons; it has no row, and is not counted among what has no verdict."""
    passed = StageResult(Stage.BOOT, "native", Status.PASS)
    result = run_result(
        "small", "tree", [passed, *elsewhere()], started=datetime.now(UTC)
    )
    (line,) = text.problems(result.stages)
    assert line.startswith("MISS boot, no such machine: pvh, hvm (takes hardware")
    assert all(name in line for name in ELSEWHERE)
    assert [name for name, _ in text.rows(result.stages)] == ["native"]
    assert ", 0 stages without a verdict" in text.summary(result)
    assert result.exit_code == 0
    document = json.loads(dump(result))
    assert {
        stage["variant"]: stage["reason"]
        for stage in document["stages"]
        if stage["status"] == "MISS"
    } == ELSEWHERE


def printed(stages: list[StageResult]) -> str:
    """Return the table as a terminal of 100 columns has it."""
    result = run_result("small", "tree", stages, started=datetime.now(UTC))
    out = io.StringIO()
    Console(file=out, width=100).print(text.table(result))
    return out.getvalue()


def test_many_stages_stand_below_each_other() -> None:
    """A row per stage, as many variants as fit: no cell is cut off in 100 columns."""
    names = ("native", "kvm", "xen", "vsmp", "mine")
    counts = {"points": 123_456, "inside_replacement": 50, "instructions": 185_820}
    stages = [
        StageResult(stage, name, Status.PASS, counts=counts)
        for name in names
        for stage in Stage
        if stage is not Stage.COVERAGE
    ]
    shown = printed(stages)
    assert "…" not in shown
    assert shown.count("points 123,456") == len(names)
    assert shown.count("│ shadow") == shown.count("┃ stage") == 2


def test_a_name_too_wide_for_anything_still_has_a_table() -> None:
    """What is wider than the terminal alone is cut, not lost; nor is it markup."""
    assert "PASS" in printed([StageResult(Stage.BOOT, "v" * 120, Status.PASS)])
    assert "a[/b]" in printed([StageResult(Stage.BOOT, "a[/b]", Status.PASS)])


def test_what_expired_is_said_with_the_finding() -> None:
    """Day, reason and link, folded where they are long; a link stays whole."""
    link = f"https://example.org/{'a' * 30}-{'b' * 30}"
    told = list(
        text.lines(replace(FINDING, expired=(f"2020-01-01: {'why ' * 20}, {link}",)))
    )

    at = next(n for n, line in enumerate(told) if line.startswith("  expired   2020"))
    assert all(len(line) <= text.WIDEST for line in told)
    assert told[at + 1].endswith(link)

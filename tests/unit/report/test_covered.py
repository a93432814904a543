"""What boots have covered, side by side."""

from __future__ import annotations

import io

from rich.console import Console

from harness.report import covered, text
from harness.report.html import to_html
from harness.report.markdown import to_markdown
from harness.result import Stage, StageResult, Status
from tests.builders.results import run, stage


def counts(**more: int) -> dict[str, int]:
    reached = {"entries_reachable": 200, "entries_executed": 90, "entries_verified": 85}
    return {**reached, "sites_reachable": 3, "sites_verified": 2, **more}


STAGES = [
    stage(of=Stage.SHADOW, variant="native", counts=counts()),
    StageResult(Stage.SHADOW, "kvm", Status.MISS, reason="no host"),
    stage(
        of=Stage.COVERAGE,
        variant="all",
        counts=counts(entries_verified=1200, entries_reachable=2400),
        notes=("7 f+0x1 (<SMAP>)",),
    ),
]


def test_a_row_for_each_variant_and_one_for_all() -> None:
    """Numerator, denominator, share; a boot without a verdict has none."""
    out = io.StringIO()
    found = covered.covering(STAGES)
    Console(file=out, width=100).print(covered.table(found))
    shown = out.getvalue()
    for words in ("85 of 200", "(42.5 %)", "1,200 of 2,400", "(50.0 %)", "(66.7 %)"):
        assert words in shown
    assert "kvm" not in shown


def test_the_hottest_are_said() -> None:
    """As the stage of all has them."""
    assert list(covered.hottest(STAGES))[1:] == ["  7 f+0x1 (<SMAP>)"]


def test_the_page_has_it_and_the_matrix_has_not() -> None:
    """What is of all variants is no variant's row."""
    whole = run(*STAGES)
    page = to_html(whole)
    assert "native: entries" in page
    assert "1,200 of 2,400 (50.0 %)" in page
    assert "7 f+0x1 (&lt;SMAP&gt;)" in page
    assert '<th scope="row">all</th>' not in page
    assert "| all |" not in to_markdown(whole)
    assert [name for name, _ in text.rows(whole.stages)] == ["native", "kvm"]

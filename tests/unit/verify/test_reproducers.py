"""What was reported stays judged as it should be: a found bug, or a false alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.verify import reproducer

DATA = Path(__file__).resolve().parents[2] / "data" / "reproducers"


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem
)
def test_each_reproducer_is_judged_as_expected(path: Path) -> None:
    """A defect is found again; what was shown to be a false alarm is not."""
    made = reproducer.load(path)

    found = reproducer.judge(made)

    assert bool(found) is made.expected
    if found:
        assert (found[0].declared, found[0].actual) == (
            made.finding.declared,
            made.finding.actual,
        )

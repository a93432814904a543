"""Is the ORC table of every object right, for every alternative?"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from harness import baseline
from harness.finding import group_by_cause
from harness.pytest_plugin import KernelObject
from harness.report import text
from harness.verify.check import Verdict


@pytest.mark.static
@pytest.mark.parametrize("rules", ["alternative", "table"])
def test_orc(kernel_object: KernelObject, rules: str, orc_verdict: Verdict) -> None:
    """No rule of the group finds anything that the baseline does not know."""
    found = [f for f in orc_verdict.findings if f.rule.startswith(f"{rules}/")]
    today = datetime.now(UTC).date()

    new, _ = baseline.split(group_by_cause(found), baseline.load(), today)

    if new:
        shown = ["\n".join(text.lines(finding)) for finding in new]
        again = f"orc-harness validate {kernel_object.path}"
        pytest.fail("\n\n".join([*shown, again]), pytrace=False)

"""Is the ORC table of every object right, for every alternative?"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from harness import baseline
from harness.build import log
from harness.finding import Finding, group_by_cause
from harness.pytest_plugin import Kernel, KernelObject
from harness.report import text
from harness.verify.verdict import Verdict

GROUPS = (
    "alternative",
    "blind",
    "entry",
    "paravirt",
    "patch-site",
    "table",
    "text",
    "view",
)


def fail_for(found: Iterable[Finding], again: str) -> None:
    """Fail with what is new in ``found``, and the command that shows it again."""
    today = datetime.now(UTC).date()
    new, _ = baseline.split(group_by_cause(found), baseline.load(), today)
    if new:
        shown = ["\n".join(text.lines(finding)) for finding in new]
        pytest.fail("\n\n".join([*shown, again]), pytrace=False)


@pytest.mark.static
def test_the_build_was_quiet(kernel: Kernel) -> None:
    """objtool and modpost found nothing, as far as the build's log is kept."""
    path = kernel.build.root / "build.log"
    if not path.is_file():
        pytest.skip(f"SKIP: {kernel.build.root} has no build.log")
    fail_for(log.findings(path.read_text(errors="replace")), f"less {path}")


@pytest.mark.static
@pytest.mark.parametrize("rules", GROUPS)
def test_orc(kernel_object: KernelObject, rules: str, orc_verdict: Verdict) -> None:
    """No rule of the group finds anything that the baseline does not know."""
    found = [f for f in orc_verdict.findings if f.rule.startswith(f"{rules}/")]

    fail_for(found, f"orc-harness validate {kernel_object.path}")

"""Is the ORC table of every object right, for every alternative?"""

from __future__ import annotations

import pytest

from harness.build import log
from harness.pytest_plugin import FailOnNew, Kernel
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


@pytest.mark.build
@pytest.mark.static
def test_the_build_was_quiet(kernel: Kernel, fail_on_new: FailOnNew) -> None:
    """objtool and modpost found nothing, as far as the build's log is kept."""
    path = kernel.build.root / "build.log"
    if not path.is_file():
        pytest.skip(f"SKIP: {kernel.build.root} has no build.log")
    fail_on_new(log.findings(path.read_text(errors="replace")), f"less {path}")


@pytest.mark.static
@pytest.mark.parametrize("rules", GROUPS)
def test_orc(
    rules: str,
    orc_verdict: Verdict,
    fail_on_new: FailOnNew,
) -> None:
    """No rule of the group finds anything that the baseline does not know."""
    found = [f for f in orc_verdict.findings if f.rule.startswith(f"{rules}/")]

    fail_on_new(found)

"""Kernels of other versions and mitigations, as they run: nothing is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.corpus.booted import Boot, chosen

DAILY = "6.12-full-default"  # natively


def each() -> Iterator[object]:
    """Yield all of them, of which one does not wait for the night."""
    for one in chosen("", nightly=True):
        marks = () if one.name == DAILY else pytest.mark.nightly
        yield pytest.param(one, id=one.name, marks=marks)


@pytest.mark.boot
@pytest.mark.build
@pytest.mark.parametrize("boot", [*each()])
def test_a_clean_kernel_that_runs(boot: Boot) -> None:
    """Each byte is predicted, each trace and each executed entry is right."""
    argv = [sys.executable, "-m", "harness", "corpus", "--boots"]
    done = subprocess.run(
        [*argv, "--class", boot.name, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )

    assert "Traceback" not in done.stderr
    stages = {one["stage"]: one for one in json.loads(done.stdout)["stages"]}
    assert [one["findings"] for one in stages.values()] == [[]] * 5
    assert {one["status"] for one in stages.values()} == {"PASS"}, stages
    counts = {name: one["counts"] for name, one in stages.items()}
    assert counts["readback"]["text_differing"] > 10_000
    assert counts["readback"]["text_unexplained"] == 0
    assert counts["readback"]["text_later_unexplained"] == 0
    assert counts["shadow"]["verified"] > 10_000_000
    assert done.returncode == 0

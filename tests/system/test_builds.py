"""Kernels of other versions and toolchains: they build, and nothing is said of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness.corpus.built import Build, chosen


@pytest.mark.build
@pytest.mark.nightly
@pytest.mark.parametrize("build", chosen("", nightly=False), ids=lambda one: one.name)
def test_a_clean_build_of_another_kind(build: Build) -> None:
    """It is looked at whole, and has no new finding."""
    argv = [sys.executable, "-m", "harness", "corpus", "--builds"]
    done = subprocess.run(
        [*argv, "--class", build.name, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )

    assert "Traceback" not in done.stderr
    (stage,) = json.loads(done.stdout)["stages"]
    assert (stage["variant"], stage["status"]) == (build.name, "PASS"), stage
    assert stage["findings"] == []
    assert stage["counts"]["orc entries"] > 40_000
    assert stage["counts"]["sites"] > 300
    assert any(build.package in note for note in stage["notes"])

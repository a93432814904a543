"""The main job, cold and warm, as the README tells people to start it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.cache import cache_dir
from harness.result import ELSEWHERE, RunResult, Stage, Status, load

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = ["native", "kvm", "xen", "vsmp"]
STAGES = tuple(stage for stage in Stage if stage is not Stage.COVERAGE)
COLD_LIMIT_S = 45 * 60
WARM_LIMIT_S = 10 * 60


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


def matrix(report: Path, *arguments: str, limit_s: float) -> float:
    """Run ./ci/matrix; return its seconds. Its output is the test's."""
    started = time.monotonic()
    done = subprocess.run(
        [ROOT / "ci/matrix", "--report", report, *arguments],
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0
    return time.monotonic() - started


@pytest.fixture(scope="module")
def cold(reports: Path) -> RunResult:
    """The first run, in a cache that is empty: new images, new tree, four builds."""
    entries = list(cache_dir().glob("store/*/manifest.json"))
    assert not entries, f"{cache_dir()} is not empty; tox gives the tests a new one"
    seconds = matrix(reports / "cold", "--rebuild-images", limit_s=COLD_LIMIT_S)
    print(f"cold: {seconds:.0f} s")
    return load(reports / "cold/result.json")


@pytest.fixture(scope="module")
def warm(cold: RunResult, reports: Path) -> RunResult:
    """The second run, on what the first left."""
    seconds = matrix(reports / "warm", limit_s=WARM_LIMIT_S)
    print(f"warm: {seconds:.0f} s")
    return load(reports / "warm/result.json")


def counts(result: RunResult, stage: Stage) -> dict[str, dict[str, int]]:
    return {s.variant: s.counts for s in result.stages if s.stage is stage}


@pytest.mark.slow
@pytest.mark.build
@pytest.mark.boot
@pytest.mark.parametrize("run", ["cold", "warm"])
def test_every_stage_of_every_platform_passes(
    run: str, request: pytest.FixtureRequest
) -> None:
    """Four variants are built, validated, booted, read back, compared and followed."""
    result: RunResult = request.getfixturevalue(run)
    passed: dict[tuple[str, Stage], Status] = {
        (platform, stage): Status.PASS for platform in PLATFORMS for stage in STAGES
    }

    assert {(s.variant, s.stage): s.status for s in result.stages} == {
        **passed,
        ("all", Stage.COVERAGE): Status.PASS,
        **{(name, Stage.BOOT): Status.MISS for name in ELSEWHERE},
    }


@pytest.mark.slow
def test_the_workload_covers_enough(warm: RunResult) -> None:
    """Of what the four platforms can reach: 45 % of the entries, 60 % of the sites.

    The graph of what can be reached knows what was executed, but for what a handler of
    int3 goes on with; and each instruction in a site is of one of its texts.
    """
    (counts,) = (s.counts for s in warm.stages if s.stage is Stage.COVERAGE)
    assert counts["entries_verified"] >= 0.45 * counts["entries_reachable"]
    assert counts["sites_verified"] >= 0.60 * counts["sites_reachable"]
    shadows = [s.counts for s in warm.stages if s.stage is Stage.SHADOW]
    assert all(c["executed_unreached"] < 50 for c in shadows)
    assert not any(c["executed_in_no_text"] for c in shadows)


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_byte_of_the_text_is_predicted(warm: RunResult, platform: str) -> None:
    """Megabytes of it, of which tens of thousands of bytes are not as linked."""
    seen = counts(warm, Stage.READBACK)[platform]

    assert seen["text_bytes"] > 2_000_000
    assert seen["text_differing"] > 10_000
    assert seen["text_unexplained"] == 0
    assert seen["text_control"] == 1
    assert seen["text_later_bytes"] > 2_000_000
    assert seen["text_later_unexplained"] == 0


@pytest.mark.slow
def test_the_second_run_builds_nothing(cold: RunResult, warm: RunResult) -> None:
    """All builds come from the store: not one object is compiled."""
    assert all(c["compiled"] > 500 for c in counts(cold, Stage.BUILD).values())
    assert all(c["compiled"] == 0 for c in counts(warm, Stage.BUILD).values())


@pytest.mark.slow
def test_every_site_and_variant_was_checked(warm: RunResult) -> None:
    """Thousands of alternatives; with PARAVIRT_XXL many more than without."""
    checked = counts(warm, Stage.VALIDATE)

    assert all(c["sites"] > 1000 for c in checked.values())
    assert checked["native"]["variants"] > 2 * checked["vsmp"]["variants"]


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["native", "xen", "vsmp"])
def test_the_comparison_saw_enough(warm: RunResult, platform: str) -> None:
    """Points, entry and interrupt context, insides of replacements, the control."""
    seen = counts(warm, Stage.COMPARE)[platform]

    assert seen["points"] >= 500
    assert seen["entry_context"] >= 100
    assert seen["inside_replacement"] >= 50
    assert seen["control_reported"] >= 1
    if platform == "native":
        assert seen["inside_other_cfa"] >= 10


@pytest.mark.slow
def test_junit_agrees(warm: RunResult, reports: Path) -> None:
    """The CI system sees one case per stage of each variant, all of them passed.

    What no machine is for is skipped.
    """
    root = ElementTree.parse(reports / "warm/junit.xml").getroot()

    cases = [
        (case.get("classname"), case.get("name")) for case in root.iter("testcase")
    ]
    assert len(cases) == len(PLATFORMS) * len(STAGES) + 1 + len(ELSEWHERE)
    assert len(list(root.iter("skipped"))) == len(ELSEWHERE)
    assert not list(root.iter("failure")) + list(root.iter("error"))

"""What the boots of a run have covered together."""

from __future__ import annotations

import numpy as np

from harness.coverage import Cold, Coverage, things
from harness.result import Kind, Stage, Status
from harness.stages import coverage


def one(key: int, *, verified: bool) -> Coverage:
    """Return a boot with one site, which is reachable."""
    yes, did = np.array([True]), np.array([verified])
    cold = {} if verified else {key: Cold(f"f+{key:#x}", 3)}
    return Coverage(
        {Kind.SITES: things(np.array([key], np.uint64), yes, did, did)}, cold
    )


def test_variants_are_one_set() -> None:
    """The notes are what none of them has verified, and who is not in it."""
    parts = {
        "native": one(1, verified=True),
        "kvm": None,
        "xen": one(2, verified=False),
    }
    result = coverage.stage(parts)
    assert (result.stage, result.variant) == (Stage.COVERAGE, coverage.ALL)
    assert result.status is Status.PASS
    assert result.counts["variants"] == 2
    assert result.counts["sites_reachable"] == 2
    assert result.counts["sites_verified"] == 1
    assert result.notes == ("without kvm", "3 f+0x2")


def test_without_a_boot_there_is_none() -> None:
    """No verdict of any variant: skipped, with the reason."""
    result = coverage.stage({"native": None})
    assert result.status is Status.SKIP
    assert "no boot" in result.reason

"""What is wrong on purpose, judged by the real objtool and by us."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.build


def corpus(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command; return its exit code and what it tells."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", "corpus", *arguments, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["data"]


def test_every_object_is_judged_as_expected() -> None:
    """One alternative site by hand for each class of conflicts, and two clean ones."""
    code, judged = corpus("--objects")

    said = {one["name"]: sorted({f["rule"] for f in one["findings"]}) for one in judged}
    assert code == 0, said
    assert len(said) == 11
    assert [name for name, rules in said.items() if not rules] == [
        "d-padding-now",
        "proposal-2017",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["alt-ret-1", "sorttable"])
def test_a_plant_is_found_and_blamed(plant: str) -> None:
    """One that objtool accepts, and one that breaks all of the table."""
    code, grown = corpus("--plants", "--class", plant)

    (one,) = grown
    assert code == 0, one
    assert one["objtool"] == []
    assert one["found"] == 1
    assert one["blamed"]


@pytest.mark.boot
@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "oracle"),
    [
        pytest.param("run-nops-split", "readback", marks=pytest.mark.nightly),
        pytest.param("run-inactive-sp", "compare", marks=pytest.mark.nightly),
        pytest.param("run-iret-depth", "shadow", marks=pytest.mark.nightly),
    ],
)
def test_a_plant_that_shows_as_it_runs(plant: str, oracle: str) -> None:
    """The verifier has nothing to say about it, and the right oracle has."""
    code, grown = corpus("--plants", "--class", plant)

    (one,) = grown
    assert code == 0, one
    assert one["objtool"] == []
    assert not one["seen"]["validate"]
    assert one["seen"][oracle]

"""The baseline covers what was reviewed, until it expires, and nothing else."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from harness import baseline
from harness.errors import FormatError
from harness.finding import Finding, Location

TODAY = datetime.date(2026, 1, 1)
FINDING = Finding("a/b", Location("vmlinux", "f", 4), "wrong", cause="callee g")
ENTRY = """
key = "a/b:callee g"
reason = "it is wrong upstream"
evidence = ["arch/x86/entry/entry_64.S: g"]
link = "commit 123456789abc"
affected = "6.12"
expires = 2026-06-01
"""


def write(tmp_path: Path, text: str = ENTRY) -> tuple[baseline.Known, ...]:
    (tmp_path / "g.toml").write_text(text)
    return baseline.load(tmp_path)


def test_a_known_cause_is_not_new(tmp_path: Path) -> None:
    """The finding moves to the known ones, unchanged."""
    new, known = baseline.split([FINDING], write(tmp_path), TODAY)

    assert (new, known) == ((), (FINDING,))


def test_an_expired_entry_covers_nothing(tmp_path: Path) -> None:
    """After its last day the finding is new again."""
    day_after = datetime.date(2026, 6, 2)

    new, known = baseline.split([FINDING], write(tmp_path), day_after)

    assert (new, known) == ((FINDING,), ())


def test_another_cause_stays_new(tmp_path: Path) -> None:
    """The key is matched whole, not by symbol."""
    other = Finding("a/b", Location("vmlinux", "f", 4), "wrong", cause="callee h")

    new, _ = baseline.split([other], write(tmp_path), TODAY)

    assert new == (other,)


@pytest.mark.parametrize("text", ["key = 1", "][", ENTRY.replace("reason", "excuse")])
def test_an_entry_without_its_proof_is_refused(tmp_path: Path, text: str) -> None:
    """Every field is needed."""
    with pytest.raises(FormatError, match="baseline entry"):
        write(tmp_path, text)


def test_the_shipped_baseline() -> None:
    """At most five causes, each with evidence, each expiring within two years."""
    known = baseline.load()

    assert len(known) <= 5
    assert all(entry.evidence and entry.link for entry in known)
    assert all(entry.expires.year <= 2028 for entry in known)

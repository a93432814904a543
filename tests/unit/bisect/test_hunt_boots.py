"""A hunt by boots, which show what they look for now and then only."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.bisect.answer import Outcome
from harness.bisect.asking import Asking
from harness.bisect.bisection import Revert
from harness.bisect.hunt import Hunt
from harness.bisect.letter import how_sure
from harness.bisect.quorum import Quorum
from harness.bisect.search import First
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.errors import UserError
from tests.unit.bisect.kernels import (
    LINE,
    WANTED,
    Flaky,
    asked_of,
    opened,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.mark.parametrize("key", ["", WANTED.key])
def test_what_shows_now_and_then(path, key) -> None:
    """The rate is measured at the bad end; each good takes as many looks as that asks."""
    question, looker = asked_of(LINE, key), Flaky(7)
    quorum = Quorum(looks=30, confidence=0.95, rate=0)
    with opened(path, question) as journal:
        asking = Asking(question, looker, journal, quorum=quorum)
        found = Hunt(LINE, asking, looker).run()

    assert found.conclusion == First("c7")
    assert (found.sure.shown, found.sure.looks) == (10, 30)
    assert found.sure.rate == pytest.approx(0.1729, abs=1e-4)  # at 97.5 %
    assert 0.95 <= found.sure.confidence < 1
    runs = {answer.runs for answer in found.answers if answer.outcome is Outcome.GOOD}
    assert runs == {29, 30}  # 6 goods: 6 * (1 - rate) ** 29 <= 0.025; the end had 30
    assert found.reverts == {"c7": Revert.GONE}
    assert "10 of 30 boots of the bad end" in "\n".join(
        how_sure(found.sure, found.answers)
    )


def test_luck_does_not_count(path) -> None:
    """Without a key the boots that chose it say nothing of its rate: others do."""

    class Lucky(Flaky):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            first = not self.asked
            sight = super().look(commit, wanted, clean=clean)
            return replace(sight, shown={WANTED.key: sight.runs}) if first else sight

    question, looker = asked_of(LINE, ""), Lucky(7)
    quorum = Quorum(looks=30, confidence=0.95, rate=0)
    with opened(path, question) as journal:
        found = Hunt(
            LINE, Asking(question, looker, journal, quorum=quorum), looker
        ).run()

    assert (found.sure.shown, found.sure.looks) == (10, 30)
    assert [answer.shown for answer in found.answers if answer.commit == "c12"] == [10]


def test_what_shows_too_seldom(path) -> None:
    """Nobody waits for that many boots: it is said how to need less."""
    question, looker = asked_of(LINE), Flaky(7)
    quorum = Quorum(looks=3, confidence=0.99, rate=0)
    with opened(path, question) as journal:
        asking = Asking(question, looker, journal, quorum=quorum)
        with pytest.raises(UserError, match="shows too seldom") as raised:
            Hunt(LINE, asking, looker).run()

    assert "--boots" in str(raised.value.hint)

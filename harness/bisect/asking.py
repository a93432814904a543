"""Asking: proves two ends, asks about what lies between, and keeps every answer."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct
from msgspec.structs import replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.journal import Distrusted, Journal, Sought, Told
from harness.bisect.question import Question, fresh, occurs
from harness.bisect.quorum import MOST, ONE_LOOK, Quorum, Sure
from harness.bisect.sight import Looker, Sight, Wanted
from harness.errors import UserError
from harness.finding import Finding
from harness.progress import Progress, silent

KEYS_SHOWN = 5


class Asking(Struct):
    """What a search asks, and what it was told.

    Attributes:
        goods: how many answers of this search may be ``good``, about; the confidence
            of a quorum is shared out among them.
    """

    question: Question
    looker: Looker
    journal: Journal
    progress: Progress = silent
    quorum: Quorum = ONE_LOOK
    goods: int = 1

    @property
    def sought(self) -> Finding:
        """What is looked for, once the ends are proved."""
        return self._sought.finding

    @property
    def others(self) -> int:
        """How many more findings the bad end has that the good one has not."""
        return self._sought.others

    @property
    def _sought(self) -> Sought:
        found = self.journal.sought
        assert found is not None
        return found

    @property
    def rate(self) -> float:
        """How often a bad kernel shows it, at least."""
        return self.quorum.of(self._sought.shown)

    @property
    def sure(self) -> Sure:
        """How sure is what the answers came to, so far."""
        goods = [
            answer.runs
            for answer in self.journal.answers.values()
            if answer.outcome is Outcome.GOOD and answer.runs
        ]
        rate = self.rate
        confidence = self.quorum.reached(rate, goods)
        return Sure(self._sought.shown, self.quorum.looks, rate, confidence)

    @property
    def wanted(self) -> Wanted:
        """What every look is told once the ends are proved."""
        return Wanted(self.sought.key, self._runs(self.rate))

    def prove(self) -> None:
        """Show that the bad end has the finding, and that the good end has not.

        Raises:
            UserError: an end is not what it is said to be, or cannot be tested.
        """
        ends = (self.question.bad, self.question.good)
        if self.journal.sought and all(end in self.journal.answers for end in ends):
            return
        self.progress("proving the bad end")
        bad = self._end("bad", self.question.bad)
        found = bad.findings or ()
        if not found and bad.reason:
            raise UserError(
                f"the bad end {bad.commit[:12]} has {bad.reason}",
                hint="--target takes a path from the top of the tree: lib/hweight.o",
            )
        if self.question.finding and not occurs(self.question.finding, found):
            raise UserError(
                f"the bad end is good: {self.question.finding} does not occur at "
                f"{bad.commit[:12]} in {self.question.target}",
                hint=_what_occurs(found),
            )
        self.progress("proving the good end")
        good = self._end("good", self.question.good)
        if self.question.finding and occurs(self.question.finding, good.findings or ()):
            _refuse(good, self.question.finding)
        new = fresh(found, good.findings or ())
        if not new:
            raise UserError(
                f"the ends do not differ: {self.question.target} has at "
                f"{bad.commit[:12]} no finding that it has not at {good.commit[:12]}",
                hint=_what_occurs(found),
            )
        sought = occurs(self.question.finding, new) or max(
            new, key=lambda finding: bad.times(finding.key)
        )
        bad = self._measured(bad)
        runs = self._runs(self.quorum.of(bad.times(sought.key)))
        if runs > good.runs:  # how often to look was not known before
            good = self._end("good", self.question.good, Wanted(sought.key, runs))
            if occurs(sought.key, good.findings or ()):
                _refuse(good, sought.key)
        kept = replace(sought, window=tuple(sought.window))
        self.journal.add(Sought(kept, bad.times(sought.key), len(new) - 1))
        self.tell(bad)
        self.tell(good)

    def ask(self, commit: str, *, clean: bool = False) -> Sight:
        """Look at ``commit`` and keep the answer."""
        clean = clean or self.journal.distrusted
        sight = self.looker.look(commit, self.wanted, clean=clean)
        self.tell(sight)
        return sight

    def tell(self, sight: Sight) -> Answer:
        """Turn what was seen into an answer, and keep it."""
        answer = replace(
            answered(sight, self.sought.key),
            digest=sight.digest,
            same_as=self._twin(sight),
            clean=sight.clean,
            seconds=sight.seconds,
        )
        self.journal.add(Told(answer))
        return answer

    def contradicted(
        self, commit: str, expected: Collection[Outcome], before: Answer | None
    ) -> bool:
        """Tell whether the clean answer of ``commit`` is not as ``expected``.

        If so, what was seen in kept directories is forgotten.
        """
        outcome = self.journal.answers[commit].outcome
        if outcome in expected:
            return False
        seen = before.outcome if before else Outcome.GOOD
        self.distrust(
            f"{commit[:12]} is {outcome} in an empty output directory, not {seen}"
        )
        return True

    def distrust(self, reason: str) -> None:
        """Let only clean builds count from now on.

        Raises:
            UserError: they did already: what they say does not repeat.
        """
        if self.journal.distrusted:
            raise UserError(
                f"the finding is not reproducible: {reason}",
                hint="what differs between two clean builds of the same?",
            )
        self.progress(f"{reason}: starting over with clean builds")
        self.journal.add(Distrusted(reason))
        for name, commit in (("bad", self.question.bad), ("good", self.question.good)):
            answer = self.tell(self._end(name, commit, self.wanted))
            if answer.outcome is not Outcome(name):
                raise UserError(
                    f"the {name} end {commit[:12]} is {answer.outcome} in an empty "
                    "output directory"
                )

    def _end(self, name: str, commit: str, wanted: Wanted | None = None) -> Sight:
        wanted = wanted or Wanted("", self.quorum.looks)
        sight = self.looker.look(commit, wanted, clean=self.journal.distrusted)
        if sight.findings is None:
            raise UserError(
                f"the {name} end {commit[:12]} cannot be tested: {sight.reason}",
                hint=f"name another one with --{name}, or another --toolchain",
            )
        return sight

    def _measured(self, bad: Sight) -> Sight:
        """Return what tells how often it shows: of those that chose it, it is too many."""
        if self.question.finding or not self.quorum.is_measured:
            return bad
        self.progress("measuring how often it shows")
        return self._end("bad", self.question.bad)

    def _runs(self, rate: float) -> int:
        runs = self.quorum.runs(rate, self.goods) if rate else MOST + 1
        if runs > MOST:
            raise UserError(
                f"the finding shows too seldom: at a rate of {rate:.1%} it takes over "
                f"{MOST} boots to call one kernel good",
                hint="more --boots tell the rate better; less --confidence takes fewer",
            )
        return runs

    def _twin(self, sight: Sight) -> str:
        """Return one that left the same bytes, debug information aside."""
        same = (
            answer.commit
            for answer in self.journal.answers.values()
            if sight.digest
            and answer.digest == sight.digest
            and answer.commit != sight.commit
        )
        return next(same, "")


def answered(sight: Sight, key: str) -> Answer:
    """Return what ``sight`` says to whether the finding of ``key`` occurs."""
    outcome = Outcome.SKIP
    if sight.findings is not None:
        outcome = Outcome.BAD if occurs(key, sight.findings) else Outcome.GOOD
    return Answer(
        sight.commit,
        outcome,
        sight.reason,
        toolchain=sight.toolchain,
        runs=sight.runs,
        shown=sight.times(key),
    )


def _refuse(good: Sight, key: str) -> None:
    raise UserError(
        f"the good end is bad: {key} occurs at {good.commit[:12]} already",
        hint="name an older one with --good",
    )


def _what_occurs(findings: tuple[Finding, ...]) -> str:
    keys = [finding.key for finding in findings[:KEYS_SHOWN]]
    return f"it has {'; '.join(keys)}" if keys else "it has no finding at all"

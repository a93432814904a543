"""Hunt: asks commit after commit, keeps the answers, and trusts none too far.

Both ends are proved first. The first bad commit and what it is made on are looked at
again in empty output directories; if that differs from what was seen, all answers of
kept directories are thrown away and the search goes on with clean builds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.dag import Dag
from harness.bisect.journal import Distrusted, Journal, Sought, Told
from harness.bisect.probe import Looker, Sight
from harness.bisect.question import Question, fresh, occurs
from harness.bisect.search import Conclusion, Contradiction, First, Search
from harness.errors import UserError
from harness.finding import Finding
from harness.progress import Progress, silent

KEYS_SHOWN = 5


@dataclass(slots=True)
class Hunt:
    """A bisection on its way.

    Attributes:
        dag: what lies between the ends of ``question``, the bad one included.
        replayed: answers that ``git bisect log`` gave: commit -> outcome.
    """

    question: Question
    dag: Dag
    looker: Looker
    journal: Journal
    replayed: Mapping[str, Answer] = field(default_factory=dict)
    progress: Progress = silent
    _others: int = field(default=0, init=False)

    def run(self) -> Bisection:
        """Hunt to the end.

        Raises:
            UserError: an end is not what it is said to be, or cannot be tested.
            InfraError: the machine failed; the journal resumes from there.
        """
        started = time.monotonic()
        sought = self._prove()
        self._replay()
        conclusion, first, parents = self._search(sought)
        revert = self._revert(sought, first, parents) if first else None
        return Bisection(
            self.question,
            sought,
            self._others,
            tuple(self.journal.answers.values()),
            conclusion,
            first,
            parents,
            revert,
            round(time.monotonic() - started, 1),
        )

    def _prove(self) -> Finding:
        """Show that the bad end has the finding, and that the good end has not."""
        known = self.journal.sought
        ends = (self.question.bad, self.question.good)
        if known and all(end in self.journal.answers for end in ends):
            return known
        self.progress("proving the bad end")
        bad = self._end("bad", self.question.bad)
        found = bad.findings or ()
        if self.question.finding and not occurs(self.question.finding, found):
            raise UserError(
                f"the bad end is good: {self.question.finding} does not occur at "
                f"{bad.commit[:12]} in {self.question.target}",
                hint=_what_occurs(found),
            )
        self.progress("proving the good end")
        good = self._end("good", self.question.good)
        new = fresh(found, good.findings or ())
        if self.question.finding and occurs(self.question.finding, good.findings or ()):
            raise UserError(
                f"the good end is bad: {self.question.finding} occurs at "
                f"{good.commit[:12]} already",
                hint="name an older commit with --good",
            )
        if not new:
            raise UserError(
                f"the ends do not differ: {self.question.target} has at "
                f"{bad.commit[:12]} no finding that it has not at {good.commit[:12]}",
                hint=_what_occurs(found),
            )
        sought = occurs(self.question.finding, new) or new[0]
        self._others = len(new) - 1
        self.journal.add(Sought(replace(sought, window=tuple(sought.window))))
        self._tell(bad, sought)
        self._tell(good, sought)
        return sought

    def _end(self, name: str, commit: str) -> Sight:
        sight = self.looker.look(commit, clean=self.journal.distrusted)
        if sight.findings is None:
            raise UserError(
                f"the {name} end {commit[:12]} cannot be tested: {sight.reason}",
                hint=f"name another commit with --{name}, or another --toolchain",
            )
        return sight

    def _replay(self) -> None:
        for commit, answer in self.replayed.items():
            if commit in self.dag and commit not in self.journal.answers:
                self.journal.add(Told(answer))

    def _search(
        self, sought: Finding
    ) -> tuple[Conclusion, Sight | None, tuple[Sight, ...]]:
        while True:
            outcomes = {c: a.outcome for c, a in self.journal.answers.items()}
            search = Search(self.dag, self.question.bad, outcomes)
            if (commit := search.next()) is not None:
                left = len(search.candidates)
                self.progress(f"about {search.steps} steps left, {left} commits")
                self._tell(self._look(commit), sought)
                continue
            conclusion = search.conclusion()
            assert conclusion is not None
            if isinstance(conclusion, First):
                looks = self._confirm(conclusion.commit, sought)
                if looks is not None:
                    return conclusion, looks[0], tuple(looks[1:])
            elif isinstance(conclusion, Contradiction) and not self.journal.distrusted:
                self._distrust("the answers contradict each other")
            else:
                return conclusion, None, ()

    def _look(self, commit: str) -> Sight:
        return self.looker.look(commit, clean=self.journal.distrusted)

    def _tell(self, sight: Sight, sought: Finding) -> Answer:
        """Turn what was seen into an answer, and keep it."""
        outcome = Outcome.SKIP
        if sight.findings is not None:
            bad = occurs(sought.key, sight.findings)
            outcome = Outcome.BAD if bad else Outcome.GOOD
        answer = Answer(
            sight.commit,
            outcome,
            reason=sight.reason,
            digest=sight.digest,
            same_as=self._twin(sight),
            toolchain=sight.toolchain,
            clean=sight.clean,
            seconds=sight.seconds,
        )
        self.journal.add(Told(answer))
        return answer

    def _twin(self, sight: Sight) -> str:
        """Return a commit that left the same bytes, debug information aside."""
        same = (
            answer.commit
            for answer in self.journal.answers.values()
            if sight.digest
            and answer.digest == sight.digest
            and answer.commit != sight.commit
        )
        return next(same, "")

    def _confirm(self, commit: str, sought: Finding) -> list[Sight] | None:
        """Look at ``commit`` and its parents in empty directories.

        Returns None, and distrusts what was seen before, where that differs.
        """
        looks = []
        for looked_at in (commit, *self.dag.parents[commit]):
            self.progress(f"confirming {looked_at[:12]} in an empty directory")
            before = self.journal.answers.get(looked_at)
            sight = self.looker.look(looked_at, clean=True)
            answer = self._tell(sight, sought)
            expected = {Outcome.BAD} if looked_at == commit else {Outcome.GOOD}
            if looked_at != commit and (
                before is None or before.outcome is Outcome.SKIP
            ):
                expected.add(Outcome.SKIP)  # good because of what is made on it
            if answer.outcome not in expected:
                seen = before.outcome if before else Outcome.GOOD
                self._distrust(
                    f"{looked_at[:12]} is {answer.outcome} in an empty output "
                    f"directory, not {seen}"
                )
                return None
            looks.append(sight)
        return looks

    def _distrust(self, reason: str) -> None:
        """Let only clean builds count from now on.

        Raises:
            UserError: they did already: what they say does not repeat.
        """
        if self.journal.distrusted:
            raise UserError(
                f"the finding is not reproducible: {reason}",
                hint="what differs between two clean builds of one commit?",
            )
        self.progress(f"{reason}: starting over with clean builds")
        self.journal.add(Distrusted(reason))
        for commit, name in ((self.question.bad, "bad"), (self.question.good, "good")):
            sought = self.journal.sought
            assert sought is not None
            answer = self._tell(self._end(name, commit), sought)
            if answer.outcome is not Outcome(name):
                raise UserError(
                    f"the {name} end {commit[:12]} is {answer.outcome} in an empty "
                    "output directory"
                )

    def _revert(
        self, sought: Finding, first: Sight, parents: tuple[Sight, ...]
    ) -> Revert:
        """Look at the bad end without the first bad commit."""
        self.progress("checking the revert")
        made = self.looker.revert(
            first.commit, self.question.bad, merge=len(parents) > 1
        )
        if made is None:
            return Revert.CONFLICT
        sight = self.looker.look(made)
        if sight.findings is None:
            return Revert.UNTESTABLE
        still = occurs(sought.key, sight.findings)
        return Revert.STILL_THERE if still else Revert.GONE


def _what_occurs(findings: tuple[Finding, ...]) -> str:
    keys = [finding.key for finding in findings[:KEYS_SHOWN]]
    return f"it has {'; '.join(keys)}" if keys else "it has no finding at all"

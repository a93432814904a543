"""Hunt: asks commit after commit, and trusts no answer too far.

Both ends are proved first. The first bad commit (or the range that may have it) and what
it is made on are looked at again in empty output directories; if that differs from what
was seen, all answers of kept directories are thrown away and the search goes on with
clean builds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from msgspec import Struct, field

from harness.bisect.answer import Answer, Outcome
from harness.bisect.asking import Asking
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.dag import Dag
from harness.bisect.journal import Told
from harness.bisect.question import occurs
from harness.bisect.search import (
    Conclusion,
    Contradiction,
    First,
    Search,
    Untestable,
)
from harness.bisect.sight import Sight
from harness.errors import UserError

FEW = 4  # commits of an untestable range: each takes a build in an empty directory


class Reverter(Protocol):
    """Takes a commit out of another."""

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        """Return a commit that is ``onto`` without ``commit``; None on a conflict."""
        ...


class Hunt(Struct):
    """A bisection on its way.

    Attributes:
        dag: what lies between the ends of the question, the bad one included.
        replayed: answers that ``git bisect log`` gave: commit -> outcome.
    """

    dag: Dag
    asking: Asking
    reverter: Reverter
    replayed: Mapping[str, Answer] = field(default_factory=dict)

    def run(self) -> Bisection:
        """Hunt to the end.

        Raises:
            UserError: an end is not what it is said to be, or cannot be tested; or the
                finding is older than the good end.
            InfraError: the machine failed; the journal resumes from there.
        """
        started = time.monotonic()
        asking = self.asking
        steps = Search(self.dag, asking.question.bad).steps
        asking.goods = steps + 2  # the good end, and the parent once more
        asking.prove()
        self._replay()
        conclusion, first, parents = self._search()
        reverts = {c: self._revert(c) for c in self._suspects(conclusion)}
        return Bisection(
            asking.question,
            asking.sought,
            asking.others,
            tuple(asking.journal.answers.values()),
            conclusion,
            first,
            parents,
            reverts,
            self._no_ops(),
            sure=asking.sure,
            seconds=round(time.monotonic() - started, 1),
        )

    def _no_ops(self) -> tuple[str, ...]:
        """Return what left the same bytes as all that it is made on."""
        digests = {c: a.digest for c, a in self.asking.journal.answers.items()}
        return tuple(
            commit
            for commit, digest in digests.items()
            if digest and commit in self.dag
            if all(
                digests.get(made_on) == digest for made_on in self.dag.parents[commit]
            )
        )

    def _replay(self) -> None:
        journal = self.asking.journal
        for commit, answer in self.replayed.items():
            if commit in self.dag and commit not in journal.answers:
                journal.add(Told(answer))

    def _search(self) -> tuple[Conclusion, Sight | None, tuple[Sight, ...]]:
        asking = self.asking
        while True:
            outcomes = {c: a.outcome for c, a in asking.journal.answers.items()}
            search = Search(self.dag, asking.question.bad, outcomes)
            if (commit := search.next()) is not None:
                left = len(search.candidates)
                asking.progress(f"about {search.steps} steps left, {left} commits")
                asking.ask(commit)
                continue
            conclusion = search.conclusion()
            assert conclusion is not None
            if not isinstance(conclusion, Contradiction):
                looks = self._confirm(conclusion)
                if looks is not None and isinstance(conclusion, First):
                    return conclusion, looks[0], tuple(looks[1:])
                if looks is not None:
                    return conclusion, None, ()
            elif asking.journal.distrusted:
                return conclusion, None, ()
            else:
                asking.distrust("the answers contradict each other")

    def _confirm(self, conclusion: First | Untestable) -> list[Sight] | None:
        """Look at what ``conclusion`` rests on in empty directories.

        Returns None, and distrusts what was seen before, where that differs.

        Raises:
            UserError: what lies behind the good end has the finding.
        """
        looks = []
        for commit, said in self._grounds(conclusion):
            self.asking.progress(f"confirming {commit[:12]} in an empty directory")
            before = self.asking.journal.answers.get(commit)
            looks.append(self.asking.ask(commit, clean=True))
            if said is Outcome.GOOD:
                self._require_new(commit)
            expected = {said}
            if said is Outcome.GOOD and (
                before is None or before.outcome is Outcome.SKIP
            ):
                expected.add(Outcome.SKIP)  # good because of what is made on it
            if self.asking.contradicted(commit, expected, before):
                return None
        return looks

    def _require_new(self, parent: str) -> None:
        """Raise UserError if ``parent`` is bad and nothing that is searched."""
        question, answers = self.asking.question, self.asking.journal.answers
        outside = parent not in self.dag and parent != question.good
        if outside and answers[parent].outcome is Outcome.BAD:
            raise UserError(
                f"{parent[:12]}, on which a branch is made and which lies behind the good "
                f"end, has the finding already: it was fixed before {question.good[:12]}",
                hint="the branch brought it back; for what made it, search behind that: "
                f"--bad {parent[:12]} and an older --good",
            )

    def _grounds(self, conclusion: First | Untestable) -> Iterator[tuple[str, Outcome]]:
        """Yield what is bad, skipped and good if ``conclusion`` is right."""
        commits, skipped = conclusion.commits, conclusion.skipped
        yield from ((c, Outcome.BAD) for c in commits if c not in skipped)
        if len(skipped) <= FEW:  # what a log skips, our machine may not survive
            ours = [c for c in skipped if self.asking.journal.answers[c].runs]
            yield from ((commit, Outcome.SKIP) for commit in ours)
        made_on = (parent for c in commits for parent in self.dag.parents[c])
        behind = dict.fromkeys(parent for parent in made_on if parent not in commits)
        yield from ((commit, Outcome.GOOD) for commit in behind)

    def _suspects(self, conclusion: Conclusion) -> tuple[str, ...]:
        """Return the commits that it is worth to revert."""
        if isinstance(conclusion, First):
            return (conclusion.commit,)
        if isinstance(conclusion, Untestable) and len(conclusion.commits) <= FEW:
            return conclusion.commits
        return ()

    def _revert(self, commit: str) -> Revert:
        """Look at the bad end without ``commit``."""
        asking = self.asking
        asking.progress(f"checking the revert of {commit[:12]}")
        merge = len(self.dag.parents[commit]) > 1
        made = self.reverter.revert(commit, asking.question.bad, merge=merge)
        if made is None:
            return Revert.CONFLICT
        sight = asking.looker.look(made, asking.wanted, clean=True)
        if sight.findings is None:
            return Revert.UNTESTABLE
        still = occurs(asking.sought.key, sight.findings)
        return Revert.STILL_THERE if still else Revert.GONE

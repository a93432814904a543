"""Hunt: asks about configurations between two, and trusts no answer too far.

As that of commits: both ends are proved, what comes out is looked at in empty output
directories, with each option and without it, and where that differs from what was seen
in kept ones the search starts over.
"""

from __future__ import annotations

import time

from msgspec import Struct, field

from harness.bisect.answer import Answer, Outcome
from harness.bisect.asking import Asking, answered
from harness.bisect.config.bisection import ConfigBisection, Without
from harness.bisect.config.delta import Delta, applied, deltas
from harness.bisect.config.probe import Resolver
from harness.bisect.config.reduce import Unit, reduce
from harness.bisect.sight import Sight
from harness.errors import UserError
from harness.kconfig import parse_config

SHOWN = 3  # options that a label names
SHARE = 3  # of an option's bisection, and what comes behind it
_WITHOUT = {
    Outcome.GOOD: Without.GONE,
    Outcome.BAD: Without.STILL_THERE,
    Outcome.SKIP: Without.UNTESTABLE,
}


class ConfigHunt(Struct):
    """A search for options on its way; the ends of the question are resolved.

    Attributes:
        resolver: also the looker of ``asking``.
    """

    asking: Asking
    resolver: Resolver
    _labels: dict[str, str] = field(default_factory=dict)
    _known: dict[frozenset[str], str] = field(default_factory=dict)

    def run(self) -> ConfigBisection:
        """Hunt to the end.

        Raises:
            UserError: an end is not what it is said to be, or cannot be tested.
            InfraError: the machine failed; the journal resumes from there.
        """
        started = time.monotonic()
        asking, question = self.asking, self.asking.question
        self._labels |= {
            question.bad: "the bad configuration",
            question.good: "the good configuration",
        }
        differ = deltas(self._config(question.good), self._config(question.bad))
        asking.goods = len(differ).bit_length() + SHARE
        asking.prove()
        self._require_whole(differ)
        looks = None
        while looks is None:
            units = self._reduce(differ)
            looks = self._confirm(differ, units)
        named = {delta.symbol: delta for delta in differ}
        return ConfigBisection(
            question,
            asking.sought,
            asking.others,
            tuple(tuple(named[symbol] for symbol in unit) for unit in units),
            len(differ),
            len(self._known),
            self._follows(looks[0].commit, units),
            tuple(asking.journal.answers.values()),
            self._labels,
            looks[0],
            tuple(looks[1:]),
            self._reverse(differ, units),
            asking.sure,
            round(time.monotonic() - started, 1),
        )

    def _require_whole(self, differ: tuple[Delta, ...]) -> None:
        """Raise UserError unless all that differs, set on the good one, is bad."""
        everything = frozenset(delta.symbol for delta in differ)
        answer = self._ask(differ, everything)
        if answer.outcome is Outcome.BAD:
            return
        bad = self._config(self.asking.question.bad)
        other = deltas(self._config(answer.commit), bad)
        raise UserError(
            f"with all {len(differ)} differences set the good configuration is "
            f"{answer.outcome}: olddefconfig does not make the bad one of it",
            hint=f"what it keeps apart: {_label(frozenset(d.symbol for d in other))}",
        )

    def _config(self, name: str) -> dict[str, str]:
        return parse_config(self.resolver.read(name))

    def _resolve(self, differ: tuple[Delta, ...], chosen: frozenset[str]) -> str:
        """Return the hash of the good configuration with ``chosen``."""
        if chosen not in self._known:
            text = applied(self._config(self.asking.question.good), differ, chosen)
            name = self._known[chosen] = self.resolver.resolve(text)
            self._labels.setdefault(name, f"good with {_label(chosen)}")
        return self._known[chosen]

    def _reduce(self, differ: tuple[Delta, ...]) -> tuple[Unit, ...]:
        search = reduce([delta.symbol for delta in differ])
        chosen = next(search)
        while True:
            try:
                chosen = search.send(self._ask(differ, chosen).outcome)
            except StopIteration as done:
                units: tuple[Unit, ...] = done.value
                return units

    def _ask(self, differ: tuple[Delta, ...], chosen: frozenset[str]) -> Answer:
        self.asking.progress(f"{len(chosen)} of {len(differ)} options")
        name = self._resolve(differ, chosen)
        if name not in self.asking.journal.answers:
            self.asking.ask(name)
        return self.asking.journal.answers[name]

    def _confirm(
        self, differ: tuple[Delta, ...], units: tuple[Unit, ...]
    ) -> list[Sight] | None:
        """Look at ``units``, and at all but each one of them, in empty directories.

        Returns None, and distrusts what was seen before, where that differs.
        """
        all_of_it = frozenset(symbol for unit in units for symbol in unit)
        sets = [all_of_it, *(all_of_it - {*unit} for unit in units)]
        looks: list[Sight] = []
        for chosen in sets:
            name = self._resolve(differ, chosen)
            self.asking.progress(
                f"confirming {self._labels[name]} in an empty directory"
            )
            before = self.asking.journal.answers.get(name)
            expected = {Outcome.BAD} if not looks else {Outcome.GOOD, Outcome.SKIP}
            looks.append(self.asking.ask(name, clean=True))
            if self.asking.contradicted(name, expected, before):
                return None
        return looks

    def _follows(self, first: str, units: tuple[Unit, ...]) -> tuple[Delta, ...]:
        """Return what else olddefconfig changed for ``units``."""
        chosen = {symbol for unit in units for symbol in unit}
        changed = deltas(self._config(self.asking.question.good), self._config(first))
        return tuple(
            delta
            for delta in changed
            if delta.symbol not in chosen and {delta.good, delta.bad} != {None, "n"}
        )

    def _reverse(self, differ: tuple[Delta, ...], units: tuple[Unit, ...]) -> Without:
        """Look at the bad configuration with the good values of ``units``."""
        asking = self.asking
        asking.progress("checking the bad configuration without them")
        chosen = {symbol for unit in units for symbol in unit}
        back = [delta.reversed for delta in differ]
        bad = self._config(asking.question.bad)
        name = self.resolver.resolve(applied(bad, back, chosen))
        if name == asking.question.bad:
            return Without.HELD
        answer = asking.journal.answers.get(name)
        if answer is None:
            sight = self.resolver.look(name, asking.wanted)
            answer = answered(sight, asking.sought.key)
        return _WITHOUT[answer.outcome]


def _label(chosen: frozenset[str]) -> str:
    names = sorted(chosen)
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return f"{', '.join(names[:SHOWN])}{more}"

"""Dag: commits and their parents, as far as a bisection goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct


class Dag(Struct, frozen=True):
    """A piece of history.

    Attributes:
        parents: of each commit, in the order that git lists them. Parents that are
            no keys lie outside, and are not walked to.
    """

    parents: Mapping[str, tuple[str, ...]]

    def __contains__(self, commit: object) -> bool:
        return commit in self.parents

    def __len__(self) -> int:
        return len(self.parents)

    def ancestors(self, commits: Iterable[str]) -> frozenset[str]:
        """Return ``commits`` and all that they are made on, outsiders aside."""
        todo = [commit for commit in commits if commit in self.parents]
        seen = set(todo)
        while todo:
            for parent in self.parents[todo.pop()]:
                if parent in self.parents and parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
        return frozenset(seen)

    def within(self, commits: frozenset[str]) -> Dag:
        """Return the piece that has only ``commits``."""
        return Dag({c: p for c, p in self.parents.items() if c in commits})

    def upwards(self) -> Iterator[str]:
        """Yield every commit behind all of its parents."""
        children: dict[str, list[str]] = {}
        missing = {}
        for commit, parents in self.parents.items():
            inside = {parent for parent in parents if parent in self.parents}
            missing[commit] = len(inside)
            for parent in inside:
                children.setdefault(parent, []).append(commit)
        ready = [commit for commit in self.parents if not missing[commit]]
        while ready:
            commit = ready.pop()
            yield commit
            for child in children.get(commit, ()):
                missing[child] -= 1
                if not missing[child]:
                    ready.append(child)

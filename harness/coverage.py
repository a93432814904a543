"""Coverage: what boots have executed and found true, of what they could have reached.

Things are known by numbers that are the same in each build that has them
(harness/elf/place.py), so that what several platforms have done is one set: something
is reachable, executed or verified if it is so on one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from harness.result import Kind

_U64 = npt.NDArray[np.uint64]
_Bools = npt.NDArray[np.bool_]
_COLUMNS = ("reachable", "executed", "verified")


class Things(Struct, frozen=True):
    """All there are of one kind.

    Attributes:
        key: u64[n], ascending, each once.
        reachable: bool[n], control can come there.
        executed: bool[n], it did.
        verified: bool[n], and the table was right there.
    """

    key: _U64
    reachable: _Bools
    executed: _Bools
    verified: _Bools

    def counts(self, kind: Kind) -> Iterator[tuple[str, int]]:
        """Yield how many are reachable, and how many of these have been reached."""
        yield f"{kind}_reachable", int(self.reachable.sum())
        yield f"{kind}_executed", int((self.executed & self.reachable).sum())
        yield f"{kind}_verified", int((self.verified & self.reachable).sum())


class Cold(Struct, frozen=True):
    """A site that is reachable and has not been verified.

    Attributes:
        place: where it is, in words.
        heat: how often the most often executed instruction of its function was.
    """

    place: str
    heat: int


class Coverage(Struct, frozen=True):
    """What one boot has covered, or several.

    Attributes:
        things: those of each kind.
        cold: the sites that have not been verified, by key.
    """

    things: Mapping[Kind, Things]
    cold: Mapping[int, Cold] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers by name: of each kind, and of what."""
        return {
            name: number
            for kind, things in self.things.items()
            for name, number in things.counts(kind)
        }

    def hottest(self, most: int) -> list[Cold]:
        """Return the unverified sites whose functions were executed most."""
        hot = sorted(self.cold.values(), key=lambda cold: (-cold.heat, cold.place))
        return [cold for cold in hot[:most] if cold.heat]


def things(key: _U64, reachable: _Bools, executed: _Bools, verified: _Bools) -> Things:
    """Return the things of rows in any order; what is in several is one."""
    keys, row = np.unique(key, return_inverse=True)
    columns = []
    for given in (reachable, executed, verified):
        column = np.zeros(len(keys), bool)
        column[row[given]] = True
        columns.append(column)
    return Things(keys, *columns)


def merge(parts: Iterable[Coverage]) -> Coverage:
    """Return what all of ``parts`` have covered together."""
    parts = list(parts)
    merged = {
        kind: _joined([part.things[kind] for part in parts if kind in part.things])
        for kind in Kind
    }
    sites = merged[Kind.SITES]
    verified = set(sites.key[sites.verified].tolist())
    cold: dict[int, Cold] = {}
    for part in parts:
        for key, one in part.cold.items():
            if key not in verified:
                heat = one.heat + (cold[key].heat if key in cold else 0)
                cold[key] = Cold(one.place, heat)
    return Coverage(merged, cold)


def _joined(parts: list[Things]) -> Things:
    none = np.zeros(0, bool)
    return things(
        np.concatenate([np.zeros(0, np.uint64), *(part.key for part in parts)]),
        *(
            np.concatenate([none, *(getattr(part, name) for part in parts)])
            for name in _COLUMNS
        ),
    )

"""What boots have covered, and what they have covered together."""

from __future__ import annotations

import numpy as np

from harness.coverage import Cold, Coverage, Things, merge, things
from harness.result import Kind


def some(*rows: tuple[int, bool, bool, bool]) -> Things:
    """Return things of (key, reachable, executed, verified)."""
    key = np.array([row[0] for row in rows], np.uint64)
    reachable, executed, verified = (
        np.array([row[column] for row in rows], bool) for column in (1, 2, 3)
    )
    return things(key, reachable, executed, verified)


def test_what_has_one_key_is_one_thing() -> None:
    """Rows come in any order; one of them that was verified is enough."""
    found = some((7, True, True, False), (3, True, False, False), (7, True, True, True))
    assert found.key.tolist() == [3, 7]
    assert found.executed.tolist() == found.verified.tolist() == [False, True]


def test_only_the_reachable_is_counted() -> None:
    """What was executed and is not reachable is no share of what is."""
    found = some((1, True, True, True), (2, True, True, False), (3, False, True, True))
    assert Coverage({Kind.SITES: found}).counts == {
        "sites_reachable": 2,
        "sites_executed": 2,
        "sites_verified": 1,
    }


def test_platforms_together_cover_what_one_of_them_has() -> None:
    """A thing of one platform only counts as much as one of both."""
    native = {Kind.SITES: some((1, True, True, True), (2, True, False, False))}
    xen = {Kind.SITES: some((2, True, True, True), (9, True, False, False))}
    merged = merge([Coverage(native), Coverage(xen)])
    assert merged.counts["sites_reachable"] == 3
    assert merged.counts["sites_verified"] == 2
    assert merged.counts["entries_reachable"] == 0
    again = merge([merged, Coverage(xen)])
    assert again.counts == merged.counts


def test_the_hottest_are_of_what_no_platform_has_verified() -> None:
    """Their heat adds up; what was never near to be executed is not among them."""
    cold = {1: Cold("a", 5), 2: Cold("b", 3), 3: Cold("c", 0)}
    native = Coverage(
        {Kind.SITES: some(*((k, True, False, False) for k in cold))}, cold
    )
    sites = some((1, True, True, True), (2, True, False, False))
    xen = Coverage({Kind.SITES: sites}, {2: Cold("b", 4)})
    assert native.hottest(9) == [Cold("a", 5), Cold("b", 3)]
    assert native.hottest(1) == [Cold("a", 5)]
    assert merge([native, xen]).hottest(9) == [Cold("b", 7)]

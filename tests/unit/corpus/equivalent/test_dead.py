"""Dead code: what nothing falls into and nothing points at."""

from __future__ import annotations

from harness.corpus.equivalent.dead import dead
from tests.builders.elfwriter import UND, call
from tests.unit.corpus.program import read


def test_code_behind_a_jump_is_no_fill() -> None:
    """NOPs whose next instruction nothing names may be where a pointer leads."""
    clean = read("c3 90 31c0 c3", [(0, call(8))])

    assert dead(clean).tolist() == [False] * 4


def test_fill_before_a_branch_target() -> None:
    """NOPs between a return and a place that somebody jumps to align it."""
    clean = read("7402 c3 90 31c0 c3", [(0, call(8))])

    assert dead(clean).tolist() == [False, False, True, False, False]


def test_fill_that_a_branch_reaches() -> None:
    """A NOP that is jumped to is code."""
    clean = read("7401 c3 90 31c0 c3", [(0, call(8))])

    assert not dead(clean).any()


def test_a_branch_in_dead_code() -> None:
    """What only dead code jumps to is dead: code behind a call that does not return."""
    behind = "7401 90 c3"  # je over a NOP; ret

    clean = read(f"e8fbffffff {behind}", [(0, call(8)), (5, UND)])
    assert dead(clean).tolist() == [False, True, True, True]
    assert not dead(read(f"e8fbffffff {behind}", [(0, call(8))])).any()

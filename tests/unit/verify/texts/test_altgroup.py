"""The two designs of December 2020, against each other and against mutations."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence

import hypothesis
import hypothesis.strategies as st
import pytest

from harness.text.insn import InsnKind
from harness.verify.texts import altgroup
from harness.verify.texts.altgroup import Merge, Row, Stream, cfi_array, merge_sort

Design = Callable[[Sequence[Stream], int], Merge]

LENGTHS = st.integers(1, 12)
STATES = st.integers(8, 11)


@st.composite
def a_stream(draw: st.DrawFn, length: int) -> Stream:
    """Draw a text of at most ``length`` bytes with arbitrary states."""
    size = draw(st.integers(0, length))
    rows, at = [], 0
    while at < size:
        step = draw(st.integers(1, size - at))
        rows.append(Row(at, step, draw(STATES)))
        at += step
    return Stream(tuple(rows), draw(STATES))


@st.composite
def any_site(draw: st.DrawFn) -> tuple[list[Stream], int]:
    """Draw a site whose streams mostly disagree somewhere."""
    length = draw(LENGTHS)
    return draw(st.lists(a_stream(length), min_size=1, max_size=4)), length


@st.composite
def agreeing_site(draw: st.DrawFn) -> tuple[list[Stream], int]:
    """Draw a site whose streams have one state per offset: no conflict at all."""
    streams, length = draw(any_site())
    truth = draw(st.lists(STATES, min_size=length + 1, max_size=length + 1))
    return [_with_truth(stream, truth) for stream in streams], length


def _with_truth(stream: Stream, truth: Sequence[int]) -> Stream:
    rows = tuple(Row(r.offset, r.length, truth[r.offset]) for r in stream.rows)
    size = sum(row.length for row in rows)
    return Stream(rows, truth[size])


SITES = st.one_of(any_site(), agreeing_site())


def disagreement(one: Design, other: Design, streams: list[Stream], size: int) -> str:
    """Return how the designs differ on a site, or nothing."""
    first, second = one(streams, size), other(streams, size)
    if first.incompatible != second.incompatible:
        return f"conflicts {first.incompatible} and {second.incompatible}"
    if first.unwind != second.unwind:
        return f"unwind {first.unwind} and {second.unwind}"
    if not first.incompatible and first.cfi != second.cfi:
        return f"merges {first.cfi} and {second.cfi}"
    return ""


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(SITES)
def test_designs_agree(site: tuple[list[Stream], int]) -> None:
    """Both find the same conflicts, and the same map where there are none."""
    assert disagreement(merge_sort, cfi_array, *site) == ""


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(agreeing_site())
def test_agreeing_streams_have_no_conflict(site: tuple[list[Stream], int]) -> None:
    """Streams with one truth merge without a word, and the merge is that truth."""
    streams, length = site
    for merge in (merge_sort(streams, length), cfi_array(streams, length)):
        assert not merge.incompatible
        assert not merge.unwind
        for stream in streams:
            assert all(merge.cfi[row.offset] == row.cfi for row in stream.rows)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(any_site())
def test_disagreement_is_found(site: tuple[list[Stream], int]) -> None:
    """A conflict is reported exactly where two streams disagree at one offset."""
    streams, length = site
    states: dict[int, set[int | None]] = {}
    for stream in streams:
        for row in stream.rows:
            states.setdefault(row.offset, set()).add(row.cfi)
        if (size := sum(row.length for row in stream.rows)) < length:
            states.setdefault(size, set()).add(stream.after)
    expected = {offset for offset, seen in states.items() if len(seen) > 1}
    assert cfi_array(streams, length).incompatible == expected
    assert merge_sort(streams, length).incompatible == expected


MUTATIONS = [
    (merge_sort, "top > start", "top < start"),
    (merge_sort, "top > start", "top >= start"),
    (merge_sort, "max(row for", "min(row for"),
    (merge_sort, "state != cfi", "state == cfi"),
    (merge_sort, "if end < length:", "if False:"),
    (merge_sort, "(end, stream.after)", "(end, stream.rows[-1].cfi)"),
    (merge_sort, "incompatible.add(top)", "pass"),
    (merge_sort, "cfi != merged[start]", "cfi == merged[start]"),
    (merge_sort, "range(length)", "range(length - 1)"),
    (cfi_array, "if size < length:", "if size + 1 < length:"),
    (cfi_array, "if size < length:", "if False:"),
    (cfi_array, "(size, stream.after)", "(size, stream.rows[-1].cfi)"),
    (cfi_array, "array[offset] != cfi", "array[offset] == cfi"),
    (cfi_array, "conflicts.add(offset)", "pass"),
    (cfi_array, "array[offset] = array[offset - 1]", "array[offset] = array[0]"),
    (cfi_array, "range(1, length)", "range(2, length)"),
    (cfi_array, "if array[offset] is None:\n                array", "if True:\n array"),
]


def _mutant(design: Design, old: str, new: str) -> Design:
    source = inspect.getsource(design)
    if "\n array" in new:
        new = new.replace("\n array", "\n                array")
    assert source.count(old) >= 1, f"{old!r} is gone from {design.__name__}"
    names = dict(vars(altgroup))
    exec("from __future__ import annotations\n" + source.replace(old, new, 1), names)
    mutant: Design = names[design.__name__]
    return mutant


def _corpus() -> list[tuple[list[Stream], int]]:
    """A fixed set of sites, half of them agreeing."""
    rng = random.Random(20201215)

    def stream(length: int, truth: list[int] | None) -> Stream:
        size, rows, at = rng.randint(0, length), [], 0
        while at < size:
            step = rng.randint(1, min(4, size - at))
            rows.append(Row(at, step, truth[at] if truth else rng.randint(8, 10)))
            at += step
        return Stream(tuple(rows), truth[size] if truth else rng.randint(8, 10))

    sites = []
    for number in range(600):
        length = rng.randint(1, 10)
        truth = [rng.randint(8, 10) for _ in range(length + 1)]
        one = truth if number % 2 else None
        sites.append(([stream(length, one) for _ in range(rng.randint(1, 3))], length))
    return sites


def _fails(one: Design, other: Design, site: tuple[list[Stream], int]) -> bool:
    try:
        return bool(disagreement(one, other, *site))
    except (IndexError, TypeError, ValueError):
        return True  # a mutant that crashes is caught, too


@pytest.mark.parametrize(("design", "old", "new"), MUTATIONS)
def test_mutation_is_caught(design: Design, old: str, new: str) -> None:
    """The property has a counterexample for each mutation of either design."""
    mutant = _mutant(design, old, new)
    other = cfi_array if design is merge_sort else merge_sort
    assert any(_fails(mutant, other, site) for site in _corpus())


def test_corpus_is_clean() -> None:
    """The sites that catch the mutations have nothing against the designs."""
    assert not any(_fails(merge_sort, cfi_array, site) for site in _corpus())


def _peter() -> tuple[list[Stream], int]:
    """LKML 20210104154818.GB3040: `call` over [0,6); pushf, a longer insn, pop."""
    call = Stream((Row(0, 6, 8, InsnKind.CALL_INDIRECT),), 8)
    inline = Stream(
        (
            Row(0, 1, 8, InsnKind.PUSHF),
            Row(1, 4, 16),
            Row(5, 1, 16, InsnKind.POP),
        ),
        8,
    )
    return [call, inline], 6


def test_both_call_the_january_example_fine() -> None:
    """Neither design minds the example that its authors discussed."""
    for design in (merge_sort, cfi_array):
        merge = design(*_peter())
        assert merge.cfi == (8, 16, 16, 16, 16, 16)
        assert not merge.incompatible
        assert not merge.unwind


def test_the_january_example_unwinds_wrongly() -> None:
    """The call's return address minus one has the other stream's state."""
    streams, length = _peter()
    assert altgroup.wrong_returns(streams, cfi_array(streams, length)) == {0}


def test_short_inline_is_fine_at_ret_minus_one() -> None:
    """pushf;pop and NOPs under a call: at the call's last byte all is as before."""
    call = Stream((Row(0, 6, 8, InsnKind.CALL_INDIRECT),), 8)
    inline = Stream((Row(0, 1, 8, InsnKind.PUSHF), Row(1, 1, 16, InsnKind.POP)), 8)
    merge = cfi_array([call, inline], 6)
    assert merge.cfi == (8, 16, 8, 8, 8, 8)
    assert not altgroup.wrong_returns([call, inline], merge)


def test_designs_differ_on_unreached_code() -> None:
    """Zijlstra gives unreached code the first state, objtool lets it inherit."""
    stream = Stream((Row(0, 1, 8), Row(1, 1, 16), Row(2, 1, None)), 16)
    assert merge_sort([stream], 3).cfi == (8, 16, 8)
    assert cfi_array([stream], 3).cfi == (8, 16, 16)

"""Returns that are a jump to a thunk."""

from __future__ import annotations

import pytest

from harness.text.patch.return_site import return_sites
from tests.builders.running import TEXT, Kernel, code_of, near

RETHUNK = 11 * 32 + 14
THUNK, SRSO, ITS = 0x800, 0x840, 0x880
PLAIN = b"\xc3\xcc\xcc\xcc\xcc"


def a_kernel(active: int) -> Kernel:
    """Two returns: one in each half of a cache line; ``active`` is the thunk."""
    places = [TEXT, TEXT + 0x20]
    return Kernel(
        {at - TEXT: near(b"\xe9", at, TEXT + THUNK) for at in places},
        functions={"__x86_return_thunk": THUNK, "its_return_thunk": ITS},
        tables={".return_sites": places},
        variables={"x86_return_thunk": (TEXT + THUNK, TEXT + active)},
    )


def test_are_plain_where_no_thunk_is_wanted() -> None:
    """Without RETHUNK each is a return and four int3."""
    kernel = a_kernel(THUNK)
    edits = return_sites(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == PLAIN
    assert code_of(kernel, edits, TEXT + 0x20, 5) == PLAIN


def test_jump_to_the_thunk_that_the_kernel_says() -> None:
    """The variable's value at the time, not what was linked."""
    kernel = a_kernel(SRSO)
    edits = return_sites(kernel.linked(), kernel.said([RETHUNK]))
    assert code_of(kernel, edits, TEXT, 5) == near(b"\xe9", TEXT, TEXT + SRSO)


def test_its_jumps_only_in_the_lower_half_of_a_cache_line() -> None:
    """cpu_wants_rethunk_at()."""
    kernel = a_kernel(ITS)
    edits = return_sites(kernel.linked(), kernel.said([RETHUNK]))
    assert code_of(kernel, edits, TEXT, 5) == near(b"\xe9", TEXT, TEXT + ITS)
    assert code_of(kernel, edits, TEXT + 0x20, 5) == PLAIN
    assert edits is not None
    assert edits.counts() == {"return": 1, "thunk": 1}


def test_what_jumps_elsewhere_is_left_alone() -> None:
    """The kernel warns of it and goes on."""
    kernel = a_kernel(SRSO)
    kernel.text[0] = near(b"\xe9", TEXT, TEXT + 0x500)
    edits = return_sites(kernel.linked(), kernel.said([RETHUNK]))
    assert code_of(kernel, edits, TEXT, 5) == kernel.text[0]


@pytest.mark.parametrize(
    ("features", "written"),
    [([], PLAIN + b"\xcc"), ([RETHUNK], near(b"\xe9", TEXT, TEXT + SRSO) + b"\xcc")],
)
def test_the_prefix_of_clangs_jump_is_no_part_of_what_is_written(
    features: list[int], written: bytes
) -> None:
    """All of its six bytes are: what is behind the return is int3 (patch_return())."""
    kernel = a_kernel(SRSO)
    kernel.text[0] = b"\x2e" + near(b"\xe9", TEXT + 1, TEXT + THUNK)
    edits = return_sites(kernel.linked(), kernel.said(features))
    assert code_of(kernel, edits, TEXT, 6) == written

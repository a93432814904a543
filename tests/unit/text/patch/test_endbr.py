"""ENDBR of functions that nobody calls by a pointer."""

from __future__ import annotations

import pytest

from harness.text.patch.endbr import POISON, POISON_6_18, endbr_seals
from tests.builders.running import TEXT, Kernel, code_of


@pytest.mark.parametrize("poison", [POISON, POISON_6_18])
def test_is_written_over_with_what_the_kernel_has_for_it(poison: bytes) -> None:
    """Which of the two NOPs, the constant in the kernel's own code tells."""
    kernel = Kernel(
        {0: b"\xf3\x0f\x1e\xfa\xc3", 0x10: b"\xb8" + poison + b"\xc3"},
        functions={"apply_seal_endbr": 0x10},
        tables={".ibt_endbr_seal": [TEXT]},
    )
    kernel.functions["behind"] = 0x20
    edits = endbr_seals(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == poison + b"\xc3"


def test_is_left_alone_where_there_is_none() -> None:
    """A site without ENDBR is only warned about."""
    kernel = Kernel({0: b"\x55\x90\x90\x90"}, tables={".ibt_endbr_seal": [TEXT]})
    edits = endbr_seals(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 4) == b"\x55\x90\x90\x90"
    assert edits is not None
    assert edits.counts() == {"kept": 1}

"""What a running machine makes of its alternatives."""

from __future__ import annotations

import struct

import pytest

from harness.text.patch.site import alternatives, paravirt_calls
from tests.builders.elfwriter import Alternative
from tests.builders.running import CODE, TEXT, Kernel, code_of, near
from tests.builders.site import ALWAYS, SMAP, XENPV

NATIVE, XEN, NOTHING, BUG = (TEXT + at for at in (0x400, 0x440, 0x480, 0x4C0))
DIRECT, NOT = 2, 1


def a_kernel(pointer: int) -> Kernel:
    """`call *pv_ops`: direct by ``pointer``, or `pushf; pop`; and a site for SMAP."""
    kernel = Kernel(
        functions={"nop_func": NOTHING, "BUG_func": BUG},
        variables={"pv_ops": (NATIVE, pointer)},
        replacements=near(b"\xe8", CODE, BUG) + b"\x9c\x58" + b"\x0f\x01\xca",
        names={"ALWAYS": ALWAYS, "XENPV": XENPV, "SMAP": SMAP},
    )
    slot = kernel.address("pv_ops")
    kernel.text[0] = b"\xff\x15" + struct.pack("<i", slot - TEXT - 6) + b"\x90" * 3
    kernel.alternatives = [
        (0, 0, Alternative(0, 0, ALWAYS, 6, 5, flags=DIRECT)),
        (0, 5, Alternative(0, 0, XENPV, 6, 2, flags=NOT)),
        (6, 7, Alternative(0, 0, SMAP, 3, 3)),
    ]
    return kernel


@pytest.mark.parametrize(
    ("pointer", "wanted"),
    [
        (XEN, near(b"\xe8", TEXT, XEN) + b"\x90"),
        (NOTHING, bytes.fromhex("660f1f440000")),
        (0, near(b"\xe8", TEXT, BUG) + b"\x90"),
    ],
)
def test_calls_go_where_the_machines_pointer_says(pointer: int, wanted: bytes) -> None:
    """What the image has in pv_ops does not matter; null is a call of BUG_func()."""
    kernel = a_kernel(pointer)
    edits = alternatives(kernel.linked(), kernel.said([ALWAYS, XENPV]))
    assert code_of(kernel, edits, TEXT, 6) == wanted
    assert edits is not None
    assert edits.counts() == {"ALWAYS direct call": 1, "original": 1}


def test_the_last_entry_that_matches_wins() -> None:
    """Natively that is the code itself, and each site's winner is told."""
    kernel = a_kernel(XEN)
    edits = alternatives(kernel.linked(), kernel.said([ALWAYS, SMAP]))
    assert code_of(kernel, edits, TEXT, 9) == bytes.fromhex("9c58 0f1f4000 0f01ca")
    assert edits is not None
    assert edits.counts() == {"!XENPV": 1, "SMAP": 1}


def test_a_kernel_without_alternatives_has_no_such_step() -> None:
    """No table, no edit."""
    kernel = Kernel()
    assert alternatives(kernel.linked(), kernel.said([ALWAYS])) is None


@pytest.mark.parametrize(
    ("pointer", "wanted", "variant"),
    [
        (NATIVE, near(b"\xe8", TEXT, NATIVE), "direct call"),
        (XEN, near(b"\xe8", TEXT, XEN), "direct call"),
        (NOTHING, bytes.fromhex("660f1f4400"), "inline"),
    ],
)
def test_paravirt_calls_go_where_the_machines_pointer_says(
    pointer: int, wanted: bytes, variant: str
) -> None:
    """.parainstructions, up to 6.7: whatever was linked."""
    kernel = Kernel(
        functions={"native_write_msr": NATIVE, "_paravirt_nop": NOTHING},
        variables={"pv_ops": (NATIVE, pointer)},
    )
    slot = kernel.address("pv_ops")
    kernel.text[0] = b"\xff\x15" + struct.pack("<i", slot - TEXT - 6)
    kernel.paravirt = [(TEXT, 0, 6)]
    edits = paravirt_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == wanted
    assert edits is not None
    assert edits.counts() == {variant: 1}


@pytest.mark.parametrize(
    ("functions", "wanted"),
    [
        ({"paravirt_BUG": BUG}, near(b"\xe8", TEXT, BUG) + b"\x90"),
        ({}, bytes.fromhex("0f0b 0f1f4000")),
    ],
)
@pytest.mark.parametrize("linked", [NATIVE, 0])
def test_a_paravirt_call_of_nobody_dies(
    linked: int, functions: dict[str, int], wanted: bytes
) -> None:
    """Xen has no function for some: 6.1 calls paravirt_BUG(), 5.10 writes ud2."""
    kernel = Kernel(
        functions={"native_write_msr": NATIVE, **functions},
        variables={"pv_ops": (linked, 0)},
    )
    slot = kernel.address("pv_ops")
    kernel.text[0] = b"\xff\x15" + struct.pack("<i", slot - TEXT - 6)
    kernel.paravirt = [(TEXT, 0, 6)]
    edits = paravirt_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 6) == wanted


def test_a_kernel_without_paravirt_sites_has_no_such_step() -> None:
    """6.8 and later: alternatives do it."""
    kernel = Kernel()
    assert paravirt_calls(kernel.linked(), kernel.said()) is None

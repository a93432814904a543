"""The jump that Xen PV guests write by hand."""

from __future__ import annotations

from harness.text.patch.xen_iret import xen_iret
from tests.builders.running import TEXT, Kernel, code_of, near
from tests.builders.site import XENPV

NATIVE = near(b"\xe9", TEXT, TEXT + 5)


def test_goes_to_xen_iret_only_under_xen() -> None:
    """Elsewhere it stays the jump to what is behind it."""
    kernel = Kernel(
        {0: NATIVE}, functions={"early_xen_iret_patch": 0, "xen_iret": 0x80}
    )
    native = xen_iret(kernel.linked(), kernel.said())
    xen = xen_iret(kernel.linked(), kernel.said([XENPV]))
    assert code_of(kernel, native, TEXT, 5) == NATIVE
    assert code_of(kernel, xen, TEXT, 5) == near(b"\xe9", TEXT, TEXT + 0x80)


def test_a_kernel_without_xen_has_no_such_step() -> None:
    """No symbol, no edit."""
    kernel = Kernel()
    assert xen_iret(kernel.linked(), kernel.said([XENPV])) is None

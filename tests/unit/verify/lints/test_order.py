"""Order: a call that is to be made direct, and what was written over it before."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.elf.feature import Features
from harness.elf.program import Program
from harness.text.patch import Era, build_streams
from harness.verify.columns import Columns, read_columns
from harness.verify.lints.order import check_order
from tests.builders.site import ALWAYS, SMAP, XENPV, Replacement, a_site, many_sites

NAMES = Features({XENPV: "XENPV", ALWAYS: "ALWAYS", SMAP: "SMAP"}, 22, "test")
PV_CALL = bytes.fromhex("ff1500000000")
NATIVE = bytes.fromhex("9c58")  # pushf; pop %rax
DIRECT = bytes.fromhex("e800000000")
NOT, DIRECT_CALL = 1, 2

native = Replacement(NATIVE, XENPV, NOT)
direct = Replacement(DIRECT, ALWAYS, DIRECT_CALL)


def columns_of(program: Program) -> Columns:
    """Read ``program`` under the names of this test."""
    columns = read_columns(program, NAMES)
    assert columns is not None
    return columns


def places(program: Program) -> list[tuple[str, tuple[str, ...]]]:
    """What the check finds: the text and the platforms it is written on."""
    findings = check_order(columns_of(program)).findings
    return [(finding.variant, finding.platforms) for finding in findings]


def test_a_direct_call_after_native_text() -> None:
    """Everywhere but on Xen PV `pushf` is where the pointer is looked for."""
    (late,) = places(a_site(PV_CALL, [native, direct]))

    assert late == ("replacement 2 of 2 (ALWAYS)", ("native", "kvm", "vsmp"))
    (finding,) = check_order(columns_of(a_site(PV_CALL, [native, direct]))).findings
    assert "call" in finding.window[1]
    assert "pushf" in finding.window[1]
    assert "replacement 1 of 2 (not XENPV)" in finding.window[-1]


@pytest.mark.parametrize(
    "replacements",
    [
        [direct, native],  # as 6.8 and later have it
        [direct],
        [Replacement(NATIVE, XENPV), Replacement(DIRECT, XENPV, NOT | DIRECT_CALL)],
        [Replacement(PV_CALL, SMAP), direct],  # another call through memory
        [Replacement(NATIVE, ALWAYS, NOT), direct],  # never written
        [native, Replacement(PV_CALL, ALWAYS), direct],  # written over in between
        [native, Replacement(DIRECT, ALWAYS)],
    ],
)
def test_a_call_that_is_there(replacements: list[Replacement]) -> None:
    """The entry before it is not written, or is a call through memory itself."""
    assert places(a_site(PV_CALL, replacements)) == []


def test_two_direct_calls() -> None:
    """The first one leaves no call through memory."""
    assert places(a_site(PV_CALL, [direct, direct]))


def test_a_kernel_that_writes_a_site_once() -> None:
    """Since 7.0 only the last match is written: over the original."""
    columns = columns_of(a_site(PV_CALL, [native, direct]))
    assert columns.alternatives is not None
    once = build_streams(columns.program, columns.alternatives, Era.E6)

    assert check_order(replace(columns, streams=once)).findings == ()


def test_sites_of_one_macro_are_one_cause() -> None:
    """One bug is one finding, however often the macro is used."""
    program = many_sites([(PV_CALL, [native, direct])] * 3)
    findings = check_order(columns_of(program)).findings

    assert len(findings) == 3
    assert len({finding.key for finding in findings}) == 1

"""The proposal of 2017 and 2020: one site, its native code, a call per hypervisor.

`pushfq; popq %rax` where there is no hypervisor, and a direct call each for Xen, vSMP
and lguest, in place of an indirect call that is patched by a table of its own (for one
ORC table of all of them see LKML 20201215145408.GR3092).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.elf.feature import image_features
from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import InsnKind
from harness.text.patch import ORIGINAL
from harness.text.patch.choice import Machine, chosen
from harness.variant import Platform
from harness.verify.columns import Columns, read_columns
from harness.verify.texts.altgroup import (
    Row,
    Stream,
    cfi_array,
    merge_sort,
    wrong_returns,
)
from harness.verify.texts.sites import check_sites
from tests.builders.elfwriter import call
from tests.builders.site import ALWAYS, SITE, XENPV, Replacement, a_site

VSMP, LGUEST = 9, 10  # bits that such kernels would have
PUSHED = call(16)
INDIRECT = bytes.fromhex("ff1500000000")
NATIVE = bytes.fromhex("9c58")  # pushfq; popq %rax
HYPERVISORS = {"xen_save_fl": XENPV, "vsmp_save_fl": VSMP, "lguest_save_fl": LGUEST}
AS_OBJTOOL_WRITES = [(1, PUSHED), (2, call(8))]


def proposal(
    native: bytes = NATIVE,
    inside: Sequence[tuple[int, OrcEntry]] = AS_OBJTOOL_WRITES,
    size: int = 14,
) -> Program:
    """Assemble the site; each hypervisor's function lies behind it in .text."""
    functions = [(name, b"\xc3", [(0, call(8))]) for name in HYPERVISORS]

    def build(calls: Sequence[bytes]) -> Program:
        conditions = HYPERVISORS.values()
        replacements = [
            Replacement(native, ALWAYS),
            *(Replacement(c, bit) for c, bit in zip(calls, conditions, strict=True)),
        ]
        return a_site(INDIRECT, replacements, inside, functions=functions, size=size)

    draft = build([b"\xe8\0\0\0\0"] * 3)
    code = next(s for s in draft.sections if s.name == ".altinstr_replacement")
    calls = []
    for number, name in enumerate(HYPERVISORS):
        target = draft.symbols.find(name)
        assert target is not None
        behind = code.address + len(native) + 5 * (number + 1)
        calls.append(b"\xe8" + (target - behind).to_bytes(4, "little", signed=True))
    return build(calls)


def columns_of(program: Program) -> Columns:
    """The program, read."""
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


def judged(program: Program) -> tuple[Finding, ...]:
    """What is wrong with its texts."""
    return check_sites(columns_of(program)).findings


def test_it_has_five_texts_which_go_where_they_should() -> None:
    """The original, the native code, and a call of each hypervisor's function."""
    streams = columns_of(proposal()).streams
    assert streams is not None
    assert streams.entry.tolist() == [ORIGINAL, 0, 1, 2, 3]
    program = proposal()
    targets = [streams.rows(n)[0].target for n in range(2, 5)]
    assert targets == [program.symbols.find(name) for name in HYPERVISORS]


@pytest.mark.parametrize("size", [12, 13, 14])
def test_one_table_fits_all_of_them(size: int) -> None:
    """Its short native code is done before any call's last byte: one table is right."""
    assert judged(proposal(size=size)) == ()
    assert check_sites(columns_of(proposal())).counts["merge equal"] == 1


def test_without_its_own_entries_native_is_wrong() -> None:
    """What kernels up to 5.12 had: a table of the original alone."""
    (finding,) = judged(proposal(inside=[]))
    assert finding.rule == "alternative/state"
    assert finding.variant == "replacement 1 of 4 (ALWAYS)"
    assert finding.location.offset == SITE + 1


def test_longer_native_code_spoils_every_call() -> None:
    """A NOP between push and pop: all calls return under its entry, at +4 or +5."""
    native = bytes.fromhex("9c" + "0f1f00" + "58")
    findings = judged(proposal(native, [(1, PUSHED), (5, call(8))]))
    assert {finding.rule for finding in findings} == {"alternative/ret-1"}
    assert [finding.variant.split(" (")[0] for finding in findings] == [
        "replacement 2 of 4",
        "replacement 3 of 4",
        "replacement 4 of 4",
    ]
    longer = bytes.fromhex("9c" + "0f1f4000" + "58")
    findings = judged(proposal(longer, [(1, PUSHED)]))
    assert sum(finding.variant == "original" for finding in findings) == 1


def test_both_designs_of_2020_accept_the_longer_one() -> None:
    """Neither looks where a call's return address is looked up."""
    before, pushed = 8, 16
    direct = Stream((Row(0, 5, before, InsnKind.CALL),), before)
    longer = Stream((Row(0, 1, before), Row(1, 3, pushed), Row(4, 1, pushed)), before)
    streams = [Stream((Row(0, 6, before, InsnKind.CALL_INDIRECT),), before)]
    streams += [longer, direct, direct, direct]
    for design in (cfi_array, merge_sort):
        merge = design(streams, 6)
        assert not merge.incompatible
        assert wrong_returns(streams, merge) == {0}


@pytest.mark.parametrize(
    ("platform", "bits", "entry"),
    [
        (Platform.NATIVE, {}, 0),
        (Platform.KVM, {}, 0),
        (Platform.XEN, {}, 1),
        (Platform.VSMP, {VSMP: True}, 2),
        (Platform.NATIVE, {LGUEST: True}, 3),
    ],
)
def test_each_platform_gets_its_own(
    platform: Platform, bits: dict[int, bool], entry: int
) -> None:
    """The last matching entry decides; ALWAYS comes first."""
    alternatives = columns_of(proposal()).alternatives
    assert alternatives is not None
    machine = Machine(platform, features=bits)
    assert chosen(alternatives, machine).tolist() == [entry]

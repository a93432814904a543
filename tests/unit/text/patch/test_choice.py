"""Which text each site gets on a machine."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from harness.elf.alternative import Alternatives, parse_alternatives
from harness.text.patch import ORIGINAL
from harness.text.patch.choice import (
    PVUNLOCK,
    VCPUPREEMPT,
    Machine,
    asked,
    chosen,
    decided,
    reach,
)
from harness.variant import Platform
from tests.builders.site import ALWAYS, SMAP, XENPV, Replacement, a_site


def alternatives_of(*conditions: tuple[int, int]) -> Alternatives:
    """The only site, with entries of these (cpuid, flags)."""
    replacements = [Replacement(b"\xfc", cpuid, flags) for cpuid, flags in conditions]
    alternatives = parse_alternatives(a_site(b"\x90\x90", replacements))
    assert alternatives is not None
    return alternatives


@pytest.mark.parametrize(
    ("platform", "expected"), [(Platform.NATIVE, 1), (Platform.XEN, 0)]
)
def test_the_last_match_stays(platform: Platform, expected: int) -> None:
    """ALWAYS and then not XENPV is how a paravirt call is written since 6.8."""
    alternatives = alternatives_of((ALWAYS, 0), (XENPV, 1))
    assert chosen(alternatives, Machine(platform)).tolist() == [expected]


def test_named_features_go_first() -> None:
    """What is asked for outranks both the platform and the rest of the CPU."""
    alternatives = alternatives_of((SMAP, 0))
    assert chosen(alternatives, Machine(Platform.KVM)).tolist() == [ORIGINAL]
    assert chosen(alternatives, Machine(Platform.KVM, others=True)).tolist() == [0]
    without = Machine(Platform.KVM, others=True, features={SMAP: False})
    assert chosen(alternatives, without).tolist() == [ORIGINAL]


def test_native_and_vsmp_decide_alike() -> None:
    """Since 5.0 vSMP sets no feature of its own."""
    assert decided(Platform.VSMP) == decided(Platform.NATIVE)
    assert decided(Platform.XEN) != decided(Platform.KVM)


CONDITIONS = st.lists(
    st.tuples(
        st.sampled_from([ALWAYS, XENPV, SMAP, PVUNLOCK, VCPUPREEMPT, 9]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(CONDITIONS, st.sampled_from(Platform), st.data())
def test_reach_is_what_some_machine_chooses(
    conditions: list[tuple[int, int]], platform: Platform, data: st.DataObject
) -> None:
    """What stays on any CPU is in reach; what passes only is chosen by none."""
    alternatives = alternatives_of(*conditions)
    reached = reach(asked(alternatives, 0), platform)
    bits = {9: data.draw(st.booleans()), SMAP: data.draw(st.booleans())}
    for bit in (PVUNLOCK, VCPUPREEMPT):
        if bit not in decided(platform):
            bits[bit] = data.draw(st.booleans())
    choice = int(chosen(alternatives, Machine(platform, features=bits))[0])
    assert choice in reached.stays
    assert not reached.stays & reached.passes
    entry = max(reached.stays)
    if entry == ORIGINAL:
        assert reached.stays == {ORIGINAL}

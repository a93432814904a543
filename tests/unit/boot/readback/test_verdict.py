"""What reading a kernel back came to."""

from __future__ import annotations

import struct

import pytest
from msgspec.structs import replace

from harness.boot.readback.selected import unselected
from harness.boot.readback.taken import Taken, take
from harness.boot.readback.verdict import judge
from harness.elf.program import Program
from harness.errors import FormatError
from harness.text.patch.edits import Step, edits_of, written
from harness.text.patch.predict import predict
from tests.builders.elfwriter import Alternative
from tests.builders.memory import FakeMemory
from tests.builders.running import AUX, TEXT, Kernel, near
from tests.builders.site import SMAP

CLAC = b"\x0f\x01\xca"


def running(features: tuple[int, ...]) -> tuple[Program, Program]:
    """The kernel as linked, and as a machine with ``features`` has it in memory."""
    kernel = Kernel(replacements=CLAC, names={"SMAP": SMAP})
    # variables of eight bytes lie sixteen apart: the word that matters is one, those
    # before it give the array its room
    kernel.variables |= {"room": (0, 0), "more": (0, 0)}
    index = SMAP // 64
    value = sum(1 << feature % 64 for feature in features if feature // 64 == index)
    kernel.variables["capability"] = (0, value)
    base = kernel.address("capability") - 8 * index
    byte, mask = base + SMAP // 8, 1 << SMAP % 8
    test = b"\xf6\x05" + struct.pack("<i", byte - AUX - 7) + bytes([mask])
    kernel.aux = test
    kernel.text = {0: b"\x90" * 3, 8: near(b"\xe9", TEXT + 8, AUX)}
    kernel.alternatives = [
        (0, 0, Alternative(0, 0, SMAP, 3, 3)),
        (8, 0, Alternative(0, 0, SMAP, 5, 0)),
    ]
    said = kernel.said(features)
    program = kernel.linked()
    text = predict(program, said).program
    code = {s.address: s for s in text.executable}
    sections = tuple(code.get(s.address, s) for s in said.image.sections)
    return program, replace(said.image, sections=sections)


def taken_of(features: tuple[int, ...], **how: bool) -> Taken:
    """What is read of such a machine."""
    program, memory = running(features)
    return take(program, FakeMemory(memory, **how), init=True)


@pytest.mark.parametrize("features", [(), (SMAP,)])
def test_a_machine_is_predicted_by_what_it_says(features: tuple[int, ...]) -> None:
    """The features are read from its memory; with them all of its text is right."""
    taken = taken_of(features)
    verdict = judge(taken, Kernel(names={"SMAP": SMAP}).said().names, "native")
    assert verdict.findings == ()
    assert verdict.reason == ""
    assert verdict.counts["text_unexplained"] == 0
    assert verdict.counts["text_control"] == 1
    assert verdict.counts["text_differing"] == (7 if features else 3)
    assert verdict.counts.get("won alternative: SMAP", 0) == (2 if features else 0)


def test_wrong_text_is_found() -> None:
    """One byte is enough, in a site as elsewhere."""
    program, memory = running((SMAP,))
    spoilt = written(
        memory, edits_of(Step.RETURN, [(TEXT + 1, b"\x90", ""), (TEXT + 64, b"\0", "")])
    )
    taken = take(program, FakeMemory(spoilt), init=True)
    verdict = judge(taken, Kernel(names={"SMAP": SMAP}).said().names, "native")
    assert [finding.location.address - TEXT for finding in verdict.findings] == [1, 64]
    assert verdict.reason == ""


def test_a_control_that_is_not_seen_is_no_verdict() -> None:
    """Memory that keeps no wrong byte proves nothing."""
    names = Kernel().said().names
    assert "went unseen" in judge(taken_of((), deaf=True), names, "native").reason
    assert "put back" in judge(taken_of((), spoilt=True), names, "native").reason


def test_a_kernel_without_alternatives_is_not_predicted() -> None:
    """There is nothing that tells what its machine is."""
    kernel = Kernel()
    taken = take(kernel.linked(), FakeMemory(kernel.said().image), init=True)
    with pytest.raises(FormatError, match="no alternatives"):
        judge(taken, kernel.said().names, "native")


def test_a_later_verdict_joins_the_first() -> None:
    """What is found then counts, and a control that was not seen then, too."""
    names = Kernel(names={"SMAP": SMAP}).said().names
    first = judge(taken_of((SMAP,)), names, "native")
    program, memory = running((SMAP,))
    spoilt = written(memory, edits_of(Step.RETURN, [(TEXT + 64, b"\0", "")]))
    later = judge(take(program, FakeMemory(spoilt), init=False), names, "native")
    both = first.with_later(later)
    assert [finding.location.address - TEXT for finding in both.findings] == [64]
    assert both.counts["text_unexplained"] == 0
    assert both.counts["text_later_unexplained"] == 1
    assert both.counts["text_later_bytes"] == later.difference.read
    blind = judge(taken_of((), deaf=True), names, "native")
    assert "went unseen" in first.with_later(blind).reason


KVM_NAMES = {"SMAP": SMAP, "PVUNLOCK": 8 * 32 + 20, "VCPUPREEMPT": 8 * 32 + 21}


@pytest.mark.parametrize(
    ("platform", "names", "missing"),
    [
        ("kvm", KVM_NAMES, ["PVUNLOCK", "VCPUPREEMPT"]),
        ("native", KVM_NAMES, []),
        ("kvm", {"SMAP": SMAP}, []),  # up to 5.12 there are none
        ("", KVM_NAMES, []),  # of a dump nobody knows where it ran
    ],
)
def test_a_platforms_features_have_to_be_selected(
    platform: str, names: dict[str, int], missing: list[str]
) -> None:
    """A KVM guest that took neither has skipped its own branch, however it looks."""
    verdict = judge(taken_of((SMAP,)), Kernel(names=names).said().names, platform)
    assert verdict.findings == ()
    assert [found.rule for found in verdict.unselected] == ["boot/platform"] * len(
        missing
    )
    assert [found.message.split()[0] for found in verdict.unselected] == missing
    assert len({found.key for found in verdict.unselected}) == len(missing)


def test_a_feature_that_is_selected_is_no_finding() -> None:
    """One of the two is not enough."""
    names = Kernel(names=KVM_NAMES).said((8 * 32 + 20,))
    (found,) = unselected(names, "kvm")
    assert found.message.startswith("VCPUPREEMPT was not selected")

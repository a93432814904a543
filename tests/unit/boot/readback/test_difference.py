"""A running kernel's text beside the text that is predicted for it."""

from __future__ import annotations

from msgspec.structs import replace

from harness.boot.readback.difference import Difference, difference, findings
from harness.elf.program import Program
from harness.finding import group_by_cause
from harness.text.patch.edits import Edits, Step, edits_of, written
from harness.text.patch.predict import Prediction, predict
from tests.builders.running import TEXT, Kernel

LOCK = b"\xf0\xff\x07"


def predicted() -> Prediction:
    """Two lock prefixes that a kernel with one CPU turns."""
    kernel = Kernel(
        {0: LOCK, 0x20: LOCK},
        functions={"first": 0, "second": 0x20, "third": 0x80},
        tables={".smp_locks": [TEXT, TEXT + 0x20]},
        variables={"uniproc_patched": (0, 1)},
    )
    return predict(kernel.linked(), kernel.said())


def seen(program: Program, *texts: tuple[int, bytes]) -> Program:
    """The code of ``program`` with ``texts`` in it, as a memory has it."""
    edits: Edits = edits_of(Step.RETURN, [(at, code, "x") for at, code in texts])
    whole = written(program, edits)
    return replace(whole, sections=whole.executable)


def compared(*texts: tuple[int, bytes]) -> tuple[Prediction, Difference]:
    """What the predicted text with ``texts`` in it comes to."""
    prediction = predicted()
    return prediction, difference(prediction, seen(prediction.program, *texts))


def test_what_is_as_predicted_is_explained_by_its_step() -> None:
    """Nothing else is read into it: bytes as linked count for nothing."""
    prediction, different = compared()
    assert different.read == prediction.program.executable[0].size
    assert different.differing == 2
    assert different.explained == {Step.SMP_LOCK: 2}
    assert different.unexplained == ()
    assert different.variants == {Step.SMP_LOCK: {"ds": 2}}
    assert different.counts["readback smp lock"] == 2
    assert different.counts["text_unexplained"] == 0


def test_a_site_that_was_not_patched_is_unexplained() -> None:
    """That it is as linked is no excuse: it is predicted to be patched."""
    _, different = compared((TEXT, LOCK))
    (run,) = different.unexplained
    assert (run.address, run.linked, run.expected, run.seen) == (
        TEXT,
        b"\xf0",
        b"\x3e",
        b"\xf0",
    )
    assert different.wrong == 1
    assert different.differing == 1


def test_another_byte_in_a_site_is_unexplained() -> None:
    """To be a member of a site explains nothing."""
    _, different = compared((TEXT, b"\x26"))
    assert [run.seen for run in different.unexplained] == [b"\x26"]
    assert different.explained == {Step.SMP_LOCK: 1}


def test_bytes_near_each_other_are_one_run() -> None:
    """Far ones are not, nor those of another owner."""
    _, different = compared(
        (TEXT + 0x81, b"\x90"), (TEXT + 0x84, b"\x90"), (TEXT + 0xA0, b"\x90")
    )
    runs = different.unexplained
    assert [(run.address - TEXT, len(run.seen), run.wrong) for run in runs] == [
        (0x81, 4, 2),
        (0xA0, 1, 1),
    ]
    assert [at - TEXT for at in different.addresses] == [0x81, 0x84, 0xA0]


def test_findings_name_place_and_both_sides() -> None:
    """Those of one step and variant have one cause."""
    prediction, different = compared((TEXT, LOCK), (TEXT + 0x20, LOCK))
    found = findings(prediction, different, "xen")
    assert [str(finding.location) for finding in found] == ["first", "second"]
    (one,) = group_by_cause(found)
    assert one.key == "readback/byte:smp lock, ds"
    assert one.occurrences == 2
    assert one.variant == "ds"
    assert one.platforms == ("xen",)
    assert one.message == ("the running kernel has f0 here, 3e is predicted (smp lock)")
    assert any("predicted 3e" in line for line in one.window)


def test_bytes_outside_all_sites_have_a_cause_for_each_function() -> None:
    """Nobody predicts a change there."""
    prediction, different = compared((TEXT + 0x81, b"\x90"))
    (finding,) = findings(prediction, different, "native")
    assert finding.key == "readback/byte:as linked, third"
    assert str(finding.location) == "third+0x1"

"""The whole text of a running kernel."""

from __future__ import annotations

import pytest

from harness.text.patch.edits import Step
from harness.text.patch.predict import predict, steps_of
from tests.builders.elfwriter import Alternative
from tests.builders.running import TEXT, Kernel, near
from tests.builders.site import SMAP

RETHUNK = 11 * 32 + 14
THUNK = TEXT + 0x800


def a_kernel() -> Kernel:
    """A lock prefix in an alternative site, a return in another one's original."""
    kernel = Kernel(
        {0: b"\xf0\xff\x07", 8: near(b"\xe9", TEXT + 8, THUNK), 0x10: b"\xf0\xff\x07"},
        functions={"__x86_return_thunk": THUNK},
        tables={
            ".smp_locks": [TEXT, TEXT + 0x10],
            ".return_sites": [TEXT + 8],
        },
        variables={"uniproc_patched": (0, 1), "x86_return_thunk": (THUNK, THUNK)},
        replacements=b"\xff\x07\x90" + b"\x90" * 5,
    )
    kernel.alternatives = [
        (0, 0, Alternative(0, 0, SMAP, 3, 3)),
        (8, 3, Alternative(0, 0, SMAP, 5, 0)),
    ]
    return kernel


def test_each_step_sees_what_the_earlier_ones_left() -> None:
    """A lock that an alternative took away is no lock any more, a return is patched
    before its site is.
    """
    kernel = a_kernel()
    with_smap = predict(kernel.linked(), kernel.said([SMAP])).program
    without = predict(kernel.linked(), kernel.said()).program
    assert with_smap.read(TEXT, 3).tobytes() == bytes.fromhex("ff0790")
    assert without.read(TEXT, 3).tobytes() == bytes.fromhex("3eff07")
    assert with_smap.read(TEXT + 8, 5).tobytes() == bytes.fromhex("0f1f440000")
    assert without.read(TEXT + 8, 5).tobytes() == bytes.fromhex("c3cccccccc")


def test_tells_the_last_step_of_each_byte() -> None:
    """What a byte is explained by is what wrote it last."""
    kernel = a_kernel()
    prediction = predict(kernel.linked(), kernel.said([SMAP, RETHUNK]))
    owners = prediction.owners(prediction.program.executable[0])
    steps = [None if n < 0 else prediction.step(n) for n in owners[:0x12].tolist()]
    assert steps[1] is Step.ALTERNATIVE
    assert steps[8] is Step.ALTERNATIVE
    assert steps[0x10] is Step.SMP_LOCK
    assert steps[0x11] is None
    assert [edits.step for edits in prediction.edits] == [
        Step.RETURN,
        Step.ALTERNATIVE,
        Step.SMP_LOCK,
    ]


@pytest.mark.parametrize(
    ("entsize", "last"), [(0, "call_thunks"), (14, "alternatives")]
)
def test_calls_are_counted_before_alternatives_since_6_17(
    entsize: int, last: str
) -> None:
    """Its objtool tells the size of an entry, which is how we tell its kernels."""
    kernel = a_kernel()
    kernel.entsize = entsize
    names = [step.__name__ for step in steps_of(kernel.linked())]
    both = [name for name in names if name in ("call_thunks", "alternatives")]
    assert both[-1] == last
    assert len(both) == 2

"""The two decoders find the same in whole kernels."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.load import load
from harness.pytest_plugin import KernelObject
from harness.text import engine_zydis
from harness.text.decode import Decoder, decode_program
from harness.text.effect import effects_of

pytestmark = pytest.mark.static


def test_the_same_columns(kernel_object: KernelObject) -> None:
    """Every instruction of every file: no difference is excused."""
    if reason := engine_zydis.missing():
        pytest.skip(reason)
    program = load(kernel_object.path)

    zydis = decode_program(program, decoder=Decoder.ZYDIS)
    capstone = decode_program(program, decoder=Decoder.CAPSTONE)

    assert np.array_equal(zydis.address, capstone.address)
    for name in ("size", "kind", "target"):
        odd = np.flatnonzero(getattr(zydis, name) != getattr(capstone, name))
        rows = [(zydis.at(row), capstone.at(row)) for row in odd[:5].tolist()]
        assert not rows, name
    ours, theirs = effects_of(zydis), effects_of(capstone)
    for name in ("row", "form", "delta", "stacked"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name

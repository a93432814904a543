"""What a machine says."""

from __future__ import annotations

import numpy as np

from harness.text.patch.kind import NopTable
from harness.text.patch.nops import NOPS
from harness.text.patch.said import code_at, said_by, words
from harness.variant import Platform
from tests.builders.running import DATA, TEXT, Kernel
from tests.builders.site import SMAP, XENPV


def test_features_are_the_bits_in_memory() -> None:
    """Bit n of the array is feature n; behind the section nothing is set."""
    kernel = Kernel(variables={"capability": (0, 1 << 5 | 1 << 40)}, names={"FIVE": 5})
    names = kernel.said().names
    said = said_by(kernel.said().image, kernel.address("capability"), names)
    assert np.flatnonzero(said.features).tolist() == [5, 40]
    assert said.has("FIVE")
    assert not said.has("SIX")
    assert said.machine.present()[40]


def test_mitigations_have_numbers_where_nobody_names_them() -> None:
    """They are not in /proc/cpuinfo, so that no image has their names."""
    said = Kernel().said([11 * 32 + 14])
    assert said.has("RETHUNK")
    assert not said.has("RETPOLINE")


def test_xen_is_told_by_its_feature() -> None:
    """The platform is what the machine says, not what was asked for."""
    assert Kernel().said([XENPV]).machine.platform is Platform.XEN
    assert Kernel().said([SMAP]).machine.platform is Platform.NATIVE


def test_variables_are_read_from_memory_not_from_the_image() -> None:
    """The image has what was linked."""
    kernel = Kernel(variables={"first": (1, 2), "second": (3, 0x1234567890)})
    said = kernel.said()
    assert said.variable("second", 8) == 0x1234567890
    assert said.variable("second", 1) == 0x90
    assert said.variable("third", 8) is None
    places = np.array([DATA, DATA + 16, 4096], np.uint64)
    assert said.words(places).tolist() == [2, 0x1234567890, 0]
    assert words(kernel.linked(), places, 4).tolist() == [1, 3, 0]


def test_code_ends_in_nops_at_its_sections_end() -> None:
    """Near the end there is less than was asked for."""
    kernel = Kernel({0xFFE: b"\x01\x02"})
    code = code_at(kernel.linked(), np.array([TEXT + 0xFFE], np.uint64), 4)
    assert code.tobytes() == b"\x01\x02\x90\x90"


def test_up_to_5_12_the_nops_are_those_that_the_kernel_chose() -> None:
    """A pointer to the table of the CPU's vendor; later there is one table only."""
    own = bytes.fromhex("6666666690")
    kernel = Kernel(variables={"k8_nops": (0, 0), "ideal_nops": (0, 0)})
    kernel.rodata = {"nop": own}
    table = kernel.address("k8_nops")
    assert kernel.said().nops is NopTable.P6
    kernel.variables["ideal_nops"] = (0, table)
    assert kernel.said().nops is NopTable.K8
    kernel.variables["ideal_nops"] = (0, table - 8 * 9)
    kernel.variables["k8_nops"] = (0, kernel.said().address("nop"))
    assert kernel.said().nop5 == own
    assert Kernel().said().nops is NopTable.P6
    assert Kernel().said().nop5 == NOPS[5]

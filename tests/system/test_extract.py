"""What is read from a real kernel's files must agree between the files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.feature import image_features, parse_cpufeatures
from harness.elf.load import load
from harness.elf.orc import OrcTable, OrcType, parse_orc
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.pytest_plugin import Kernel

pytestmark = pytest.mark.static


def _vmlinux(kernel: Kernel) -> Program:
    return load(kernel.build.kernels[0])


def _relocatable(kernel: Kernel) -> Program:
    found = [p for p in kernel.build.relocatables if p.name == "vmlinux.o"]
    if not found:
        pytest.skip("MISS: this build kept no vmlinux.o")
    return load(found[0])


def _orc(program: Program) -> OrcTable:
    table = parse_orc(program)
    assert table is not None
    return table


def _alternatives(program: Program) -> Alternatives:
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    return alternatives


def test_the_table_is_legal_sorted_and_in_code(kernel: Kernel) -> None:
    """Every entry decodes, in order; only terminators may lie behind the code."""
    program = _vmlinux(kernel)
    table = _orc(program)
    assert len(table) > 10_000
    assert not table.illegal.any()
    assert (table.ip[1:] >= table.ip[:-1]).all()
    outside = ~program.in_code(table.ip)
    assert outside.sum() <= len(program.executable)
    assert set(table.type[outside].tolist()) <= {OrcType.UNDEFINED}
    assert np.count_nonzero(table.type == OrcType.CALL) > len(table) / 2


def test_the_boot_image_holds_the_same_table(kernel: Kernel) -> None:
    """The unpacked payload is vmlinux: same addresses, states and alternatives."""
    if kernel.build.bzimage is None:
        pytest.skip("MISS: this build has no bzImage")
    image, program = load(kernel.build.bzimage), _vmlinux(kernel)
    ours, theirs = _orc(program), _orc(image)
    assert image.release == program.release
    assert (ours.ip == theirs.ip).all()
    assert (ours.raw == theirs.raw).all()
    assert (ours.state == theirs.state).all()
    mine, packed = _alternatives(program), _alternatives(image)
    assert (mine.address == packed.address).all()
    assert (mine.replacement == packed.replacement).all()


def test_the_unlinked_kernel_has_the_same_entries(kernel: Kernel) -> None:
    """Laid out by us and linked by ld, symbol+offset has the same states."""
    before, after = _relocatable(kernel), _vmlinux(kernel)
    unlinked, linked = _orc(before), _orc(after)
    assert len(unlinked) == len(linked)
    assert Counter(unlinked.state.tolist()) == Counter(linked.state.tolist())
    # Labels of the linker script name a few places differently.
    moved = _places(before, unlinked) - _places(after, linked)
    assert moved.total() < len(linked) / 1000


def test_alternatives_make_sense(kernel: Kernel) -> None:
    """Originals and replacements are code, flags are known, sites are whole."""
    program = _vmlinux(kernel)
    alternatives = _alternatives(program)
    assert len(alternatives) > 500
    assert program.in_code(alternatives.address).all()
    # Not always in .altinstr_replacement: objtool of 5.13 points at thunks.
    assert program.in_code(
        alternatives.replacement[alternatives.replacementlen > 0]
    ).all()
    assert (alternatives.replacementlen <= alternatives.instrlen).all()
    assert (alternatives.flags <= 3).all()
    assert (alternatives.site_count > 0).all()
    assert alternatives.site_count.sum() == len(alternatives)


def test_features_of_the_image_are_those_of_the_tree(kernel: Kernel) -> None:
    """The image and cpufeatures.h agree on the words and on what both name."""
    header: Path | None = kernel.build.cpufeatures
    if header is None:
        pytest.skip("MISS: this build kept no cpufeatures.h")
    tree, image = (
        parse_cpufeatures(header.read_text()),
        image_features(_vmlinux(kernel)),
    )
    assert image.words == tree.words
    # cpuinfo's spelling differs for some; a shift by one word would differ for all.
    both = image.names.keys() & tree.names.keys()
    same = sum(image.names[number] == tree.names[number] for number in both)
    assert same > 0.8 * len(both) > 50
    assert tree.number("XENPV") == image.number("XENPV")


@pytest.mark.parametrize("table", sorted(SiteTable))
def test_sites_are_in_code(kernel: Kernel, table: SiteTable) -> None:
    """Each table that the kernel has names places in its code."""
    program = _vmlinux(kernel)
    sites = parse_sites(program, table)
    if sites is not None:
        assert program.in_code(sites.address).mean() > 0.99


def test_modules_are_read(kernel: Kernel) -> None:
    """Every module is of this kernel, and its entries are legal."""
    release = _vmlinux(kernel).release
    for path in kernel.build.modules:
        program = load(path)
        table = parse_orc(program)
        assert program.release == release
        assert table is None or not table.illegal.any()


def _places(program: Program, table: OrcTable) -> Counter[tuple[str, int]]:
    places: Counter[tuple[str, int]] = Counter()
    for address, state in zip(table.ip.tolist(), table.state.tolist(), strict=True):
        places[str(program.location(address)), state] += 1
    return places

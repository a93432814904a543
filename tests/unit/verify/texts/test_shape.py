"""Shapes: sites that may be judged as one, and those that may not."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.text.insn import InsnKind
from harness.verify.check import check
from harness.verify.columns import read_columns
from harness.verify.texts.shape import Shape, shapes_of
from tests.builders.site import SMAP, XENPV, Replacement, Site, many_sites

PV_CALL = bytes.fromhex("ff1500000000")  # call *pv_ops+n(%rip)
NOPS = b"\x90" * 6
PUSHF_POP = Replacement(bytes.fromhex("9c58"), XENPV)
JUMP = bytes.fromhex("eb0090909090")  # to its own second instruction


def shapes(*sites: Site, states: tuple[int, ...] = ()) -> list[Shape]:
    """Return the shape of each site; ``states`` are of all bytes of each."""
    program = many_sites(sites)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    alternatives, streams = columns.alternatives, columns.streams
    assert alternatives is not None
    assert streams is not None
    count = len(alternatives.site_address)
    width = int(alternatives.site_length.max()) + 1
    table = np.repeat(np.array(states or [1] * count)[:, None], width, axis=1)
    return list(shapes_of(alternatives, streams, table, np.arange(count)))


def test_one_macro_in_many_places() -> None:
    """How far away a function or its pointer is does not tell two sites apart."""
    to_pointer = (bytes.fromhex("ff1510000000"), [PUSHF_POP])
    one, other, third = shapes((PV_CALL, [PUSHF_POP]), to_pointer, (NOPS, [PUSHF_POP]))
    assert one == other
    assert one != third


def test_jumps_of_their_own() -> None:
    """A branch within a site goes to the same place of each."""
    one, other = shapes((JUMP, [PUSHF_POP]), (JUMP, [PUSHF_POP]))
    assert one == other


@pytest.mark.parametrize(
    "site",
    [
        (PV_CALL + b"\x90", [PUSHF_POP]),
        (PV_CALL, [Replacement(PUSHF_POP.code, SMAP)]),
        (PV_CALL, [Replacement(PUSHF_POP.code, XENPV, flags=1)]),
        (PV_CALL, [Replacement(bytes.fromhex("5058"), XENPV)]),
        (PV_CALL, [Replacement(PUSHF_POP.code + b"\x90", XENPV)]),
        (PV_CALL, [PUSHF_POP, PUSHF_POP]),
        (bytes.fromhex("ff150000000090"), [PUSHF_POP]),
        (bytes.fromhex("eb7f90909090"), [PUSHF_POP]),
    ],
)
def test_what_tells_two_sites_apart(site: Site) -> None:
    """Its length, a condition, a text, how many there are, where it jumps to."""
    one, other = shapes((PV_CALL, [PUSHF_POP]), site)
    assert one != other


def test_jumps_over_different_distances() -> None:
    """To one place, but the kernel may make only the nearer one a short jump."""
    far = 9  # bytes from one site to the next
    near = (bytes.fromhex("e920000000") + b"\x90", [PUSHF_POP])
    farther = (b"\xe9" + (0x20 + far).to_bytes(4, "little") + b"\x90", [PUSHF_POP])
    one, other = shapes(farther, near)
    assert one != other


def test_one_replacement_over_different_distances() -> None:
    """Both sites share its bytes, which jump to one place behind them."""
    jump = Replacement(b"\xe9" + bytes(4), XENPV)
    program = many_sites([(NOPS, [jump]), (NOPS, [jump])])
    columns = read_columns(program, image_features(program))
    assert columns is not None
    alternatives, streams = columns.alternatives, columns.streams
    assert alternatives is not None
    assert streams is not None
    target = streams.insns.target.copy()
    target[streams.insns.kind == InsnKind.JMP] = alternatives.site_address[1] + 100
    streams = replace(streams, insns=replace(streams.insns, target=target))
    table = np.ones((2, len(NOPS) + 1), np.int64)

    one, other = shapes_of(alternatives, streams, table, np.arange(2))

    assert one != other


def test_the_table_tells_two_sites_apart() -> None:
    """The same texts under another state."""
    one, other = shapes((PV_CALL, [PUSHF_POP]), (PV_CALL, [PUSHF_POP]), states=(1, 2))
    assert one != other


def test_each_bad_site_is_found() -> None:
    """Only what is in order is settled for others of its shape."""
    broken = (PV_CALL, [PUSHF_POP])  # no entry behind pushf
    findings = check(many_sites([broken, broken, broken])).findings
    wrong = [f for f in findings if f.rule == "alternative/state"]
    assert len(wrong) == 3


def test_counts_are_of_all_sites() -> None:
    """Settled without being walked, a site is counted as its like was."""
    quiet = (NOPS, [Replacement(bytes.fromhex("5058"))])
    alone = check(many_sites([quiet])).counts
    both = check(many_sites([quiet, quiet])).counts
    for name in ("sites", "walked sites", "merge equal"):
        assert both[name] == 2 * alone[name]

"""Where the guest is stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harness.boot.gdb import Gdb
from harness.boot.kernel_text import KernelText, kernel_text
from harness.boot.sample import (
    ambush,
    by_traffic,
    entry_points,
    glimpse,
    hits,
    patched_starts,
    starts_inside,
    usable,
    walk,
    wander,
)
from harness.boot.stack_info import cpu_stacks, stack_layout
from harness.elf.alternative import parse_alternatives
from harness.elf.program import Program
from tests.builders import image
from tests.builders.guest import (
    GS_BASE,
    IRQ_STACK,
    SP,
    STACK,
    STATES,
    SimulatedGuest,
    at,
)
from tests.builders.rspserver import serving

RNG = random.Random(1)


def kernel() -> tuple[Program, KernelText]:
    """Return the image and its text."""
    program, table = image.image()
    return program, kernel_text(program, table)


@contextmanager
def connected(directory: Path, guest: SimulatedGuest) -> Iterator[Gdb]:
    """Yield a client of ``guest``."""
    path = directory / "gdb.sock"
    with serving(guest, path), Gdb.connect(path, timeout_s=5) as gdb:
        yield gdb


def test_entry_points_are_found_by_their_state() -> None:
    """Symbols that are not entered by a call; the first byte of all is cold."""
    names = ("asm_exc_page_fault", "ret_from_fork_asm")
    expected = [image.TEXT + image.FUNCTIONS[name][0] for name in names]
    assert list(entry_points(*kernel())) == expected


def test_starts_inside() -> None:
    """Instruction starts behind the first one, each code on its own."""
    codes = [b"\x9c\x58\x0f\x1f\x40\x00", b"\xff\x15\x00\x00\x00\x00", b"\x90\xe8"]
    assert starts_inside(codes) == [{1, 2}, set(), {1}]
    assert starts_inside([]) == []


def test_patched_starts_come_from_the_running_kernel(tmp_path: Path) -> None:
    """Starts that the linked text has not; pushf makes another CFA at +1."""
    program, text = kernel()
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    with connected(tmp_path, SimulatedGuest()) as gdb:
        starts = patched_starts(gdb, program, alternatives, text)
    site = image.TEXT + image.SITE
    assert starts.sites == 1
    assert starts.address.tolist() == [site + 1, site + 2]
    assert starts.site.tolist() == [site, site]
    assert starts.other_cfa.tolist() == [True, False]


def test_unpatched_site_has_none(tmp_path: Path) -> None:
    """A site that still is as linked adds no start."""
    program, text = kernel()
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    guest = SimulatedGuest()
    guest.load(image.TEXT, image.code())
    with connected(tmp_path, guest) as gdb:
        starts = patched_starts(gdb, program, alternatives, text)
    assert (starts.sites, len(starts.address)) == (0, 0)


def test_halted_vcpu_is_not_usable() -> None:
    """Behind a hlt the vCPU may be halted; user and foreign text are no points."""
    program, text = kernel()
    assert usable(program, text, at(0x402))
    assert not usable(program, text, at(0x703))
    assert not usable(program, text, at(-0x1000))


def test_walk_and_wander_yield_kernel_states(tmp_path: Path) -> None:
    """A burst is the stop and one state for each step, until the text is left."""
    program, text = kernel()
    guest = SimulatedGuest(states=[*STATES[:3], at(-0x1000)])
    with connected(tmp_path, guest) as gdb:
        seen = [r.rip for r in walk(gdb, program, text, gdb.registers(), 9)]
        assert seen == [state.rip for state in STATES[:3]]
        (burst,) = [list(states) for states in wander(gdb, program, text, RNG, 2)]
        assert len(burst) <= 3


def test_hits_are_one_shot(tmp_path: Path) -> None:
    """Each place is yielded once; what is never reached ends the wait."""
    guest = SimulatedGuest()
    wanted = [STATES[4].rip, STATES[2].rip, image.TEXT + 0x1000]
    with connected(tmp_path, guest) as gdb:
        found = [registers.rip for registers in hits(gdb, wanted, 0.05)]
        assert sorted(found) == sorted(wanted[:2])
        assert gdb.breakpoints == frozenset()


def test_an_ambush_is_laid_elsewhere(tmp_path: Path) -> None:
    """What it is not laid at any more stops nobody, and in the end nothing does."""
    first, second, third = (STATES[number].rip for number in (2, 4, 5))
    with connected(tmp_path, SimulatedGuest()) as gdb:
        with ambush(gdb) as laid:
            laid.lay([first, second])
            caught = laid.wait(5)
            assert caught is not None
            assert caught.rip == first
            assert laid.places == {second}
            laid.lay([third])
            assert gdb.breakpoints == {third}
            caught = laid.wait(5)
            assert caught is not None
            assert caught.rip == third
            assert laid.wait(5) is None  # for nothing is waited for
            laid.lay([first])
        assert gdb.breakpoints == frozenset()


def test_an_ambush_in_vain(tmp_path: Path) -> None:
    """Where the guest never comes to, it is waited for as long as was asked."""
    with connected(tmp_path, SimulatedGuest()) as gdb, ambush(gdb) as laid:
        laid.lay([image.TEXT + 0x1000])
        assert laid.wait(0.05) is None
        assert laid.places == {image.TEXT + 0x1000}


def test_a_breakpoint_that_a_call_took_away_is_laid_again(tmp_path: Path) -> None:
    """It lay in what was called; later the guest may be waited for there."""
    place = STATES[2].rip
    with connected(tmp_path, SimulatedGuest()) as gdb, ambush(gdb) as laid:
        laid.lay([place])
        gdb.remove_breakpoint(place)
        assert laid.places == frozenset()
        laid.lay([place])
        assert laid.places == {place}


def glimpsed(tmp_path: Path, guest: SimulatedGuest) -> list[int]:
    """Look at the stacks of ``guest``."""
    program, text = kernel()
    cpu = cpu_stacks(stack_layout(program), GS_BASE, guest.bytes_at)
    with connected(tmp_path, guest) as gdb:
        return glimpse(gdb, cpu, text)


@pytest.mark.parametrize("sp", [SP, 0x7FFF00001000])
def test_a_glimpse_shows_where_the_guest_has_been(tmp_path: Path, sp: int) -> None:
    """What its stacks hold of text, wherever %rsp is; nothing of what is none."""
    guest = SimulatedGuest(states=[at(0x402, sp)])
    returned, called, asked = (image.TEXT + at for at in (0x410, 0x508, 0x910))
    guest.load(STACK, bytes(0x4000))
    guest.load(IRQ_STACK, bytes(0x4000))
    words = {STACK: 0x1234, SP - 0x400: returned, SP + 8: called, IRQ_STACK + 64: asked}
    for place, word in words.items():
        guest.word(place, word)
    assert glimpsed(tmp_path, guest) == [returned, called, asked]


def test_a_glimpse_of_a_users_page_tables(tmp_path: Path) -> None:
    """Where nothing of the kernel is mapped it shows nothing."""
    states = [at(0x402)]
    assert (
        glimpsed(tmp_path, SimulatedGuest(states=states, unmapped_at=states[0].rip))
        == []
    )


def test_places_with_traffic_come_first() -> None:
    """Those that were seen, then the nearer to such, and to how many; others in order."""
    places = np.array([0x1000, 0x5000, 0x6000, 0x9000], np.uint64)
    seen = {0x5008: 40, 0x6100: 2, 0x6101: 1, 0x9000: 2, 0x20000: 50}
    expected = [0x9000, 0x5000, 0x6000, 0x1000]
    assert by_traffic(places, seen).tolist() == expected
    del seen[0x9000]
    assert by_traffic(places, seen).tolist() == [0x5000, 0x6000, 0x1000, 0x9000]
    assert by_traffic(places, {}).tolist() == places.tolist()
    assert by_traffic(places[:0], seen).tolist() == []


def test_the_breakpoint_of_somebody_else_stays(tmp_path: Path) -> None:
    """A call's return address may be an entry point, too (startup_64 of Debian's)."""
    guest = SimulatedGuest()
    theirs, ours = STATES[4].rip, STATES[2].rip
    with connected(tmp_path, guest) as gdb:
        gdb.insert_breakpoint(theirs)
        found = [registers.rip for registers in hits(gdb, [theirs, ours], 0.05)]
        assert found == [ours]
        assert gdb.breakpoints == {theirs}

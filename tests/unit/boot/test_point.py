"""A point: many states that are asked about at once, and evidence that keeps its width."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from harness.boot import point
from harness.boot.attach import attached
from harness.boot.call import HEADROOM
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import kernel_text
from harness.boot.point import Guest
from harness.boot.registers import Registers
from harness.elf.orc import pack
from tests.builders import image
from tests.builders.elfwriter import END
from tests.builders.guest import SP, STATES, ZERO, SimulatedGuest, at
from tests.builders.rspserver import serving

END_STATE = pack(END)


def test_a_long_name_does_not_push_the_reason_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it stopped and how the unwind ended are lines of their own."""
    monkeypatch.setattr(point, "frame_lines", lambda *_: ())
    program = types.SimpleNamespace(location=lambda _: "very_long_" * 12)
    guest = types.SimpleNamespace(program=program, text=None)
    host = types.SimpleNamespace(ended="the stack is not the task's")
    stopped = types.SimpleNamespace(
        registers=ZERO, host=host, guest=(), first_difference=0
    )

    lines = point.evidence(cast(Guest, guest), cast(point.Point, stopped))

    assert max(map(len, lines)) == 100
    assert "table's unwind ended: the stack is not the task's" in lines


LEAF, CALLER, FORK = (image.TEXT + offset for offset in (0x402, 0x508, 0x605))


@contextmanager
def stopped(directory: Path, served: SimulatedGuest) -> Iterator[Guest]:
    """Yield ``served`` as a probe sees it."""
    program, table = image.image()
    path = directory / "gdb.sock"
    with serving(served, path), Gdb.connect(path, timeout_s=5) as gdb:
        text = kernel_text(program, table)
        with attached(gdb, program, text, gdb.registers()) as guest:
            yield guest


def test_many_states_are_asked_about_at_once(tmp_path: Path) -> None:
    """Each from the memory that it had, though the guest has gone on since."""
    served = SimulatedGuest()
    with stopped(tmp_path, served) as guest:
        sights = []
        for number in range(6):
            served.word(SP, CALLER + 5 * (number % 2))  # a call after the other
            sights.append(point.look(guest, guest.gdb.registers()))
        served.word(SP, 0x1234)
        now = guest.gdb.step_registers()
        runs = sum(packet == "c" for packet in served.seen)
        points = point.ask(guest, sights, now)
        assert guest.gdb.registers() == now
        assert sum(packet == "c" for packet in served.seen) == runs + 1
    assert [one.guest for one in points] == 3 * [
        (LEAF, CALLER, FORK),
        (LEAF, CALLER + 5, FORK),
    ]
    assert all(one.agrees for one in points)
    assert served.bytes_at(SP, 8) == (0x1234).to_bytes(8, "little")


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    """They are asked about in turns; each has its answer."""
    served = SimulatedGuest()
    with stopped(tmp_path, served) as guest:
        states = STATES[:2] * 40
        sights = [point.look(guest, state) for state in states]
        runs = sum(packet == "c" for packet in served.seen)
        points = point.ask(guest, sights, guest.gdb.registers())
        took = sum(packet == "c" for packet in served.seen) - runs
    assert [one.registers for one in points] == states
    assert all(one.agrees for one in points)
    assert 1 < took < 10


def test_more_was_written_since_than_there_is_room_to_say(tmp_path: Path) -> None:
    """The stack that the functions need is left to them; memory is put back."""
    served = SimulatedGuest()
    with stopped(tmp_path, served) as guest:
        sight = point.look(guest, guest.gdb.registers())
        served.word(SP, 0x1234)
        now = guest.gdb.step_registers()
        narrow = replace(guest, call=replace(guest.call, stack_size=HEADROOM + 8))
        (told,) = point.ask(narrow, [sight], now)
    by_hand = [packet for packet in served.seen if packet.startswith(f"M{SP:x},8:")]
    assert len(by_hand) == 2
    assert told.agrees
    assert told.guest == (LEAF, CALLER, FORK)
    assert served.bytes_at(SP, 8) == (0x1234).to_bytes(8, "little")


def test_of_a_trace_that_differs_all_is_told(tmp_path: Path) -> None:
    """Not only as much as is enough to know that it does."""
    served = SimulatedGuest()
    with stopped(tmp_path, served) as guest:
        text = replace(guest.text, state=[END_STATE] * len(guest.text.state))
        sight = point.look(replace(guest, text=text), guest.gdb.registers())
        (told,) = point.ask(guest, [sight], guest.gdb.registers())
    assert told.host.ips == (LEAF,)
    assert told.guest == (LEAF, CALLER, FORK)


def test_from_where_the_kernel_cannot_be_called(tmp_path: Path) -> None:
    """It has left for user space, with other page tables: it is back for the call."""
    served = SimulatedGuest()
    with stopped(tmp_path, served) as guest:
        sight = point.look(guest, replace(guest.gdb.registers(), cr3=0x1000))
        user = replace(at(0x100000), cs=0x33, ss=0x2B, cr3=0x2000)
        served.registers = user.pack()
        (told,) = point.ask(guest, [sight], guest.gdb.registers())
        assert guest.gdb.registers() == user
    assert told.agrees
    entered = [parse(packet) for packet in served.seen if packet.startswith("G")]
    assert entered[0].cr3 == 0x1000
    assert entered[1].cs == 0x10


def parse(packet: str) -> Registers:
    """Read what ``G`` was sent; what is left out is of a stopped vCPU."""
    data = bytes.fromhex(packet[1:])
    return Registers.parse(data + ZERO.pack()[len(data) :])

"""Debug: a guest stands where it dies, and somebody is told how to attach."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.boot.debug import Stopped, run_to_death
from harness.boot.gdb import Gdb
from harness.finding import Location
from tests.builders import image
from tests.builders.guest import SimulatedGuest
from tests.builders.rspserver import serving

PANIC = {"panic": 0x420}  # among the states of the simulated guest


def run(directory: Path, symbols: dict[str, int]) -> tuple[Location | None, set[int]]:
    """Run a guest to its death; return where that is, and what breakpoints remain."""
    guest = SimulatedGuest()
    program, _ = image.image(symbols=symbols)
    path = directory / "gdb.sock"
    with serving(guest, path), Gdb.connect(path, timeout_s=5) as gdb:
        return run_to_death(gdb, program, 0.1), guest.breakpoints


def test_a_kernel_that_dies(tmp_path: Path) -> None:
    """It stands at panic()'s first instruction."""
    where, breakpoints = run(tmp_path, PANIC)
    assert str(where) == "panic"
    assert breakpoints == set()


def test_a_kernel_that_does_not(tmp_path: Path) -> None:
    """Neither one that never comes there, nor one without the symbol."""
    assert run(tmp_path, {"panic": 0x1F00})[0] is None


def test_an_image_without_symbols(tmp_path: Path) -> None:
    """Nobody knows where it would die."""
    assert run(tmp_path, {"_stext": 0})[0] is None


def test_the_command_attaches() -> None:
    """What is printed can be pasted, whatever the paths are."""
    path = Path("/b c/vmlinux")
    stopped = Stopped(Location("vmlinux", "f", 4), "it panics", path, Path("/t/gdb"))
    words = shlex.split(stopped.command)
    assert words == ["gdb", "/b c/vmlinux", "-ex", "target remote /t/gdb"]

"""The patch model against a running kernel: its text is what was predicted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest

from harness.boot.gdb import Gdb, UnmappedMemory
from harness.boot.initramfs import Toolbox
from harness.elf.alternative import Alternatives, AltFlag, parse_alternatives
from harness.elf.load import load
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.pytest_plugin import Kernel
from harness.text.patch import (
    NOPS,
    ORIGINAL,
    Era,
    Streams,
    build_streams,
    nop_tables,
)
from tests.system.test_compare import bootable, running

pytestmark = pytest.mark.boot


@pytest.mark.slow
def test_every_site_holds_one_of_its_texts(
    kernel_toolbox: Toolbox, kernel: Kernel
) -> None:
    """Byte for byte; a site in which a return is patched afterwards is left out."""
    program = load(bootable(kernel).vmlinux)
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    sites = list(_comparable(program, alternatives))
    wanted = [
        (int(alternatives.site_address[n]), int(alternatives.site_length[n]))
        for n in sites
    ]
    with running(kernel_toolbox, kernel) as (_, gdb):
        found = _read_patched(gdb, program, wanted)

    def odd(streams: Streams) -> list[str]:
        """Name the sites that hold none of their texts."""
        return [
            str(program.location(int(alternatives.site_address[n])))
            for n, code in zip(sites, found, strict=True)
            if code not in set(_texts(program, alternatives, streams, n, code))
        ]

    streams = build_streams(program, alternatives)
    other = Era.E2 if streams.era.relocates_all else Era.E5
    assert len(sites) > 500
    assert odd(streams) == []
    assert odd(build_streams(program, alternatives, other)), "any text would do"


def _read_patched(
    gdb: Gdb, program: Program, wanted: list[tuple[int, int]]
) -> list[bytes]:
    """Read the guest's memory once it has applied its alternatives."""
    flag = program.symbols.find("alternatives_patched")
    assert flag is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        gdb.run_for(0.5)
        if gdb.read_or_none(flag, 4) not in (None, bytes(4)):
            with contextlib.suppress(UnmappedMemory):  # in user space, with PTI
                return gdb.read_many(wanted)
    pytest.fail("the guest did not apply its alternatives within 60 s")


def _comparable(program: Program, alternatives: Alternatives) -> Iterator[int]:
    """Yield sites that stay in memory and that no other patching touches."""
    start = program.symbols.find("__init_begin") or 0
    end = program.symbols.find("__init_end") or 0
    returns = parse_sites(program, SiteTable.RETURN_SITES)
    places = np.sort(returns.address) if returns else np.zeros(0, np.uint64)
    for n, at in enumerate(alternatives.site_address.tolist()):
        last = at + int(alternatives.site_length[n])
        first, behind = np.searchsorted(places, np.array([at, last], np.uint64))
        if not start <= at < end and first == behind:
            yield n


def _texts(
    program: Program,
    alternatives: Alternatives,
    streams: Streams,
    site: int,
    code: bytes,
) -> Iterator[bytes]:
    """Yield what the model has for a site; a direct call's target only the guest has."""
    for stream in np.flatnonzero(streams.site == site).tolist():
        entry = int(streams.entry[stream])
        if entry != ORIGINAL and alternatives.flags[entry] & AltFlag.DIRECT_CALL:
            yield b"\xe8" + code[1:5] + b"\x90"
            yield NOPS[6]
        for table in nop_tables(program, streams.era):
            yield streams.text(stream, table)

"""The validation of a real kernel: what it looks at, and that it can see."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.load import load
from harness.elf.orc import OrcTable
from harness.finding import Finding
from harness.pytest_plugin import Kernel
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from harness.verify.lookup import lookup_of
from harness.verify.transfer import is_defined

pytestmark = pytest.mark.static

FIELDS = ("ip", "sp_offset", "bp_offset", "sp_reg", "bp_reg", "type", "signal", "raw")
KINDS = ("sp_offset", "type", "sp_reg", "undefined", "move", "delete")
EACH = 12


@functools.cache
def _columns(path: Path) -> Columns:
    program = load(path)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    assert columns.alternatives is not None
    return columns


@functools.cache
def _findings(path: Path) -> tuple[Finding, ...]:
    return check_columns(_columns(path)).findings


def _inside_sites(columns: Columns, orc: OrcTable) -> list[int]:
    """Rows of ``orc`` inside a site that has a state at its start."""
    sites = columns.alternatives
    assert sites is not None
    order = np.argsort(sites.site_address)
    start = sites.site_address[order]
    end = start + sites.site_length[order].astype(np.uint64)
    at = np.maximum(np.searchsorted(start, orc.ip, side="right") - 1, 0)
    begins = lookup_of(orc).at(start[at]).tolist()
    seen = np.array([is_defined(state) for state in begins], bool)
    rows = np.flatnonzero(seen & (orc.ip > start[at]) & (orc.ip < end[at]))
    return [int(row) for row in rows]


def _mutant(orc: OrcTable, row: int, kind: str, rng: random.Random) -> OrcTable:
    if kind == "delete":
        keep = np.arange(len(orc)) != row
        return replace(orc, **{name: getattr(orc, name)[keep] for name in FIELDS})
    fields = {name: getattr(orc, name).copy() for name in FIELDS}
    if kind == "sp_offset":
        fields["sp_offset"][row] += rng.choice((-8, 8))
    elif kind == "type":
        fields["type"][row] = 3 if fields["type"][row] != 3 else 2
    elif kind == "sp_reg":
        fields["sp_reg"][row] = 6 if fields["sp_reg"][row] != 6 else 4
    elif kind == "move":
        fields["ip"][row] += np.uint64(1)
    else:
        for name in ("type", "sp_reg", "sp_offset", "bp_reg", "bp_offset"):
            fields[name][row] = 0
    return replace(orc, **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_inside_sites_are_seen(kernel: Kernel, kind: str) -> None:
    """The control: an entry inside a site that is changed is reported, each time."""
    path = kernel.build.kernels[0]
    columns, before = _columns(path), set(_findings(path))
    orc = columns.table.sorted()
    rng = random.Random(f"{kind} 20201215")
    rows = _inside_sites(columns, orc)
    missed = []
    for row in rng.sample(rows, min(EACH, len(rows))):
        mutant = _mutant(orc, row, kind, rng)
        found = set(check_columns(replace(columns, table=mutant)).findings)
        if not found - before:
            missed.append(str(columns.program.location(int(orc.ip[row]))))
    assert missed == []


def test_every_site_is_looked_at(kernel: Kernel) -> None:
    """Each site has its original and each entry as a text; few are blind."""
    columns = _columns(kernel.build.kernels[0])
    alternatives, counts = columns.alternatives, check_columns(columns).counts
    assert alternatives is not None
    sites = len(alternatives.site_address)
    assert counts["sites"] == sites
    assert counts["variants"] == sites + len(alternatives)
    assert counts["boundaries"] > counts["variants"]
    assert counts["blind sites"] < sites / 10


def test_every_function_is_decoded_from_its_start(kernel: Kernel) -> None:
    """The sweep is in step at each function symbol of the code."""
    columns = _columns(kernel.build.kernels[0])
    symbols = columns.program.symbols
    address = symbols.address[symbols.functions & (symbols.size > 0)]
    address = address[columns.program.in_code(address)]
    assert len(address) > 1000
    assert (columns.insns.index(address) < 0).sum() == 0


def test_findings_fit_a_screen(kernel: Kernel) -> None:
    """Evidence has at most 25 lines of 100 columns, and keys hold no address.

    Of several with one cause the first has it.
    """
    seen = set[str]()
    for finding in _findings(kernel.build.kernels[0]):
        again = finding.key in seen
        seen.add(finding.key)
        assert len(finding.window) == 0 if again else 0 < len(finding.window) <= 25
        assert all(len(line) <= 100 for line in finding.window)
        assert f"{finding.location.address:x}" not in finding.key


def test_what_nobody_uses_is_not_imported(kernel: Kernel) -> None:
    """numpy imports its masked arrays for ``np.unique``; that is longer than to decode."""
    command = ["-X", "importtime", "-m", "harness", "validate", "--no-cache"]
    done = subprocess.run(
        [sys.executable, *command, str(kernel.build.kernels[0])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "harness.verify.edges.flow" in done.stderr
    assert "numpy.ma.core" not in done.stderr


def test_a_stripped_image_names_its_functions(kernel: Kernel) -> None:
    """Each function symbol of vmlinux is in the kallsyms of the bootable image."""
    image = kernel.build.bzimage
    assert image is not None
    vmlinux, stripped = load(kernel.build.kernels[0]).symbols, load(image).symbols

    wanted = vmlinux.functions
    names = zip(vmlinux.names[wanted], vmlinux.address[wanted].tolist(), strict=True)
    seen = set(zip(stripped.names, stripped.address.tolist(), strict=True))

    assert set(names) - seen == set()
    assert wanted.sum() > 1000

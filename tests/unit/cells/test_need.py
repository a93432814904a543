"""Needs: what a build or a guest takes, and what this machine has."""

from __future__ import annotations

from harness.boot.machine import OVERHEAD_MB
from harness.cells.cell import choose, read
from harness.cells.need import of_build, of_cell, of_machine
from harness.corpus.built import Build


def test_this_machine() -> None:
    """It has something."""
    assert of_machine().cores >= 1


def test_more_is_needed_for_more() -> None:
    """A full kernel, more jobs; a nested guest; and never less than a container's."""
    small, full = Build("b", "bookworm"), Build("b", "bookworm", profile="full")

    assert of_build(small, 2).fits(of_build(full, 2))
    assert of_build(small, 64).memory_mb > of_build(full, 1).memory_mb
    needs = {
        cell.boot.platform: of_cell(cell) for cell in choose(read(), (), nightly=False)
    }
    assert needs["kvm"].memory_mb > needs["native"].memory_mb > OVERHEAD_MB  # type: ignore[index]

"""Extract: what one kernel file holds, as counts and as columns on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct

from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.load import load
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program


class Extract(Struct, frozen=True):
    """What was found in one file.

    Attributes:
        name: the file's name as people say it.
        release: the kernel it says it is, or empty.
        orc_format: ``v1a`` to ``v4``, or empty without ORC.
        counts: sections, symbols, ORC entries, alternative entries and sites.
        written: the files that were saved.
        notes: what is odd and is no error.
    """

    name: str
    release: str
    orc_format: str
    counts: dict[str, int]
    written: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        counted = [f"{count:,} {name}" for name, count in self.counts.items()]
        orc = f"ORC {self.orc_format}" if self.orc_format else "no ORC"
        return ", ".join(filter(None, (self.release, orc, *counted)))


def extract(path: Path, target: Path | None) -> Extract:
    """Read ``path``; save its sections and columns as ``target``, if given.

    Raises:
        FormatError: it is not a kernel file.
    """
    program = load(path)
    orc = parse_orc(program)
    alternatives = parse_alternatives(program)
    counts = {"sections": len(program.sections), "symbols": len(program.symbols)}
    if orc is not None:
        counts["ORC entries"] = len(orc)
    if alternatives is not None:
        counts["alternatives"] = len(alternatives)
        counts["sites"] = len(alternatives.site_address)
    written = () if target is None else _save(program, orc, alternatives, target)
    notes = program.notes if orc is not None else (*program.notes, "no ORC here")
    return Extract(
        program.name,
        program.release,
        orc.format.value if orc else "",
        counts,
        tuple(map(str, written)),
        notes,
    )


def _save(
    program: Program,
    orc: OrcTable | None,
    alternatives: Alternatives | None,
    path: Path,
) -> tuple[Path, ...]:
    """Save the ALLOC sections at their addresses, symbols and tables as .npz."""
    columns: dict[str, np.ndarray] = {
        "section.name": np.array([s.name for s in program.sections]),
        "section.address": np.array([s.address for s in program.sections], np.uint64),
        "symbol.name": np.array(list(program.symbols.names), dtype=str),
        "symbol.address": program.symbols.address,
        "symbol.size": program.symbols.size,
    }
    for prefix, table in (("orc", orc), ("alternative", alternatives)):
        if table is not None:
            for name in table.__struct_fields__:
                value = getattr(table, name)
                if isinstance(value, np.ndarray):
                    columns[f"{prefix}.{name}"] = value
    for section in program.sections:
        if section.alloc and len(section.data):
            columns[f"data.{section.index}{section.name}"] = section.data
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **columns)
    return (path,)

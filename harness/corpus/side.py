"""Side: mutants of the tables beside the code: a row dropped, or sent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.corpus.mutant import Change, Kind, MutantClass
from harness.corpus.rewrite import Poke
from harness.elf.sites import SiteTable, parse_sites, table_bytes
from harness.text.insn import I64
from harness.verify.columns import Columns

_TABLES = (
    SiteTable.RETURN_SITES,
    SiteTable.RETPOLINE_SITES,
    SiteTable.CALL_SITES,
    SiteTable.STATIC_CALL_SITES,
    SiteTable.EX_TABLE,
    SiteTable.JUMP_TABLE,
    SiteTable.BUG_TABLE,
    SiteTable.IBT_ENDBR_SEAL,
    SiteTable.SMP_LOCKS,
)
_WITH_TARGET = (SiteTable.EX_TABLE, SiteTable.JUMP_TABLE)


def _rows(columns: Columns, table: SiteTable) -> I64:
    """Rows that name a place, by their number in the section."""
    sites, found = (
        parse_sites(columns.program, table),
        table_bytes(columns.program, table),
    )
    if sites is None or found is None or sites.entry_size == 24:
        return np.zeros(0, np.int64)
    first = found[1].reshape(-1, sites.entry_size)[:, :4]
    return np.flatnonzero(first.any(axis=1))


def _place(columns: Columns, table: SiteTable, row: int) -> tuple[int, int, int]:
    """Return (address of the row, its size, the address that it names)."""
    sites, found = (
        parse_sites(columns.program, table),
        table_bytes(columns.program, table),
    )
    assert sites is not None
    assert found is not None
    address, data = found
    at = row * sites.entry_size
    offset = int.from_bytes(data[at : at + 4].tobytes(), "little", signed=True)
    return address + at, sites.entry_size, address + at + offset


def _dropped(table: SiteTable) -> MutantClass:
    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        at, size, place = _place(columns, table, row)
        edits = (Poke(at, bytes(size)),)
        return Change(columns, edits, place, 1, "row dropped")

    return MutantClass(
        f"side/{table}-drop", Kind.SIDE, lambda columns: _rows(columns, table), mutate
    )


def _redirected(table: SiteTable, field: int, name: str) -> MutantClass:
    """The s32 at ``field`` of a row points one instruction further."""

    def mutate(
        columns: Columns, row: int, random: np.random.Generator
    ) -> Change | None:
        at, _, place = _place(columns, table, row)
        old = columns.program.read(at + field, 4).tobytes()
        offset = int.from_bytes(old, "little", signed=True)
        goes = np.array([at + field + offset], np.uint64)
        insn = int(columns.insns.index(goes)[0])
        if insn < 0:
            return None
        step = int(columns.insns.size[insn])
        data = (offset + step).to_bytes(4, "little", signed=True)
        what = f"{name} one instruction further"
        edits = (Poke(at + field, data),)
        return Change(columns, edits, place, 1, what)

    return MutantClass(
        f"side/{table}-{name}",
        Kind.SIDE,
        lambda columns: _rows(columns, table),
        mutate,
    )


def _classes() -> Iterator[MutantClass]:
    for table in _TABLES:
        yield _dropped(table)
        yield _redirected(table, 0, "place")
        if table in _WITH_TARGET:
            yield _redirected(table, 4, "target")


CLASSES = tuple(_classes())

"""Reach: the instructions that control can come to on a platform, as the text tells.

It enters at the first instruction (the boot loader), where an interrupt's frame is that
no edge leads to (hardware), where data point to (tables of operations, of interrupts,
of system calls, initcalls, a hypervisor's notes), and in what modules import. From there
it takes every edge of the flow, those of all texts that the platform can run, and comes
to each function whose address an instruction on the way has.

This is too much rather than too little: whoever has the address of a function is taken
to call it, static keys go both ways, and no value is followed, so that the driver of a
device that is not there is reached.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.column import among, distinct
from harness.elf.program import KERNEL_MAP, Program, Section
from harness.elf.sites import SiteTable, table_bytes
from harness.text.insn import I64, U64, Insns
from harness.text.patch import ORIGINAL
from harness.text.patch.choice import asked, reach
from harness.variant import Platform
from harness.verify.columns import Columns
from harness.verify.edges.flow import Flow, flow_of
from harness.verify.successor import Bools, interrupted

# An address is the last field of an instruction, or an immediate is behind it.
_FIELD, _BEHIND = 4, (0, 1, 2, 4)
_RELATIVE = 0xC7, 0x05  # ModRM: mod and r/m of disp32(%rip)
_WORD, _STEP = 8, 4  # bytes of a pointer; and how they are aligned, notes among them
# Lists of places that the kernel patches or looks up, and its exports: who is in them
# is not called for that.
_LISTS = (".orc_", ".alt", "__ksymtab", ".parainstructions")
_INITCALLS = (
    ("__initcall_start", "__initcall_end"),
    ("__con_initcall_start", "__con_initcall_end"),
)


class Reached(Struct, frozen=True):
    """What control can come to.

    Attributes:
        addresses: u64[k], ascending, of instructions in any text.
        texts: bool[s], which streams of sites can run, in sites that are reached.
    """

    addresses: U64
    texts: Bools

    def hold(self, begin: U64, end: U64) -> Bools:
        """Tell in which of the ranges one of the addresses lies."""
        first = np.searchsorted(self.addresses, begin)
        return np.asarray(first < np.searchsorted(self.addresses, end))


def reached(columns: Columns, platform: Platform, imported: U64) -> Reached:
    """Return what of ``columns`` is reached on ``platform``.

    ``imported``: where the symbols are that its modules name.
    """
    insns, program = columns.insns, columns.program
    possible = texts_of(columns, platform)
    named = distinct(program.symbols.address[program.in_code(program.symbols.address)])
    pointed = distinct(np.concatenate([*_pointers(program), imported]))
    rows = columns.index(pointed[among(pointed, named)])
    source, target = _ways(columns, flow_of(columns), possible, named)
    nowhere = np.ones(len(insns), bool)
    nowhere[target] = False
    entered = np.flatnonzero(nowhere & interrupted(columns.state))
    first = np.zeros(min(1, len(insns)), np.int64)
    roots = np.concatenate([first, rows[rows >= 0], entered])
    found = _closure(len(insns), source, target, roots)
    return _with_texts(columns, found, possible)


def texts_of(columns: Columns, platform: Platform) -> Bools:
    """Tell which streams of sites can run on ``platform``: originals, until patched."""
    streams, alternatives = columns.streams, columns.alternatives
    if streams is None or alternatives is None:
        return np.zeros(0, bool)
    possible = streams.entry == ORIGINAL
    for stream in np.flatnonzero(~possible).tolist():
        site, entry = int(streams.site[stream]), int(streams.entry[stream])
        run = reach(asked(alternatives, site), platform)
        number = entry - int(alternatives.site_first[site])
        passes = streams.era.sequential and number in run.passes
        possible[stream] = number in run.stays or passes
    return np.asarray(possible & streams.whole)


def _with_texts(columns: Columns, rows: Bools, possible: Bools) -> Reached:
    address = columns.insns.address[rows]
    streams, alternatives = columns.streams, columns.alternatives
    if streams is None or alternatives is None:
        return Reached(address, possible)
    at = columns.index(alternatives.site_address)
    lives = (at >= 0) & rows[np.maximum(at, 0)]
    texts = possible & lives[streams.site]
    inner = streams.insns.address[np.repeat(texts, np.diff(streams.first))]
    return Reached(distinct(np.concatenate([address, inner])), texts)


def _ways(columns: Columns, flow: Flow, possible: Bools, named: U64) -> tuple[I64, I64]:
    """Return the rows that control goes from, and those that it goes to."""
    insns = columns.insns
    falls = flow.scope.falls.copy()
    falls[flow.ends] = False
    steps = np.flatnonzero(falls)
    taken, taker = _taken(insns, named, columns.branches)
    parts = [
        (steps, insns.end[steps]),
        (columns.branches, insns.target[columns.branches]),
        (flow.noreturn.ways.source, flow.noreturn.ways.target),
        (taker, taken),
        _leaving(columns, possible),
    ]
    source = np.concatenate([source for source, _ in parts])
    target = columns.index(np.concatenate([target for _, target in parts]))
    known = (source >= 0) & (target >= 0)
    return source[known], target[known]


def _leaving(columns: Columns, possible: Bools) -> tuple[I64, U64]:
    """Where the texts of sites that can run go to, from where the site is."""
    streams, alternatives = columns.streams, columns.alternatives
    if streams is None or alternatives is None:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    owner = np.repeat(np.arange(len(streams)), np.diff(streams.first))
    goes = possible[owner] & (streams.insns.target != 0)
    site = alternatives.site_address[streams.site[owner[goes]]]
    return columns.index(site), streams.insns.target[goes]


def _taken(insns: Insns, named: U64, branches: I64) -> tuple[U64, I64]:
    """Return which of ``named`` instructions have the address of, and their rows."""
    other = np.ones(len(insns), bool)
    other[branches] = False
    found, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for behind in _BEHIND:
        long = np.flatnonzero(other & (insns.size > _FIELD + behind))
        code, size = insns.code[long], insns.size[long].astype(np.int64)
        at = size - _FIELD - behind
        cells = code[np.arange(len(long))[:, None], at[:, None] + np.arange(_FIELD)]
        value = np.ascontiguousarray(cells).view("<i4").reshape(-1).astype(np.int64)
        before = code[np.arange(len(long)), np.maximum(at - 1, 0)]
        relative = before & _RELATIVE[0] == _RELATIVE[1]
        found += [value.view(np.uint64), insns.ends(long) + value.view(np.uint64)]
        rows += [long, np.where(relative, long, -1)]
    address, row = np.concatenate(found), np.concatenate(rows)
    known = (row >= 0) & among(address, named)
    return address[known], row[known]


def _pointers(program: Program) -> list[U64]:
    """Return the kernel's addresses that its data have, and its initcalls."""
    lists = [table_bytes(program, table) for table in SiteTable]
    spans = [(at, at + len(data)) for at, data in filter(None, lists)]
    found = [
        _words(section, spans) for section in program.sections if _is_data(section)
    ]
    return [*found, *_initcalls(program)]


def _is_data(section: Section) -> bool:
    inside = section.alloc and not section.executable and section.data.size >= _WORD
    return bool(inside and not section.name.startswith(_LISTS))


def _words(section: Section, spans: list[tuple[int, int]]) -> U64:
    count = (section.data.size - _WORD) // _STEP + 1
    data = np.ascontiguousarray(section.data)
    words = np.ndarray(count, "<u8", data, strides=(_STEP,))
    at = np.flatnonzero(words >= KERNEL_MAP)
    place = at.astype(np.uint64) * np.uint64(_STEP) + np.uint64(section.address)
    listed = np.zeros(len(at), bool)
    for begin, end in spans:
        listed |= (place >= np.uint64(begin)) & (place < np.uint64(end))
    return np.asarray(words[at[~listed]]).astype(np.uint64)


def _initcalls(program: Program) -> list[U64]:
    """Return the functions of the lists that hold distances, not pointers."""
    found = []
    for names in _INITCALLS:
        start, stop = (program.symbols.find(name) for name in names)
        if start is None or stop is None or stop <= start:
            continue
        cells = np.ascontiguousarray(program.read(start, stop - start)).view("<i4")
        place = np.uint64(start) + np.arange(len(cells), dtype=np.uint64) * np.uint64(4)
        found.append(place + cells.astype(np.int64).view(np.uint64))
    return found


def _closure(count: int, source: I64, target: I64, roots: I64) -> Bools:
    """Tell to which of ``count`` rows a way leads from ``roots``."""
    order = np.argsort(source, kind="stable")
    source, target = source[order], target[order]
    first = np.searchsorted(source, np.arange(count + 1))
    found = np.zeros(count, bool)
    front = distinct(roots)
    while len(front):
        found[front] = True
        begin, ways = first[front], first[front + 1] - first[front]
        within = np.arange(ways.sum()) - np.repeat(np.cumsum(ways) - ways, ways)
        goes = target[np.repeat(begin, ways) + within]
        front = distinct(goes[~found[goes]])
    return found

"""Seal: functions that keep their ENDBR though nothing takes their address.

objtool lists every function that begins with ENDBR and that no relocation leads to but
calls and jumps (create_ibt_endbr_seal_sections() in tools/objtool/check.c), and the
kernel overwrites theirs. Of relocations a linked kernel has what they wrote: 64 or 32
bits of an address, or 32 bits of a distance. Whatever may be one is taken for one.

Some lay in what the linker drops: .exitcall.exit, which names what module_exit() has, and
.discard.ibt_endbr_noseal. So only what is called or jumped to is judged, and not by init
code, where a driver calls its own exit function when it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from harness.elf.column import among
from harness.elf.program import Program, Section
from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns
from harness.verify.extent import holding, typed

T = TypeVar("T", bound=np.generic)

_SHORT, _LONG = 4, 8  # bytes of an address, with its sign extended or whole

# They name code, but not to have it called (validate_ibt() in tools/objtool/check.c).
_NAMES_ONLY = (
    ".discard",
    ".debug",
    ".rela",
    ".orc_",
    ".BTF",
    ".alt",
    ".parainstructions",
    ".retpoline_sites",
    ".return_sites",
    ".call_sites",
    ".static_call_sites",
    ".cfi_sites",
    ".ibt_endbr_seal",
    ".smp_locks",
    ".kcfi_traps",
    "__bug_table",
    "__ex_table",
    "__jump_table",
    "__mcount_loc",
)
_NO_SEAL = ".discard.ibt_endbr_noseal"  # but this one
_OFFSETS = "kallsyms_offsets"  # of its symbols from their own places, since 7.x
_INIT, _EXIT = ".init.text", ".exit.text"
_BRANCHES = (InsnKind.CALL, InsnKind.JMP, InsnKind.JCC)
_IMMEDIATES = (0, 1, 2, 4)  # bytes that may follow a displacement


def unsealed(columns: Columns, sealed: U64) -> U64:
    """Return where functions begin that ought to be among ``sealed``."""
    if columns.program.guessed or not len(columns.insns):
        return np.zeros(0, np.uint64)
    start, end = typed(columns.program)
    row = columns.index(start)
    keeps = (row >= 0) & (columns.insns.kind[row] == InsnKind.ENDBR)
    keeps &= ~among(start, sealed)
    left = start[keeps]
    left = left[among(left, _called(columns, row[keeps], (start, end)))]
    held = _held(columns, left)
    while len(left) and (values := next(held, None)) is not None:
        left = left[~among(left, values[among(values, left)])]  # few of many
    return np.asarray(left)


def _called(columns: Columns, rows: I64, extents: tuple[U64, U64]) -> U64:
    """To which of ``rows`` branches lead, but from within, and elsewhere than in init."""
    program, insns = columns.program, columns.insns
    wanted = np.zeros(len(insns) + 1, bool)
    wanted[rows] = True
    target = insns.target[columns.branches]
    at = np.flatnonzero(wanted[columns.index(target)])
    source, target = insns.address[columns.branches[at]], target[at]
    init, ends = (
        np.array([*(s.name.startswith(name) for s in program.sections), False])
        for name in (_INIT, _EXIT)
    )
    place = program.sections_at(source)
    runs = ~init[place] | init[program.sections_at(target)]
    runs &= ~ends[place] & (holding(*extents, source) != holding(*extents, target))
    return np.asarray(target[runs])


# --- what may be an address -----------------------------------------------------------


def _held(columns: Columns, wanted: U64) -> Iterator[U64]:
    """Yield all that may be one of the ``wanted`` addresses, the likely places first."""
    program = columns.program
    data = sorted(filter(_calls, program.sections), key=lambda section: section.size)
    code = program.executable
    names = _own_names(program)
    yield from (_words(section, 0) for section in data)
    yield from (_immediates(s, at, wanted) for s in code for at in range(_SHORT))
    yield from (_distances(section, 0, names) for section in data)
    yield from _displacements(columns)
    yield from (_words(s, at) for s in code for at in range(_LONG))
    yield from (_words(s, at) for s in data for at in range(1, _LONG))
    yield from (_distances(s, at, names) for s in data for at in range(1, _SHORT))


def _calls(section: Section) -> bool:
    """Whether what is called may be named in it."""
    name = section.name
    only_names = name.startswith(_NAMES_ONLY) and name != _NO_SEAL
    return bool(section.data.size) and not section.executable and not only_names


def _own_names(program: Program) -> range:
    """Where the kernel says where its symbols are."""
    start = program.symbols.find(_OFFSETS)
    if start is None:
        return range(0)
    behind = np.searchsorted(program.symbols.address, np.uint64(start), side="right")
    end = program.symbols.address[behind : behind + 1]
    return range(start, int(end[0]) if len(end) else start)


def _words(section: Section, at: int) -> U64:
    return _cells(section, at, np.dtype("<u8"))


def _immediates(section: Section, at: int, wanted: U64) -> U64:
    """What is extended with its sign, as far as it lies among the ``wanted``."""
    cells = _cells(section, at, np.dtype("<i4"))
    low, high = (int(bound) for bound in wanted.view(np.int64)[[0, -1]])
    return _extended(cells[(cells >= low) & (cells <= high)])


def _distances(section: Section, at: int, names: range) -> U64:
    """What counts from its own place; but for ``names``, which everything has."""
    cells = _extended(_cells(section, at, np.dtype("<i4")))
    first = np.uint64(section.address + _first(section, at, _SHORT))
    place = first + np.arange(len(cells), dtype=np.uint64) * np.uint64(_SHORT)
    named = (place >= np.uint64(names.start)) & (place < np.uint64(names.stop))
    return np.asarray((place + cells)[~named])


def _displacements(columns: Columns) -> Iterator[U64]:
    """What counts from behind an instruction that is no branch."""
    insns = columns.insns
    for section in columns.program.executable:
        bounds = np.array([section.address, section.end], np.uint64)
        first, last = np.searchsorted(insns.address, bounds).tolist()
        branch = np.isin(insns.kind[first:last], _BRANCHES)
        for behind in _IMMEDIATES:
            long = ~branch & (insns.size[first:last] >= _SHORT + behind + 2)
            end = insns.end[first:last][long]
            at = (end - np.uint64(section.address)).astype(np.int64) - behind - _SHORT
            cells = section.data[at[:, None] + np.arange(_SHORT)].view("<i4")
            yield np.asarray(end + _extended(cells.reshape(-1)))


def _cells(section: Section, at: int, kind: np.dtype[T]) -> npt.NDArray[T]:
    """What lies ``at`` bytes behind each multiple of its size."""
    data = section.data[_first(section, at, kind.itemsize) :]
    return data[: len(data) // kind.itemsize * kind.itemsize].view(kind)


def _first(section: Section, at: int, size: int) -> int:
    return (at - section.address) % size


def _extended(values: npt.NDArray[np.int32]) -> U64:
    return values.astype(np.int64).view(np.uint64)

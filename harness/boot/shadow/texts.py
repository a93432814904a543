"""Texts: which texts of the alternative sites a boot has executed.

A text is told by its instructions, byte by byte. One that several texts of a site have
at the same place is evidence of none of them but of a site's first, the original, which
is there from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.boot.shadow.record import Record
from harness.elf.alternative import Alternatives, AltFlag
from harness.text.patch import ORIGINAL, NopTable, Streams
from harness.text.patch.nops import is_nop

_Bools = npt.NDArray[np.bool_]
_CALL = 0xE8
_NONE = np.zeros(0, np.uint64)
_Codes = dict[int, set[bytes]]  # address -> instructions that a text may have there


class Texts(Struct, frozen=True):
    """Which streams were executed.

    Attributes:
        executed: bool[s], an instruction of it was.
        verified: bool[s], and the table was right there.
        foreign: instructions in sites that no text of the site has.
    """

    executed: _Bools
    verified: _Bools
    foreign: int


def texts(
    record: Record,
    alternatives: Alternatives,
    streams: Streams,
    tables: Sequence[NopTable] = (NopTable.P6,),
    calls: npt.NDArray[np.uint64] = _NONE,
) -> Texts:
    """Return which texts' instructions are in ``record``.

    ``tables`` are those whose NOPs the kernel may have written. At ``calls`` the originals
    call through pv_ops, which the kernel may make direct (up to 6.7: apply_paravirt());
    such a call is still the original.
    """
    executed, verified = (np.zeros(len(streams), bool) for _ in range(2))
    begin = alternatives.site_address
    end = begin + alternatives.site_length.astype(np.uint64)
    called = np.isin(begin, calls).tolist()
    first = np.searchsorted(record.pc, begin).tolist()
    last = np.searchsorted(record.pc, end).tolist()
    stream = np.searchsorted(streams.site, np.arange(len(begin) + 1)).tolist()
    foreign = 0
    for site in np.flatnonzero(np.less(first, last)).tolist():
        ours = range(stream[site], stream[site + 1])
        codes = {one: _codes(streams, alternatives, one, tables) for one in ours}
        for row in range(first[site], last[site]):
            code, at = record.code[row].tobytes(), int(record.pc[row])
            fits = [one for one in ours if _has(codes[one], at, code)]
            if not fits and _is_direct(streams, alternatives, ours, at, code):
                made = _direct(streams, alternatives, ours)
                fits = made or list(ours[: called[site]])
            foreign += not fits
            for one in fits[:1]:
                executed[one] = True
                verified[one] |= record.verified[row] > 0
    return Texts(executed, verified, foreign)


def _codes(
    streams: Streams,
    alternatives: Alternatives,
    stream: int,
    tables: Sequence[NopTable],
) -> _Codes:
    """Return the instructions of one text, as linked (an original) and as written."""
    codes: _Codes = {}
    if not streams.whole[stream]:
        return codes
    entry = int(streams.entry[stream])
    linked = streams.rows(stream) if entry == ORIGINAL else ()
    for insn in linked:
        codes.setdefault(insn.address, set()).add(insn.code)
    if entry != ORIGINAL and alternatives.flags[entry] & AltFlag.DIRECT_CALL:
        return codes
    for table in tables:
        whole, at = streams.text(stream, table), 0
        for insn in streams.written(stream, table):
            codes.setdefault(insn.address, set()).add(whole[at : at + insn.size])
            at += insn.size
    return codes


def _has(codes: _Codes, at: int, code: bytes) -> bool:
    return any(code.startswith(one) for one in codes.get(at, ()))


def _direct(streams: Streams, alternatives: Alternatives, ours: range) -> list[int]:
    """Return the texts that are the original's call, made direct."""
    return [
        one
        for one in ours
        if (entry := int(streams.entry[one])) != ORIGINAL
        and alternatives.flags[entry] & AltFlag.DIRECT_CALL
    ]


def _is_direct(
    streams: Streams, alternatives: Alternatives, ours: range, at: int, code: bytes
) -> bool:
    """Whether it is of such a text: the call, or NOPs in place of it and behind it."""
    site = int(alternatives.site_address[streams.site[ours.start]])
    return (at == site and code[0] == _CALL) or is_nop(code)

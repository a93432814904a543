"""Altgroup: the two designs that were argued for alternatives and one ORC table.

An alternative site has several texts (streams) and one table. Which state belongs
to which byte? Both answers of December 2020 are here, each written from its own
description and calling nothing of the other:

* :func:`merge_sort`, Peter Zijlstra's RFC (LKML 20201215145408.GR3092): of the
  instructions that cover a byte the one that starts last wins;
* :func:`cfi_array`, Josh Poimboeuf's (LKML 20201216003802.5fpklvx37yuiufrt, merged
  as c9c324dc22aa "objtool: Support stack layout changes in alternatives"): one array
  by byte offset, which each instruction fills at its first byte.

They agree on streams whose every instruction is reached. Neither looks at a call's
return address minus one, which is where the unwinder looks: :func:`wrong_returns`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from harness.text.insn import InsnKind


class Row(Struct, frozen=True):
    """One instruction of a stream: its place in the site and its unwind state.

    ``cfi`` is None where control never comes.
    """

    offset: int
    length: int
    cfi: int | None
    kind: InsnKind = InsnKind.OTHER


class Stream(Struct, frozen=True):
    """One text of a site, without its padding.

    ``rows`` are contiguous from offset 0; ``after`` is the state behind the last.
    """

    rows: tuple[Row, ...]
    after: int | None


class Merge(Struct, frozen=True):
    """What a design makes of a site.

    Attributes:
        cfi: the state of each byte.
        incompatible: offsets where streams disagree (class a).
        unwind: offsets of instructions for which ``cfi`` is wrong (class b).
    """

    cfi: tuple[int | None, ...]
    incompatible: frozenset[int]
    unwind: frozenset[int]


def merge_sort(streams: Sequence[Stream], length: int) -> Merge:
    """Merge ``streams`` of a site of ``length`` bytes the way of Zijlstra's RFC.

    Each stream is padded to ``length`` by one filler NOP. An instruction that is
    never reached has the state of its stream's first.
    """
    padded = []
    for stream in streams:
        rows = [
            (row.offset, stream.rows[0].cfi if row.cfi is None else row.cfi)
            for row in stream.rows
        ]
        end = stream.rows[-1].offset + stream.rows[-1].length if stream.rows else 0
        if end < length:
            rows.append((end, stream.after))
        padded.append(rows)
    merged: list[int | None] = []
    incompatible = set()
    for byte in range(length):
        start, cfi = -1, None
        for rows in padded:
            top, state = max(row for row in _started(rows, byte))
            if top > start:
                start, cfi = top, state
            elif top == start and state != cfi:
                incompatible.add(top)
        merged.append(cfi)
    unwind = {start for rows in padded for start, cfi in rows if cfi != merged[start]}
    return Merge(tuple(merged), frozenset(incompatible), frozenset(unwind))


def _started(
    rows: Sequence[tuple[int, int | None]], byte: int
) -> list[tuple[int, int | None]]:
    return [row for row in rows if row[0] <= byte]


def cfi_array(streams: Sequence[Stream], length: int) -> Merge:
    """Merge ``streams`` of a site of ``length`` bytes the way of objtool.

    An instruction that is never reached leaves its byte empty, and an empty byte
    inherits from the one before.
    """
    array: list[int | None] = [None] * length
    conflicts = set()
    for stream in streams:
        visits = [(row.offset, row.cfi) for row in stream.rows]
        size = sum(row.length for row in stream.rows)
        if size < length:
            visits.append((size, stream.after))  # the fake NOP
        for offset, cfi in visits:
            if cfi is None:
                continue
            if array[offset] is None:
                array[offset] = cfi
            elif array[offset] != cfi:
                conflicts.add(offset)
    for offset in range(1, length):
        if array[offset] is None:
            array[offset] = array[offset - 1]
    # An agreed instruction start stores its own state: class b cannot differ.
    return Merge(tuple(array), frozenset(conflicts), frozenset(conflicts))


def wrong_returns(streams: Sequence[Stream], merge: Merge) -> frozenset[int]:
    """Return offsets of calls that unwind wrongly while they are active (class c).

    The unwinder looks a return address up at its last byte before it: what counts
    for a call is the state of its last byte, which another stream may own.
    """
    return frozenset(
        row.offset
        for stream in streams
        for row in stream.rows
        if row.kind in (InsnKind.CALL, InsnKind.CALL_INDIRECT)
        and row.cfi is not None
        and merge.cfi[row.offset + row.length - 1] != row.cfi
    )

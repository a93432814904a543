"""Shape: all of a site that its judgement depends on.

Thousands of sites come from a few macros: they have the same texts under the same
conditions, and the same states in the table. One of each shape is judged.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.elf.alternative import Alternatives
from harness.text.code import CODE_BYTES
from harness.text.insn import I64, U8, InsnKind
from harness.text.patch import Streams

Shape = tuple[bytes, ...]


def shapes_of(
    alternatives: Alternatives, streams: Streams, table: I64, sites: I64
) -> Iterator[Shape]:
    """Yield the shape of each of ``sites``; ``table`` is of all, [site, byte].

    Places in the site count from its start. A branch that leaves it has the same
    target; a jump goes over the same distance, too, since a short one is shortened.
    """
    chosen = np.zeros(len(alternatives.site_address), bool)
    chosen[sites] = True
    stream = np.flatnonzero(chosen[streams.site])
    count = np.diff(streams.first)[stream]
    texts = _lines(
        count,
        streams.whole[stream],
        streams.fill[stream],
        streams.padlen[stream],
        streams.length[stream],
    )
    entries = _lines(alternatives.cpuid, alternatives.flags, alternatives.instrlen)
    insns = _insns(alternatives, streams, stream, count)
    first = np.searchsorted(streams.site[stream], np.append(sites, len(chosen)))
    begin = np.append(0, np.cumsum(count))[first]
    of = zip(
        table[sites],
        alternatives.site_length[sites].tolist(),
        alternatives.site_first[sites].tolist(),
        alternatives.site_count[sites].tolist(),
        first.tolist(),
        first[1:].tolist(),
        begin.tolist(),
        begin[1:].tolist(),
        strict=False,
    )
    for states, length, entry, entry_count, text, text_end, insn, insn_end in of:
        yield (
            states[: length + 1].tobytes(),
            entries[entry : entry + entry_count].tobytes(),
            texts[text:text_end].tobytes(),
            insns[insn:insn_end].tobytes(),
        )


def _insns(alternatives: Alternatives, streams: Streams, stream: I64, count: I64) -> U8:
    """Return what counts of the instructions of ``stream``s, u8[insns, bytes]."""
    start = np.cumsum(count) - count
    rows = np.repeat(streams.first[stream] - start, count) + np.arange(count.sum())
    insns = streams.insns.take(rows)
    owner = np.repeat(streams.site[stream], count)
    site = alternatives.site_address[owner]
    goes = insns.target - site
    inside = (goes <= alternatives.site_length[owner]) & (insns.target != 0)
    far = insns.of_kind(InsnKind.JMP, InsnKind.JCC) & ~inside
    seen = np.arange(CODE_BYTES) < insns.size[:, None]
    # how far it is to a function, or its pointer, does not matter
    seen &= ~insns.of_kind(InsnKind.CALL, InsnKind.CALL_INDIRECT)[:, None]
    return _lines(
        insns.address - site,
        insns.size,
        insns.kind,
        np.where(inside, goes, insns.target),
        inside,
        np.where(far, goes, np.uint64(0)),
        insns.code[:] * seen,
    )


def _lines(*columns: npt.NDArray[np.generic]) -> U8:
    """Return the rows of ``columns`` as bytes, u8[n, k]."""
    widths = [each.itemsize * int(np.prod(each.shape[1:])) for each in columns]
    parts = [
        np.ascontiguousarray(each).view(np.uint8).reshape(len(each), width)
        for each, width in zip(columns, widths, strict=True)
    ]
    return np.concatenate(parts, axis=1)

"""Kallsyms: the tables of scripts/kallsyms.c, in each order and width that it had."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

GROUP = 256
TOKEN = 0x01  # stands for TEXT
TEXT = "fn_"
SEQ = b"\x01\x02\x03"  # of seqs_of_names, which nobody here reads


@dataclass(frozen=True)
class Layout:
    """How one kernel writes them."""

    word: int = 4  # bytes of num_syms and of markers
    align: int = 8
    offsets_first: bool = True
    seqs: bool = False
    base: bool = True
    absolute: bool = True  # negative offsets count, the others are addresses
    long_names: bool = False


LAYOUTS = {
    "4.14": Layout(word=8),
    "4.20": Layout(),
    "6.2": Layout(seqs=True, long_names=True),
    "6.4": Layout(offsets_first=False, seqs=True, long_names=True),
    "6.15": Layout(offsets_first=False, seqs=True, long_names=True, absolute=False),
    "7.2": Layout(
        offsets_first=False,
        seqs=True,
        long_names=True,
        absolute=False,
        base=False,
        align=4,
    ),
}
Symbol = tuple[int, str, str]  # address, nm's letter, name


def kallsyms(symbols: Sequence[Symbol], layout: Layout, address: int) -> bytes:
    """Return the tables of ``symbols``, to lie at ``address`` behind 24 other bytes."""
    out = _Tables(layout, address)
    if layout.offsets_first:
        out.offsets(symbols)
    out.words([len(symbols)])
    names, markers = _names(symbols, layout)
    out.table(names)
    out.words(markers)
    if layout.seqs and layout.offsets_first:
        out.table(SEQ * len(symbols))
    tokens = [chr(i) if chr(i).isalnum() or chr(i) in "._" else "" for i in range(256)]
    tokens[128:] = [""] * 128
    tokens[TOKEN] = TEXT
    out.table(b"".join(token.encode() + b"\0" for token in tokens))
    starts = itertools.accumulate((len(token) + 1 for token in tokens), initial=0)
    out.table(b"".join(struct.pack("<H", at) for at in list(starts)[:-1]))
    if not layout.offsets_first:
        out.offsets(symbols)
        out.table(SEQ * len(symbols))
    return bytes(out.data)


class _Tables:
    """The bytes so far; each table begins aligned."""

    def __init__(self, layout: Layout, address: int) -> None:
        self.data = bytearray(b"\xee" * 24)
        self.layout = layout
        self.address = address

    def table(self, data: bytes) -> None:
        self.data += bytes(-len(self.data) % self.layout.align) + data

    def words(self, values: Sequence[int]) -> None:
        self.table(b"".join(v.to_bytes(self.layout.word, "little") for v in values))

    def offsets(self, symbols: Sequence[Symbol]) -> None:
        self.table(b"")
        base = min(where for where, _, _ in symbols if where >> 63)
        for where, _, _ in symbols:
            value = where - base
            if not self.layout.base:
                value = where - (self.address + len(self.data))
            elif self.layout.absolute:
                value = base - 1 - where if where >> 63 else where
            self.data += struct.pack("<i", value)
        if self.layout.base:
            self.table(struct.pack("<Q", base))


def _names(symbols: Sequence[Symbol], layout: Layout) -> tuple[bytes, list[int]]:
    names, markers = bytearray(), []
    for index, (_, letter, name) in enumerate(symbols):
        if index % GROUP == 0:
            markers.append(len(names))
        tokens = (letter + name).replace(TEXT, chr(TOKEN)).encode()
        if len(tokens) > 127:
            assert layout.long_names
            names += bytes((len(tokens) & 0x7F | 0x80, len(tokens) >> 7))
        else:
            names.append(len(tokens))
        names += tokens
    return bytes(names), markers

"""Kallsyms: the symbols that a kernel carries of itself, for its own oopses.

They lie in .rodata without a name, written by scripts/kallsyms.c:

    num_syms       u64 up to 4.19, u32 since
    names          per symbol a length (two bytes from 128 on, 6.1 and later), then
                   that many tokens; the first character is nm's type letter
    markers        where each 256th symbol starts in names: u64 up to 4.19, u32 since
    seqs_of_names  3 bytes each, 6.2 and later; here in 6.2 and 6.3 (and 6.1.y)
    token_table    256 strings that bytes of names stand for
    token_index    u16[256], where each starts
    offsets        s32 each, in front of num_syms up to 6.3, here since 6.4
    relative_base  u64, behind offsets; gone in 7.x

An offset counts from relative_base; where some symbols are absolute (per-CPU ones,
up to 6.14) negative offsets count down from it and the others are addresses. Without
a base it counts from its own place. Nothing is found by version: the token table is
recognised by the ten digits in it, which each stand for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import pieces
from harness.elf.file import Bytes
from harness.elf.symbol import Names

GROUP = 256  # symbols per marker
LEAST_GROUPS = 8
KERNEL_BASE = 0xFFFF_FFFF_8000_0000  # __START_KERNEL_map
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_LONGEST = 512  # characters of a name, KSYM_NAME_LEN since 6.1
_SOME = 2048  # symbols that are spelled out at once


class Kallsyms(Struct, frozen=True):
    """The symbols as columns, in the order of the table, which is by address.

    Attributes:
        address: u64[n].
        type: u8[n], nm's letter.
        names: parallel.
    """

    address: npt.NDArray[np.uint64]
    type: npt.NDArray[np.uint8]
    names: Names

    def __len__(self) -> int:
        return len(self.address)


def parse_kallsyms(data: Bytes, address: int) -> Kallsyms | None:
    """Find the tables in ``data``, which lies at ``address``; None if there are none."""
    for tokens in _token_tables(data):
        for at, markers in _marker_tables(data, tokens.start):
            if (names := _names(data, at, markers)) is None:
                continue
            places = _addresses(data, address, names, tokens)
            if places is not None:
                kinds, texts = _expand(data, names, tokens)
                return Kallsyms(places, kinds, texts)
    return None


class _Tokens(Struct, frozen=True):
    start: int  # offset of token_table
    index: npt.NDArray[np.int64]  # [257], where each starts; the last is the end
    end: int  # offset behind token_index


def _token_tables(data: Bytes) -> Iterator[_Tokens]:
    whole = data.tobytes()
    at = whole.find(_DIGITS)
    while at >= 0:
        if (found := _token_table(data, whole, at)) is not None:
            yield found
        at = whole.find(_DIGITS, at + 1)


def _token_table(data: Bytes, whole: bytes, digits: int) -> _Tokens | None:
    """Check that token_index agrees with a table whose digits are at ``digits``."""
    ends = []
    at = digits
    for _ in range(256 - ord("0")):
        at = whole.find(b"\0", at) + 1
        if not at:
            return None
        ends.append(at)
    steps = np.diff([digits, *ends[:-1]])
    for place in range(at, at + 8):
        if place + 512 > len(whole):
            return None
        index = np.frombuffer(whole[place : place + 512], "<u2").astype(np.int64)
        if not index[0]:
            later = index[ord("0") :]
            if (np.diff(later) == steps).all():
                start = digits - int(later[0])
                full = np.append(index, at - start)
                return _Tokens(start, full, place + 512)
    return None


def _marker_tables(
    data: Bytes, before: int
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield (offset, markers): rising runs in front of the tokens."""
    for width in (4, 8):
        start = before % width
        words = data[start : before - (before - start) % width].view(f"<u{width}")
        values = words.astype(np.int64)
        step = np.diff(values)
        rises = (step >= 2 * GROUP) & (step <= _LONGEST * GROUP)
        heads = np.flatnonzero((values[:-1] == 0) & rises)[::-1]
        ends = np.append(np.flatnonzero(~rises), len(rises))
        last = ends[np.searchsorted(ends, heads)]
        for first, end in zip(heads.tolist(), last.tolist(), strict=True):
            if end - first >= LEAST_GROUPS:
                yield start + first * width, values[first : end + 1]


class _Names(Struct, frozen=True):
    number: int  # offset of num_syms
    align: int  # of every table
    first: npt.NDArray[np.int64]  # offset of each symbol's first token
    length: npt.NDArray[np.int64]  # tokens


def _names(data: Bytes, at: int, markers: npt.NDArray[np.int64]) -> _Names | None:
    """Find names in front of the ``markers`` at offset ``at``: they must agree."""
    last = int(markers[-1])
    # num_syms lies 8 bytes before names (4 in 7.x), which end in front of the markers
    nearest, farthest = at - last - 4, max(at - last - GROUP * _LONGEST - 8, 0)
    words = data[farthest + -farthest % 4 :]
    words = words[: max(nearest - farthest, 0) & ~3].view("<u4").astype(np.int64)
    groups = -(-words // GROUP)
    likely = (groups > 0) & (groups <= len(markers)) & (groups >= len(markers) - 1)
    for row in np.flatnonzero(likely)[::-1].tolist():
        number, count = farthest + -farthest % 4 + 4 * row, int(words[row])
        for start in (number + 8, number + 4):
            if (found := _walk(data[start:at], count, markers)) is not None:
                first, length = found
                return _Names(number, start - number, first + start, length)
    return None


def _walk(
    names: Bytes, count: int, markers: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Return where the tokens of each symbol start, and how many they are.

    None unless each 256th symbol is at its marker and the last ends the names.
    """
    groups = -(-count // GROUP)
    rest = count - (groups - 1) * GROUP  # symbols of the last group
    text = np.append(names, np.zeros(2, np.uint8)).astype(np.int64)
    first, length = np.zeros((2, GROUP, groups), np.int64)
    at = markers[:groups].copy()
    for nth in range(GROUP):  # the symbols of a group one by one, all groups at once
        walking = slice(groups if nth < rest else groups - 1)
        here = np.minimum(at[walking], len(names))
        size = text[here]
        long = size >= 0x80
        size = np.where(long, size & 0x7F | text[here + 1] << 7, size)
        first[nth, walking] = at[walking] + 1 + long
        length[nth, walking] = size
        at[walking] += 1 + long + size
    if (at[:-1] != markers[1:groups]).any():
        return None
    if not 0 <= len(names) - at[-1] < 8:  # more than alignment
        return None
    tokens = length.T.reshape(-1)[:count]
    if not tokens.all():  # every symbol has one for its letter
        return None
    return first.T.reshape(-1)[:count], tokens


def _addresses(
    data: Bytes, address: int, names: _Names, tokens: _Tokens
) -> npt.NDArray[np.uint64] | None:
    count = len(names.first)
    behind = _up(tokens.end, names.align)
    before = names.number - 8 - _up(4 * count, names.align)
    for at in (behind, before):
        if at < 0 or at + 4 * count > len(data):
            continue
        offsets = data[at : at + 4 * count].view("<i4").astype(np.int64)
        base = _base(data, _up(at + 4 * count, names.align))
        if (places := _resolve(offsets, base, address + at)) is not None:
            return places
    return None


def _base(data: Bytes, at: int) -> int:
    word = data[at : at + 8]
    value = int(word.view("<u8")[0]) if len(word) == 8 else 0
    return value if value >= KERNEL_BASE and not value & 0xFFF else 0


def _resolve(
    offsets: npt.NDArray[np.int64], base: int, place: int
) -> npt.NDArray[np.uint64] | None:
    """Return addresses if these are offsets: in order, and of this kernel."""
    signed = base - (1 << 64)
    negative = offsets < 0
    if base and negative.mean() > 0.5:
        places = np.where(negative, signed - 1 - offsets, offsets)
        ordered = places[negative]
    elif base:
        places = ordered = signed + (offsets & 0xFFFF_FFFF)
    else:
        own = place - (1 << 64) + 4 * np.arange(len(offsets), dtype=np.int64)
        places = ordered = own + offsets
    if len(ordered) < 2 or (np.diff(ordered) < 0).any():
        return None
    if int(ordered[0]) < KERNEL_BASE - (1 << 64) or int(ordered[-1]) >= 0:
        return None
    return places.view(np.uint64)


def _up(value: int, align: int) -> int:
    return value + -value % align


def _expand(
    data: Bytes, names: _Names, tokens: _Tokens
) -> tuple[npt.NDArray[np.uint8], Names]:
    """Return the type letter and the name of each symbol."""
    letters, texts, starts = [], [], []
    behind = 0
    for some in pieces(len(names.first), _SOME):
        text, start = _texts(data, names.first[some], names.length[some], tokens)
        letters.append(text[start])
        texts.append(text.tobytes() + b"\0")
        starts.append(start + (behind + 1))
        behind += len(text) + 1
    return np.concatenate(letters), Names(b"".join(texts), np.concatenate(starts))


def _texts(
    data: Bytes,
    first: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    tokens: _Tokens,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the texts of some symbols, a NUL between two, and where each starts."""
    before = np.cumsum(length) - length
    first = np.repeat((first - before).astype(np.int32), length)
    token = data[first + np.arange(len(first), dtype=np.int32)]
    size = (np.diff(tokens.index) - 1).astype(np.int32)[token]  # without the NUL
    start = np.cumsum(size, dtype=np.int32) - size
    begin = (tokens.start + tokens.index[:-1]).astype(np.int32)
    source = np.repeat(begin[token] - start, size)
    source += np.arange(len(source), dtype=np.int32)
    letters = start[before].astype(np.int64)
    text = np.insert(data[source], letters[1:], 0)
    return text, letters + np.arange(len(letters))

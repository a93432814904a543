"""Length: instrlen and replacementlen, which no stack state shows.

ALTERNATIVE (arch/x86/include/asm/alternative.h) pads the original with single-byte
NOPs to the longest replacement. So a site is as long as that, or as its original is
without any padding: what is longer than both has swallowed code that is not its own,
and patching destroys it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.column import distinct
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import I64, U64, InsnKind
from harness.text.patch import ORIGINAL, Streams
from harness.verify.columns import Columns, Part
from harness.verify.pattern import Patterns, mixed, prefixes
from harness.verify.window import excerpt

RULE = "alternative/length"

_LEAVES = (InsnKind.JMP, InsnKind.JMP_INDIRECT, InsnKind.RET, InsnKind.END)
_WITNESSES = 20  # entries that must agree to make another one wrong
_CALL_MEMORY = 6  # bytes of call *disp32(%rip)


class _Wrong(Struct, frozen=True):
    site: int
    message: str


def check_lengths(columns: Columns) -> Part:
    """Check the two lengths of every entry against the texts and each other."""
    alternatives, streams = columns.alternatives, columns.streams
    patterns = columns.patterns
    if alternatives is None or streams is None or patterns is None:
        return Part()
    wrong: dict[int, _Wrong] = {}
    for one in (
        *_by_entry(alternatives),
        *_by_nesting(alternatives),
        *_by_text(alternatives, streams),
        *_by_function(columns.program, alternatives),
        *_by_position(alternatives, patterns),
        *_by_peers(columns.program, alternatives, patterns),
    ):
        wrong.setdefault(one.site, one)
    return Part(
        tuple(
            Finding(
                RULE,
                columns.program.location(address),
                one.message,
                window=excerpt(columns.program, columns.insns, address),
            )
            for one in wrong.values()
            for address in [int(alternatives.site_address[one.site])]
        )
    )


def _by_entry(alternatives: Alternatives) -> Iterator[_Wrong]:
    instrlen, replacementlen = alternatives.instrlen, alternatives.replacementlen
    for entry in np.flatnonzero(instrlen == 0).tolist():
        yield _Wrong(int(alternatives.site[entry]), "the site has no bytes")
    for entry in np.flatnonzero(replacementlen > instrlen).tolist():
        yield _Wrong(
            int(alternatives.site[entry]),
            f"a replacement of {replacementlen[entry]} bytes is for a site of "
            f"{instrlen[entry]}: it overwrites what follows",
        )


def _by_nesting(alternatives: Alternatives) -> Iterator[_Wrong]:
    """Entries of one site are equally long, or each is the original of the next."""
    length = alternatives.instrlen.astype(np.int64)
    replacement = alternatives.replacementlen.astype(np.int64)
    same = alternatives.site[1:] == alternatives.site[:-1]
    grows = length[1:] > length[:-1]
    torn = same & (
        (length[1:] < length[:-1]) | (grows & (length[1:] != replacement[1:]))
    )
    for entry in np.flatnonzero(torn).tolist():
        yield _Wrong(
            int(alternatives.site[entry]),
            f"its entries are for {length[entry]} and {length[entry + 1]} bytes, "
            f"no replacement needs that",
        )


def longest(alternatives: Alternatives) -> I64:
    """Return i64[sites], bytes of each site's longest replacement."""
    found = np.zeros(len(alternatives.site_address), np.int64)
    np.maximum.at(found, alternatives.site, alternatives.replacementlen)
    return found


def _by_text(alternatives: Alternatives, streams: Streams) -> Iterator[_Wrong]:
    """Sites that are longer than their replacements: the original fills them."""
    long = alternatives.site_length > longest(alternatives)
    insns = streams.insns
    stream = np.repeat(np.arange(len(streams)), np.diff(streams.first))
    site = streams.site[stream]
    own = (streams.entry[stream] == ORIGINAL) & long[site]
    padding = own & (insns.size == 1) & (insns.code[:][:, 0] == 0x90)
    for at in distinct(site[padding]).tolist():
        yield _Wrong(at, "it has padding, and is longer than every replacement")
    start = alternatives.site_address[site]
    end = start + alternatives.site_length[site].astype(np.uint64)
    away = (insns.target < start) | (insns.target > end)
    leaves = own & insns.of_kind(*_LEAVES) & away & (insns.end < end)
    for at in distinct(site[leaves]).tolist():
        yield _Wrong(at, "it goes on behind a jump that never comes back")
    direct = (alternatives.flags & AltFlag.DIRECT_CALL) != 0
    calls = distinct(alternatives.site[direct])
    calls = calls[long[calls]]
    for at in calls[alternatives.site_length[calls] != _CALL_MEMORY].tolist():
        size = int(alternatives.site_length[at])
        yield _Wrong(at, f"a call through memory has {_CALL_MEMORY} bytes, not {size}")


def _by_function(program: Program, alternatives: Alternatives) -> Iterator[_Wrong]:
    """A site does not reach into the next function."""
    symbols = program.symbols
    starts = distinct(symbols.address[symbols.functions])
    first = alternatives.site_address
    end = first + alternatives.site_length.astype(np.uint64)
    following = np.searchsorted(starts, first, side="right")
    inside = np.searchsorted(starts, end, side="left") > following
    for site in np.flatnonzero(inside).tolist():
        name = program.location(int(starts[following[site]]))
        yield _Wrong(site, f"it reaches into {name}")


def _by_position(alternatives: Alternatives, patterns: Patterns) -> Iterator[_Wrong]:
    """An entry whose like are all the second of two was torn from its site.

    Direct calls are alike whatever they call: their operation tells nothing.
    """
    own = patterns.telling & (alternatives.replacementlen > 0)
    own &= alternatives.flags & AltFlag.DIRECT_CALL == 0
    telling = np.flatnonzero(own)
    first = alternatives.site_first[alternatives.site]
    count = alternatives.site_count[alternatives.site].astype(np.int64)
    position = (np.arange(len(alternatives)) - first + (count << 16))[telling]
    condition = alternatives.flags.astype(np.uint64) << np.uint64(16)
    condition |= alternatives.cpuid
    like = patterns.replacement ^ condition * np.uint64(0x100000001B3)
    _, like, many = np.unique(like[telling], return_inverse=True, return_counts=True)
    both = np.stack([like, position])
    _, pair, same = np.unique(both, axis=1, return_inverse=True, return_counts=True)
    alone = (same[pair.reshape(-1)] == 1) & (many[like] > _WITNESSES)
    for at in np.flatnonzero(alone).tolist():
        others = np.flatnonzero((like == like[at]) & (position != position[at]))
        if len(distinct(position[others])) == 1:
            nth, of = int(position[others[0]]) & 0xFFFF, int(position[others[0]]) >> 16
            site = int(alternatives.site[telling[at]])
            message = (
                f"{len(others)} entries like one of it are number {nth + 1} of {of}"
            )
            yield _Wrong(site, message)


def _by_peers(
    program: Program, alternatives: Alternatives, patterns: Patterns
) -> Iterator[_Wrong]:
    """Sites whose original is that of their like and something more, or less.

    Like are an object's sites with the same replacements on the same conditions. The fewer of
    two kinds are the wrong ones.
    """
    like = _like(alternatives, patterns)
    objects = program.objects_at(alternatives.site_address).astype(np.uint64)
    like ^= objects * np.uint64(0x9E3779B97F4A7C15)
    whole = like ^ patterns.original
    kinds, kind, count = np.unique(whole, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(patterns.entry == ORIGINAL)
    site = patterns.site[rows]
    so_far = like[site] ^ prefixes(patterns.value[rows], site, len(like))
    at = np.minimum(np.searchsorted(kinds, so_far), len(kinds) - 1)
    begins = (kinds[at] == so_far) & (so_far != whole[site])
    for row in np.flatnonzero(begins).tolist():
        short, own = int(at[row]), int(kind[site[row]])
        if count[short] >= count[own]:
            message = f"{count[short]} sites like it end earlier"
            yield _Wrong(int(site[row]), message)
            continue
        for other in np.flatnonzero(kind == short).tolist():
            yield _Wrong(other, f"{count[own]} sites like it are longer")


def _like(alternatives: Alternatives, patterns: Patterns) -> U64:
    condition = alternatives.flags.astype(np.uint64) << np.uint64(16)
    condition |= alternatives.cpuid
    each = patterns.replacement ^ condition * np.uint64(0x100000001B3)
    return mixed(each, alternatives.site, len(alternatives.site_address))

"""The array model of patching against the kernel's loops, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis
import hypothesis.strategies as st
import numpy as np

from harness.elf.alternative import parse_alternatives
from harness.text.decode import decode_all
from harness.text.insn import Insn
from harness.text.patch import NOPS, Era, NopTable, build_streams
from tests.builders.site import SMAP, Replacement, a_site

NEW = (Era.E4, Era.E5, Era.E6)
FAR = 0x1000  # where a branch out of the replacement goes, from its start

# Whole instructions: plain ones, NOPs of both kinds, branches.
PLAIN = [bytes.fromhex(code) for code in ("fc", "9c", "58", "4889f8", "0f01ca", "f390")]
PADS = [NOPS[n] for n in (1, 1, 1, 2, 3, 5)]
JUMPS = [bytes.fromhex(code) for code in ("eb00", "eb03", "7402", "e90a000000")]
FARS = [
    b"\xe8" + FAR.to_bytes(4, "little"),
    b"\xe9" + FAR.to_bytes(4, "little"),
    b"\xe9" + (-90).to_bytes(4, "little", signed=True),
    b"\x0f\x84" + FAR.to_bytes(4, "little"),
    b"\x48\x8b\x05" + FAR.to_bytes(4, "little"),
    b"\xe9" + (40).to_bytes(4, "little"),
]
CODES = st.lists(st.sampled_from(PLAIN + PADS + JUMPS + FARS), max_size=6)


def decoded(code: bytes) -> list[Insn]:
    """``code`` at address 0."""
    columns = decode_all(np.frombuffer(code, np.uint8), 0)
    return [columns.at(row) for row in range(len(columns))]


class Kernel:
    """apply_alternatives() on one entry, in the order in which the kernel does it."""

    def __init__(self, era: Era, table: NopTable, site: int, source: int) -> None:
        self.era, self.table = era, table
        self.site, self.source = site, source

    def selected(self, replacement: bytes, length: int) -> bytes:
        """The site's bytes if the entry matches."""
        buffer = bytearray(replacement)
        if self.era not in NEW:
            self._fix_only(buffer, replacement)
            if self.era is Era.E1:
                buffer += self._add_nops(length - len(buffer))
                return bytes(buffer)
            buffer += b"\x90" * (length - len(buffer))
            return self._merge_single(buffer)
        buffer += b"\x90" * (length - len(buffer))
        starts = [insn.address for insn in decoded(bytes(buffer))]
        if self.era is Era.E4:
            return self._old_pass(buffer, len(replacement))
        for at in starts:
            self._relocate(buffer, at, len(replacement))
        return self._merge_runs(buffer)

    def unselected(self, original: bytes, padlen: int) -> bytes:
        """The site's bytes if it does not."""
        buffer = bytearray(original)
        if self.era is Era.E1:
            if padlen > 1 and original[:padlen] == b"\x90" * padlen:
                buffer[len(buffer) - padlen :] = self._add_nops(padlen)
            return bytes(buffer)
        if self.era not in NEW:
            return self._merge_single(buffer)
        if self.era is Era.E4:
            return self._old_pass(buffer, 0)
        return self._merge_runs(buffer)

    def _add_nops(self, length: int) -> bytes:
        out = b""
        while length:
            size = min(length, 8)
            if self.table is NopTable.K8:
                first = size if size < 5 else (size + 1) // 2
                out += b"\x66" * (first - 1) + b"\x90"
                if size > first:
                    out += b"\x66" * (size - first - 1) + b"\x90"
            else:
                out += NOPS[size]
            length -= size
        return out

    def _fix_only(self, buffer: bytearray, replacement: bytes) -> None:
        if len(replacement) != 5 or replacement[0] not in (0xE8, 0xE9):
            return
        target = (
            self.source + 5 + int.from_bytes(replacement[1:], "little", signed=True)
        )
        from_site = target - self.site
        if replacement[0] == 0xE9 and from_site >= 0 and from_site - 2 <= 127:
            buffer[:] = bytes([0xEB, (from_site - 2) & 0xFF]) + self._add_nops(3)
            return
        buffer[1:] = (from_site - 5).to_bytes(4, "little", signed=True)

    def _merge_single(self, buffer: bytearray) -> bytes:
        at = 0
        while at < len(buffer):
            insn = decoded(bytes(buffer[at:]))[0]
            if insn.code != b"\x90":
                at += insn.size
                continue
            end = at
            while end < len(buffer) and buffer[end] == 0x90:
                end += 1
            if end - at > 1:
                buffer[at:end] = self._add_nops(end - at)
            at = end
        return bytes(buffer)

    @staticmethod
    def _nop(code: bytes) -> bool:
        bare = code.lstrip(b"\x66")
        return bare[:1] == b"\x90" or bare[:2] == b"\x0f\x1f"

    @staticmethod
    def _add_nop(length: int) -> bytes:
        if length <= 11:
            return NOPS[length]
        return bytes([0xEB, length - 2]) + b"\xcc" * (length - 2)

    def _merge_runs(self, buffer: bytearray) -> bytes:
        at = 0
        while at < len(buffer):
            insn = decoded(bytes(buffer[at:]))[0]
            end = at + insn.size
            if self._nop(insn.code):
                if end == len(buffer):
                    break
                end = self._skip(buffer, end)
                buffer[at:end] = self._add_nop(end - at)
            at = end
        return bytes(buffer)

    def _skip(self, buffer: bytearray, at: int) -> int:
        while at < len(buffer):
            insn = decoded(bytes(buffer[at:]))[0]
            if not self._nop(insn.code):
                break
            at += insn.size
        return at

    def _old_pass(self, buffer: bytearray, length: int) -> bytes:
        at = target = jump = 0
        while at < len(buffer):
            insn = decoded(bytes(buffer[at:]))[0]
            end = at + insn.size
            if insn.code[0] in (0xEB, 0xE9):
                jump = at
                size = 1 if insn.size == 2 else 4
                relative = int.from_bytes(insn.code[-size:], "little", signed=True)
                target = end + relative
            elif self._nop(insn.code):
                end = self._skip(buffer, end)
                start = jump if target and end == target else at
                buffer[start:end] = self._add_nop(end - start)
                at = end
                continue
            else:
                target = 0
            if length:
                self._relocate(buffer, at, length)
            at = end
        return bytes(buffer)

    def _relocate(self, buffer: bytearray, at: int, length: int) -> None:
        insn = decoded(bytes(buffer[at:]))[0]
        code, end = insn.code, at + insn.size
        branch = code[0] in (0xE8, 0xE9, 0xEB, 0x74) or code[:2] == b"\x0f\x84"
        if not branch and code[:3] != b"\x48\x8b\x05":
            return
        size = 1 if insn.size == 2 else 4
        value = int.from_bytes(code[-size:], "little", signed=True)
        outside = not 0 <= end + value <= length
        if outside:
            moved = value + self.source - self.site
            buffer[end - size : end] = moved.to_bytes(size, "little", signed=True)
            short = moved + 3
            if code[0] == 0xE9 and -128 <= short <= 127:
                buffer[at:end] = bytes([0xEB, short & 0xFF]) + b"\xcc" * 3


def short_jumps_stay(code: Sequence[bytes]) -> bool:
    """Whether no short branch leaves the replacement, which the kernel refuses."""
    length, at = sum(map(len, code)), 0
    for part in code:
        at += len(part)
        if part[0] in (0xEB, 0x74) and at + part[1] > length:
            return False
    return True


@hypothesis.settings(max_examples=120, deadline=None)
@hypothesis.given(
    era=st.sampled_from([era for era in Era if era is not Era.E1]),
    code=CODES.filter(short_jumps_stay),
    fill=st.integers(0, 30),
    table=st.sampled_from(NopTable),
)
def test_selected_text(era: Era, code: list[bytes], fill: int, table: NopTable) -> None:
    """A replacement's bytes are those that the kernel's own loops leave."""
    replacement = b"".join(code)
    length = max(1, len(replacement) + fill)
    table = NopTable.P6 if era in NEW else table
    expected, streams = kernel_and_streams(era, table, replacement, length)
    assert streams.text(1, table).hex() == expected.selected(replacement, length).hex()


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    code=CODES.filter(short_jumps_stay),
    fill=st.integers(0, 30),
    table=st.sampled_from(NopTable),
)
def test_selected_text_of_the_first_era(
    code: list[bytes], fill: int, table: NopTable
) -> None:
    """E1 pads behind a replacement and leaves the NOPs in it alone."""
    replacement = b"".join(code)
    length = max(1, len(replacement) + fill)
    expected, streams = kernel_and_streams(Era.E1, table, replacement, length)
    assert streams.text(1, table).hex() == expected.selected(replacement, length).hex()


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
    era=st.sampled_from([era for era in Era if era is not Era.E1]),
    code=st.lists(st.sampled_from(PLAIN + PADS + JUMPS), min_size=1, max_size=8),
)
def test_unselected_text(era: Era, code: list[bytes]) -> None:
    """An original's NOPs are merged as the kernel merges them."""
    if not short_jumps_stay(code) or b"\xe9\x0a\x00\x00\x00" in code:
        return
    original = b"".join(code)
    program = a_site(original, [Replacement(b"\xfc", SMAP)], size=size_of(era))
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    streams = build_streams(program, alternatives, era)
    kernel = Kernel(era, NopTable.P6, 0, 0)
    assert streams.text(0).hex() == kernel.unselected(original, 0).hex()


def size_of(era: Era) -> int:
    """The size of an entry."""
    return {Era.E1: 13, Era.E2: 12}.get(era, 14)


def kernel_and_streams(era: Era, table: NopTable, replacement: bytes, length: int):
    """Return both models of a site that holds ``replacement`` and padding."""
    site = Replacement(replacement, SMAP)
    program = a_site(b"\x90" * length, [site], size=size_of(era))
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    place = int(alternatives.site_address[0])
    source = int(alternatives.replacement[0])
    return Kernel(era, table, place, source), build_streams(program, alternatives, era)

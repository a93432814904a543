"""Feature: the names of the CPU feature bits that alternatives depend on.

Their numbers move between kernels, so the names come from that kernel: from its
cpufeatures.h, or from the strings that /proc/cpuinfo prints, which the image holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from harness.errors import FormatError

if TYPE_CHECKING:
    from harness.elf.program import Program

# Numbers that every kernel from 4.14 to 7.3 agrees on; most of them have no name in
# /proc/cpuinfo.
_STABLE = {
    3 * 32 + 21: "ALWAYS",
    3 * 32 + 16: "REP_GOOD",
    4 * 32 + 23: "POPCNT",
    4 * 32 + 31: "HYPERVISOR",
    7 * 32 + 11: "PTI",
    7 * 32 + 19: "RSB_CTXSW",
    8 * 32 + 15: "VMMCALL",
    8 * 32 + 16: "XENPV",
    9 * 32 + 9: "ERMS",
    9 * 32 + 20: "SMAP",
}
# Kernels with SEV_ES in their place print that in /proc/cpuinfo.
_SINCE_5_13 = {8 * 32 + 20: "PVUNLOCK", 8 * 32 + 21: "VCPUPREEMPT"}
_WORDS = re.compile(r"^#define\s+NCAPINTS\s+(\d+)", re.MULTILINE)
_FEATURE = re.compile(
    r"^#define\s+X86_FEATURE_(\w+)\s+\(\s*(\d+)\s*\*\s*32\s*\+\s*(\d+)\s*\)",
    re.MULTILINE,
)
_BUG = re.compile(
    r"^#define\s+X86_BUG_(\w+)\s+X86_BUG\(\s*(?:(\d+)\s*\*\s*32\s*\+\s*)?(\d+)\s*\)",
    re.MULTILINE,
)


class Features(Struct, frozen=True):
    """The names of one kernel's feature and bug bits.

    Attributes:
        names: number -> name without ``X86_FEATURE_``; bugs keep ``BUG_``.
        words: NCAPINTS, how many words of features come before the bugs; 0 if
            nobody told.
        source: where the names are from, for people.
    """

    names: dict[int, str]
    words: int
    source: str

    def name(self, cpuid: int) -> str:
        """Name ``cpuid``, as ``8*32+16`` if it has no known name."""
        if named := self.names.get(cpuid):
            return named
        if self.words and cpuid >= self.words * 32:
            return f"BUG_{cpuid - self.words * 32}"
        return f"{cpuid // 32}*32+{cpuid % 32}"

    def number(self, name: str) -> int | None:
        """Return the number of ``name``, or None if this kernel has no such bit."""
        return next((n for n, known in self.names.items() if known == name), None)


def parse_cpufeatures(text: str) -> Features:
    """Read arch/x86/include/asm/cpufeatures.h.

    Raises:
        FormatError: it defines no features.
    """
    words = _WORDS.search(text)
    names: dict[int, str] = {}
    for name, word, bit in _FEATURE.findall(text):
        names.setdefault(int(word) * 32 + int(bit), name)
    if words is None or not names:
        raise FormatError(
            f"cpufeatures.h: NCAPINTS {'found' if words else 'missing'}, "
            f"{len(names)} features",
            hint="give arch/x86/include/asm/cpufeatures.h of the kernel's tree",
        )
    count = int(words[1])
    for name, word, bit in _BUG.findall(text):
        names.setdefault((count + int(word or 0)) * 32 + int(bit), f"BUG_{name}")
    return Features(names, count, "cpufeatures.h")


def image_features(program: Program) -> Features:
    """Read the names that ``program`` itself holds.

    Those are the ones of /proc/cpuinfo (x86_cap_flags and x86_bug_flags,
    arch/x86/kernel/cpu/mkcapflags.sh) and the few whose number never changed. A
    module or a stripped kernel has only the latter.
    """
    flags = _strings(program, "x86_cap_flags")
    words = len(flags) // 32
    names = {i: text.upper() for i, text in enumerate(flags) if text}
    for i, text in enumerate(_strings(program, "x86_bug_flags") if words else []):
        if text:
            names[words * 32 + i] = f"BUG_{text.upper()}"
    known = _STABLE | _SINCE_5_13 if words else _STABLE
    return Features(
        known | names, words, "image" if words else "numbers that never changed"
    )


def _strings(program: Program, symbol: str) -> list[str]:
    """Return the strings of the array of pointers ``symbol``, "" for NULL."""
    index = program.symbols.find_index(symbol)
    if index is None or program.symbols.section[index] < 0:
        return []
    address, size = program.symbols.address[index], int(program.symbols.size[index])
    if size % (32 * 8):
        return []
    pointers = program.read(int(address), size).view("<u8")
    return [_string(program, int(pointer)) for pointer in pointers]


def _string(program: Program, address: int) -> str:
    if not address or (section := program.section_at(address)) is None:
        return ""
    text = section.data[address - section.address :][:64].tobytes()
    name, end, _ = text.partition(b"\0")
    return name.decode("latin-1") if end else ""

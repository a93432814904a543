"""Names of feature bits."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.elf.feature import image_features, parse_cpufeatures
from harness.elf.load import parse
from harness.errors import FormatError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, OBJECT, ElfWriter

HEADER = """\
#define NCAPINTS\t\t\t22\t   /* N 32-bit words worth of info */
#define NBUGINTS\t\t\t2\t   /* N 32-bit bug flags */
#define X86_FEATURE_FPU\t\t\t( 0*32+ 0) /* "fpu" Onboard FPU */
#define X86_FEATURE_XENPV\t\t( 8*32+16) /* Xen paravirtual guest */
#define X86_FEATURE_XENPV_ALIAS\t\t( 8*32+16) /* the same */
#define X86_FEATURE_LA57\t\t(16*32+16) /* "la57" 5-level page tables */
/* #define X86_FEATURE_GONE\t\t( 1*32+ 1) */
#define X86_BUG(x)\t\t\t(NCAPINTS*32 + (x))
#define X86_BUG_F00F\t\t\tX86_BUG(0) /* "f00f" Intel F00F */
#define X86_BUG_ITS\t\t\tX86_BUG(1*32 + 5) /* "its" */
"""
ADDRESS = 0xFFFF_FFFF_8200_0000


def test_the_trees_header_names_features_and_bugs() -> None:
    """Bugs follow the last word of features; the first of two names counts."""
    features = parse_cpufeatures(HEADER)
    assert (features.words, features.source) == (22, "cpufeatures.h")
    assert features.name(8 * 32 + 16) == "XENPV"
    assert features.name(16 * 32 + 16) == "LA57"
    assert features.name(22 * 32) == "BUG_F00F"
    assert features.name(22 * 32 + 37) == "BUG_ITS"
    assert features.number("LA57") == 16 * 32 + 16
    assert features.number("GONE") is None


def test_unknown_bits_are_word_and_bit() -> None:
    """A bit without a name is shown as the header would define it."""
    features = parse_cpufeatures(HEADER)
    assert features.name(1 * 32 + 1) == "1*32+1"
    assert features.name(22 * 32 + 9) == "BUG_9"


@pytest.mark.parametrize("text", ["", "#define NCAPINTS 22\n", HEADER[50:]])
def test_another_header_is_refused(text: str) -> None:
    """A file without words or features is not cpufeatures.h."""
    with pytest.raises(FormatError, match=r"cpufeatures\.h: NCAPINTS"):
        parse_cpufeatures(text)


def test_the_image_names_what_cpuinfo_prints() -> None:
    """Arrays of pointers to strings, NULL where there is no name."""
    caps, bugs = [0] * 64, [0] * 32
    strings = ADDRESS + 8 * 96
    caps[33], bugs[2] = strings, strings + 6
    data = struct.pack("<96Q", *caps, *bugs) + b"vmx_x\0split\0"
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(8), flags=ALLOC | EXEC, address=ADDRESS - 0x1000)
    section = writer.section(".rodata", data, address=ADDRESS)
    writer.symbol("x86_cap_flags", section, ADDRESS, 8 * 64, kind=OBJECT)
    writer.symbol("x86_bug_flags", section, ADDRESS + 8 * 64, 8 * 32, kind=OBJECT)
    features = image_features(parse(writer.build(), "vmlinux", Path("vmlinux")))
    assert (features.words, features.source) == (2, "image")
    assert features.name(33) == "VMX_X"
    assert features.name(2 * 32 + 2) == "BUG_SPLIT"
    assert features.name(8 * 32 + 16) == "XENPV"
    assert features.name(8 * 32 + 20) == "PVUNLOCK"


def test_a_printed_name_goes_before_a_known_number() -> None:
    """8*32+20 was SEV_ES before it became PVUNLOCK."""
    pointers = [0] * 288
    pointers[8 * 32 + 20] = ADDRESS + 8 * 288
    data = struct.pack("<288Q", *pointers) + b"sev_es\0"
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", bytes(8), flags=ALLOC | EXEC, address=ADDRESS - 0x1000)
    section = writer.section(".rodata", data, address=ADDRESS)
    writer.symbol("x86_cap_flags", section, ADDRESS, 8 * 288, kind=OBJECT)
    features = image_features(parse(writer.build(), "vmlinux", Path("vmlinux")))
    assert features.name(8 * 32 + 20) == "SEV_ES"


def test_without_symbols_only_stable_numbers_have_names() -> None:
    """A stripped kernel still knows XENPV; the rest is word and bit."""
    writer = ElfWriter()
    writer.section(".text", bytes(8), flags=ALLOC | EXEC)
    features = image_features(writer.program())
    assert features.words == 0
    assert features.name(8 * 32 + 16) == "XENPV"
    assert features.name(8 * 32 + 20) == "8*32+20"
    assert features.name(40 * 32 + 3) == "40*32+3"

"""Why a symbol is not set, from a tree's Kconfig files."""

from __future__ import annotations

import pytest

from harness.build.symbols import read_symbols
from harness.kconfig import Setting

TOP = """
mainmenu "Test"
source "arch/$(SRCARCH)/Kconfig"
source "$(UNKNOWN)/Kconfig"

config EARLY
	def_bool y
	help
	  config NOT_A_SYMBOL
	  is what a help text may say.

	  depends on NOTHING

config AFTER_HELP
	bool "Seen after a help text"
"""

# The shape of arch/x86/Kconfig and arch/x86/xen/Kconfig of v6.12.
ARCH = """
config X86_EXTENDED_PLATFORM
	bool "Support for extended (non-PC) x86 platforms"

if X86_64
config X86_VSMP
	bool "ScaleMP vSMP"
	select PARAVIRT
	depends on PCI
	depends on X86_EXTENDED_PLATFORM # a remark
endif

config PARAVIRT
	bool

config PARAVIRT_XXL
	bool

menuconfig HYPERVISOR_GUEST
	bool "Linux guest support"

menu "Xen"
	depends on HYPERVISOR_GUEST

config XEN
	bool "Xen guest support"
	depends on \\
		PCI

config XEN_PV
	bool "Xen PV guest support" if EXPERT
	depends on XEN
	select PARAVIRT_XXL
endmenu

config OUTSIDE
	tristate "After the menu"
"""

ALL = {"X86_64": "y", "PCI": "y", "HYPERVISOR_GUEST": "y", "EXPERT": "y"}


@pytest.fixture
def symbols(tmp_path):
    (tmp_path / "arch/x86").mkdir(parents=True)
    (tmp_path / "Kconfig").write_text(TOP)
    (tmp_path / "arch/x86/Kconfig").write_text(ARCH)
    return read_symbols(tmp_path)


def test_names_are_the_defined_symbols_only(symbols):
    """A help text defines nothing, and does not hide what follows it."""
    assert "X86_VSMP" in symbols.names
    assert "AFTER_HELP" in symbols.names
    assert "NOT_A_SYMBOL" not in symbols.names


@pytest.mark.parametrize(
    ("setting", "config", "expected"),
    [
        (Setting("NOPE", "y"), ALL, "no such symbol in this tree"),
        (
            Setting("X86_VSMP", "y"),
            ALL,
            "unmet dependency: X86_EXTENDED_PLATFORM is not set",
        ),
        (
            Setting("X86_VSMP", "y"),
            {"PCI": "y", "X86_EXTENDED_PLATFORM": "y"},
            "unmet dependency: X86_64 is not set",
        ),
        (
            Setting("XEN", "y"),
            {},
            "unmet dependency: HYPERVISOR_GUEST is not set, PCI is not set",
        ),
        (
            Setting("XEN_PV", "y"),
            {**ALL, "XEN": "y", "EXPERT": "n"},
            "unmet dependency: EXPERT is not set",
        ),
        (
            Setting("PARAVIRT_XXL", "y"),
            ALL,
            "nobody can set it: it is selected only by XEN_PV",
        ),
        (Setting("EARLY", "y"), ALL, "nobody can set it: it has no prompt"),
        (
            Setting("PARAVIRT", "n"),
            {**ALL, "PARAVIRT": "y", "X86_VSMP": "y"},
            "it is y, selected by X86_VSMP",
        ),
        (
            Setting("OUTSIDE", "y"),
            {"OUTSIDE": "m"},
            "it is m: something that it depends on is a module",
        ),
    ],
)
def test_why(symbols, setting, config, expected):
    """The reason names what has to be set, or who alone can set it."""
    assert symbols.why(setting, config) == expected

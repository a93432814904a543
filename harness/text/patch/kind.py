"""Kind: the eras of patching, as what differs between them.

    E1  4.14 - 5.12   fill becomes NOPs of at most 8 bytes; of an unselected site only
                      its padding, if it starts with as many NOPs
    E2  5.13 - 6.2,   runs of single-byte NOPs anywhere, at most 8 bytes each
        5.10.131 and later
    E3  6.3, 6.4      the same, with the table's new layout
    E4  6.5 - 6.8     every branch and %rip-relative operand is relocated; runs of any
                      NOPs become one of at most 11 bytes, longer ones JMP and INT3; a
                      jump to the end of such a run is swallowed
    E5  6.9 - 6.19    the same without swallowing; since 6.11 entries of a site may
                      differ in length (nested)
    E6  7.0 -         the same; a site is written once, the last match wins

Source: apply_alternatives(), optimize_nops() and add_nops() of
arch/x86/kernel/alternative.c in 4.15, 5.10, 6.1, 6.8, 6.12 and 7.2.
"""

from __future__ import annotations

import enum


class Era(enum.StrEnum):
    """How apply_alternatives() pads, relocates and merges NOPs."""

    E1 = "E1"
    E2 = "E2"
    E3 = "E3"
    E4 = "E4"
    E5 = "E5"
    E6 = "E6"

    @property
    def longest_nop(self) -> int:
        """The longest NOP that it writes, in bytes."""
        return 8 if self in _OLD else 11

    @property
    def relocates_all(self) -> bool:
        """Whether a branch is put right wherever it stands in a replacement.

        Before 6.5 only a CALL or JMP that is all of the replacement is.
        """
        return self not in _OLD

    @property
    def sequential(self) -> bool:
        """Whether matching entries are written one after the other.

        Between two of them the earlier one's text can be executed.
        """
        return self is not Era.E6


_OLD = frozenset({Era.E1, Era.E2, Era.E3})


class NopTable(enum.StrEnum):
    """Which NOPs a kernel writes: up to 5.12 the CPU's vendor decides at boot.

    ``k8_nops`` are for AMD's family 15 (QEMU's qemu64, for one), unknown vendors, and
    Intel's CPUs from Core 2 to Sandy Bridge, which are faster with them; those of five
    bytes and more are two instructions (arch_init_ideal_nops()).
    """

    P6 = "P6"
    K8 = "K8"

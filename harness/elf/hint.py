"""Hint: what assembly code declared about its stack, .discard.unwind_hints.

    struct unwind_hint { u32 ip; s16 sp_offset; u8 sp_reg; u8 type; u8 signal; };

8 bytes up to 4.18, 12 since (include/linux/objtool_types.h). Registers are numbered
as in the ORC entries of the same object. A linked kernel has lost its hints.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.orc import OrcFormat, OrcTable, canonical_registers
from harness.elf.program import Program
from harness.errors import FormatError


class HintType(enum.IntEnum):
    """UNWIND_HINT_TYPE_* of 6.4 and later."""

    UNDEFINED = 0
    END_OF_STACK = 1
    CALL = 2
    REGS = 3
    REGS_PARTIAL = 4
    FUNC = 5
    SAVE = 6
    RESTORE = 7
    OTHER = 255


class UnwindHints(Struct, frozen=True):
    """The hints as columns, in the order of the section.

    Attributes:
        ip: u64[n], where the hint holds.
        sp_offset: i16[n].
        sp_reg: u8[n], OrcReg.
        type: u8[n], HintType. Up to 6.3 only CALL, REGS and REGS_PARTIAL are told
            apart, because the other numbers changed meaning without a trace.
        raw_type: u8[n], the number as found.
        signal: bool[n], the last field: ``end`` up to 6.2, ``signal`` since 6.3.
    """

    ip: npt.NDArray[np.uint64]
    sp_offset: npt.NDArray[np.int16]
    sp_reg: npt.NDArray[np.uint8]
    type: npt.NDArray[np.uint8]
    raw_type: npt.NDArray[np.uint8]
    signal: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ip)


_COMMON = [("ip", "<i4"), ("sp_offset", "<i2"), ("sp_reg", "u1"), ("type", "u1")]
_LAYOUTS = {
    12: np.dtype([*_COMMON, ("signal", "u1"), ("pad", "V3")]),
    8: np.dtype(_COMMON),
}
_OLD_TYPES = (HintType.CALL, HintType.REGS, HintType.REGS_PARTIAL)


def parse_hints(program: Program, table: OrcTable) -> UnwindHints | None:
    """Read the hints of the object whose ORC is ``table``; None if it has none.

    Raises:
        FormatError: neither entry size makes sense of them.
    """
    section = program.section(".discard.unwind_hints")
    if section is None or not section.data.size:
        return None
    scores = {
        size: float(program.in_code(_ip(section.data, section.address, size)).mean())
        for size in _LAYOUTS
        if not section.data.size % size
    }
    best = max(scores, key=lambda size: scores[size], default=0)
    if not best or scores[best] < 0.9:
        raise FormatError(
            f"{program.name}: .discard.unwind_hints has {section.data.size} bytes, "
            "entries of 8 or 12 make no sense of them"
        )
    records = np.frombuffer(section.data, dtype=_LAYOUTS[best])
    signal = records["signal"] if best == 12 else np.zeros(len(records))
    raw_type = records["type"].astype(np.uint8)
    return UnwindHints(
        ip=_ip(section.data, section.address, best),
        sp_offset=records["sp_offset"].astype(np.int16),
        sp_reg=canonical_registers(table.format, records["sp_reg"]),
        type=_types(table.format, raw_type),
        raw_type=raw_type,
        signal=signal != 0,
    )


def _ip(data: npt.NDArray[np.uint8], address: int, size: int) -> npt.NDArray[np.uint64]:
    offsets = np.frombuffer(data, dtype=_LAYOUTS[size])["ip"].astype(np.int64)
    places = np.arange(len(offsets), dtype=np.uint64) * np.uint64(size)
    return np.uint64(address) + places + offsets.view(np.uint64)


def _types(orc_format: OrcFormat, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    new = orc_format in (OrcFormat.V3, OrcFormat.V4)
    known = tuple(HintType)[:-1] if new else _OLD_TYPES
    table = np.full(256, HintType.OTHER, dtype=np.uint8)
    table[: len(known)] = known
    return np.asarray(table[raw])

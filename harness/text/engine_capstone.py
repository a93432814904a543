"""Engine capstone: the decoder that is always there; the door to capstone.

``cs_disasm`` is called over big pieces and its result array is viewed as a numpy
structured array, so that no Python object is made per instruction. It releases the
GIL: pieces are decoded by threads. Branch targets come from the bytes, not from the
printed operands.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import capstone
import numpy as np
import numpy.typing as npt
from capstone import x86_const as x86
from msgspec import Struct

from harness.errors import InfraError
from harness.text.classify import Ids, classify, targets
from harness.text.insn import I64, U8
from harness.text.length import XEN_PREFIX, measure
from harness.text.piece import Piece
from harness.text.resync import Sweep, resync
from harness.text.rows import Rows, chain

CHUNK_BYTES = 16 << 10  # what one cs_disasm call takes: 1 MB of its structures
_LONGEST = 16

_STRUCT = capstone._cs_insn
_VIEW = np.dtype(
    {
        "names": ["id", "address", "size", "operand"],
        "formats": ["<u4", "<u8", "<u2", "<u4"],
        "offsets": [
            _STRUCT.id.offset,
            _STRUCT.address.offset,
            _STRUCT.size.offset,
            _STRUCT.op_str.offset,
        ],
        "itemsize": ctypes.sizeof(_STRUCT),
    }
)
_IDS = Ids(
    {
        name.removeprefix("X86_INS_"): value
        for name, value in vars(x86).items()
        if name.startswith("X86_INS_")
    }
)


def decode(pieces: Sequence[Piece]) -> Rows:
    """Decode ``pieces``, which are in address order, by linear sweep."""
    return chain([_decode(piece) for piece in pieces])


def _decode(piece: Piece) -> Rows:
    parts: list[tuple[int, int]] = list(map(tuple, piece.parts.tolist()))
    swept = _sweep(piece.data, parts)
    sweep = resync(swept, piece.data, parts, piece.known, _sweep_all)
    return Rows(
        sweep.offset.astype(np.uint64) + np.uint64(piece.address),
        sweep.size.astype(np.uint8),
        sweep.kind,
        targets(sweep, piece.data, piece.address),
    )


def format_insn(code: bytes, address: int) -> str:
    """Return ``code``'s first instruction as AT&T text, ``(bad)`` if it is none."""
    if code.startswith(XEN_PREFIX):
        return "xen-emulate-prefix"
    length = measure(code)[0]
    for _, size, mnemonic, operands in _printer().disasm_lite(code, address, 1):
        if size != len(code) and length == len(code):
            break
        return f"{mnemonic} {operands}".strip()
    return f"({code.hex(' ')})" if length else "(bad)"


@functools.cache
def _printer() -> capstone.Cs:
    engine = _engine()
    engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    return engine


def _engine() -> capstone.Cs:
    try:
        return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    except capstone.CsError as exc:
        raise InfraError(
            f"capstone does not start: {exc}",
            hint="reinstall the capstone package for this machine",
        ) from exc


class _Chunk(Struct, frozen=True):
    """What one call found; ``operand`` holds four characters of its operands."""

    offset: I64
    size: I64
    id: npt.NDArray[np.uint16]
    operand: npt.NDArray[np.uint32]


def _sweep_all(data: U8) -> Sweep:
    return _sweep(data, [(0, len(data))])


def _sweep(data: U8, parts: list[tuple[int, int]]) -> Sweep:
    engine = _engine()
    engine.skipdata = True
    flat = np.ascontiguousarray(data)
    chunks = [
        chunk for first, last in parts for chunk in _stretch(engine, flat, first, last)
    ]
    if not chunks:
        none = np.zeros(0, np.int64)
        return Sweep(none, none, none.astype(np.uint8))
    offset = np.concatenate([chunk.offset for chunk in chunks])
    ident = np.concatenate([chunk.id for chunk in chunks])
    operand = np.concatenate([chunk.operand for chunk in chunks])
    size = np.concatenate([chunk.size for chunk in chunks])
    return Sweep(offset, size, classify(_IDS, ident, operand, offset, flat))


def _stretch(engine: capstone.Cs, data: U8, first: int, last: int) -> list[_Chunk]:
    chunks = []
    at = first
    while at < last:
        ahead = min(at + CHUNK_BYTES + _LONGEST, last)
        # what starts at the end of a chunk may be cut short: left to the next one
        stop = last if ahead == last else at + CHUNK_BYTES
        chunk = _disassemble(engine, data, at, ahead, stop)
        if not len(chunk.offset):  # skipdata always yields: our own mistake
            raise InfraError(f"capstone decoded nothing at offset {at:#x}")
        at = int(chunk.offset[-1] + chunk.size[-1])
        chunks.append(chunk)
    return chunks


def _disassemble(
    engine: capstone.Cs, data: U8, first: int, last: int, stop: int
) -> _Chunk:
    """Return the instructions in [first, last) that start before ``stop``."""
    result = ctypes.POINTER(_STRUCT)()
    count = capstone._cs.cs_disasm(
        engine.csh,
        ctypes.cast(data.ctypes.data + first, ctypes.c_char_p),
        last - first,
        first,
        0,
        ctypes.byref(result),
    )
    if not count:
        none = np.zeros(0, np.int64)
        return _Chunk(none, none, none.astype(np.uint16), none.astype(np.uint32))
    try:
        size = count * _VIEW.itemsize
        raw = (ctypes.c_char * size).from_address(ctypes.addressof(result.contents))
        rows = np.frombuffer(raw, _VIEW, count)
        rows = rows[: np.searchsorted(rows["address"], stop)]
        return _Chunk(
            rows["address"].astype(np.int64),
            rows["size"].astype(np.int64),
            rows["id"].astype(np.uint16),
            rows["operand"].copy(),
        )
    finally:
        capstone._cs.cs_free(result, count)

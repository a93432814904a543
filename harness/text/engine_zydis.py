"""Engine zydis: the fast decoder, which is there if it could be built.

``zydis.c`` fills the columns in one pass of Zydis, without the GIL. setuptools
builds it where a compiler and Zydis 4 are (``pip install``, ``ci/env``); it is no
Python extension and needs no Python header.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import InfraError
from harness.text.insn import Acts
from harness.text.length import LONGEST, measure
from harness.text.piece import Piece
from harness.text.rows import Rows

_INTERFACE = 4  # of zydis.c
_HUGE = 4 << 20  # bytes from which large pages pay
_Gap = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)


class _Text(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("address", ctypes.c_uint64),
        ("stretches", ctypes.c_void_p),
        ("stretch_count", ctypes.c_uint64),
        ("starts", ctypes.c_void_p),
        ("start_count", ctypes.c_uint64),
    )


class _Columns(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("kind", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("effect_row", ctypes.c_void_p),
        ("effect_form", ctypes.c_void_p),
        ("effect_delta", ctypes.c_void_p),
        ("effect_count", ctypes.c_uint64),
    )


def missing() -> str:
    """Return why this engine is not there, "" if it is."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else ""


def decode(pieces: Sequence[Piece]) -> Rows:
    """Decode ``pieces``, which are in address order, by linear sweep; in one call."""
    library = _load()
    if isinstance(library, str):
        raise InfraError(f"the zydis engine is not there: {library}")
    flat = [np.ascontiguousarray(piece.data) for piece in pieces]  # kept meanwhile
    texts = (_Text * len(pieces))(
        *(
            _Text(
                data.ctypes.data,
                piece.address,
                piece.parts.ctypes.data,
                len(piece.parts),
                piece.known.ctypes.data,
                len(piece.known),
            )
            for piece, data in zip(pieces, flat, strict=True)
        )
    )
    # room for a row per byte: what is not used is never touched
    most = sum(int((piece.parts[:, 1] - piece.parts[:, 0]).sum()) for piece in pieces)
    kinds = (np.uint64, np.uint8, np.uint8, np.uint64, np.int64, np.uint8, np.int64)
    rooms = [_room(most, kind) for kind in kinds]
    address, size, kind, target, row, form, delta = rooms
    at = [room.ctypes.data for room in rooms]
    columns = _Columns(*at[:4], 0, *at[4:], 0)
    if library.orc_zydis_decode(texts, len(pieces), _gap, ctypes.byref(columns)):
        raise InfraError("Zydis does not start", hint="reinstall libzydis")
    count, acts = int(columns.count), int(columns.effect_count)
    return Rows(
        address[:count],
        size[:count],
        kind[:count],
        target[:count],
        Acts(row[:acts], form[:acts], delta[:acts]),
    )


def _room(rows: int, kind: type[Any]) -> npt.NDArray[Any]:
    """Memory of its own, which goes back when it is done with: malloc keeps it."""
    size = max(1, rows * np.dtype(kind).itemsize)
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel may have none
            room.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(room, kind, rows)


def _measure(code: int, length: int) -> int:
    """Return kind and size of what Zydis does not know; 0 if it is nothing."""
    size, kind = measure(ctypes.string_at(code, min(length, LONGEST)))
    return kind << 8 | size if size else 0


_gap = _Gap(_measure)


@functools.cache
def _load() -> ctypes.CDLL | str:
    """Return the library, or why there is none."""
    built = sorted(Path(__file__).parent.glob("_zydis*.so"))
    if not built:
        return "it was not built: no compiler or no libzydis-dev (4.0 or later)"
    try:
        library = ctypes.CDLL(str(built[0]))
        library.orc_zydis_interface.restype = ctypes.c_uint32
        if library.orc_zydis_interface() != _INTERFACE:
            return f"{built[0].name} was built from another version: install again"
        library.orc_zydis_decode.argtypes = (
            ctypes.POINTER(_Text),
            ctypes.c_uint64,
            _Gap,
            ctypes.POINTER(_Columns),
        )
    except (OSError, AttributeError) as exc:
        return f"{built[0].name} does not load: {exc}"
    return library

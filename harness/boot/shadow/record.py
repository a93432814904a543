"""Record: what the plugin left behind at the end of a boot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.errors import InfraError
from harness.text.code import CODE_BYTES

# What is written of each instruction, and of each that was patched away.
_PLACE = np.dtype(
    [
        *((name, "<u8") for name in ("pc", "verified", "other")),
        *(("row", "<i8"), ("code", "V16")),
    ]
)
_MODULE = np.dtype([("name", "S56"), ("first_row", "<u8"), ("count", "<u8")])
_FIELDS = 9


class Mismatch(Struct, frozen=True):
    """An instruction whose claim was false; its context is that of the first time.

    Attributes:
        claim: ``cfa`` or ``bp``: what of the entry was false.
        pc: the instruction.
        row: of the sorted table, or a module's, whose claim it is.
        count: how often.
        claimed: the CFA by the table, or the caller's %rbp.
        truth: that of the innermost live frame; 0 if none was known.
        rsp: the stack pointer.
        previous: the instruction executed before.
        returned: the function that this one, a ret, came back from; else 0.
        caller: the call or the entry that made the innermost frame, or 0.
    """

    claim: str
    pc: int
    row: int
    count: int
    claimed: int
    truth: int
    rsp: int
    previous: int
    returned: int
    caller: int


class ModuleRows(Struct, frozen=True):
    """Where a module's table was.

    Attributes:
        first_row: its first, behind those of the kernel's and earlier modules'.
        ip: u64[n], the address of each of its rows, in the order of its file.
    """

    name: str
    first_row: int
    ip: npt.NDArray[np.uint64]


class Record(Struct, frozen=True):
    """One boot, instruction by instruction, as columns.

    Where the kernel patched itself there are several at one address.

    Attributes:
        counts: what the plugin counted, by its names.
        pc: u64[n], the kernel's instructions that were executed, sorted.
        verified: u64[n], how often the claim at each was true.
        other: u64[n], how often it was executed without: no claim, or not true.
        row: i64[n], the row of the table that claims something of each, else -1.
        code: u8[n, 16], its bytes, and zeros behind them.
        modules: whose tables the kernel has read.
    """

    counts: dict[str, int]
    mismatches: tuple[Mismatch, ...]
    pc: npt.NDArray[np.uint64]
    verified: npt.NDArray[np.uint64]
    other: npt.NDArray[np.uint64]
    row: npt.NDArray[np.int64]
    code: npt.NDArray[np.uint8]
    modules: tuple[ModuleRows, ...] = ()

    @property
    def executed(self) -> npt.NDArray[np.uint64]:
        """u64[n], how often each was executed."""
        return self.verified + self.other


def parse(report: bytes, places: bytes, modules: bytes = b"") -> Record:
    """Return what ``PREFIX.report``, ``.places`` and ``.modules`` say.

    Raises:
        InfraError: they are not whole: QEMU did not come to its end.
    """
    lines = report.decode(errors="replace").splitlines()
    if not lines or lines[-1] != "end" or len(places) % _PLACE.itemsize:
        raise InfraError(
            f"the plugin left {len(report)} bytes of report and {len(places)} of "
            "places, expected a report that ends with 'end'",
            hint="QEMU was killed, or its disk is full",
        )
    counts: dict[str, int] = {}
    mismatches: list[Mismatch] = []
    for line in lines[:-1]:
        name, *fields = line.split()
        if name == "mismatch":
            claim, *rest = fields or [""]
            mismatches.append(Mismatch(claim, *_numbers(line, rest, _FIELDS)))
        else:
            (counts[name],) = _numbers(line, fields, 1)
    rows = np.frombuffer(places, dtype=_PLACE)
    rows = rows[np.argsort(rows["pc"], kind="stable")]
    code = np.ascontiguousarray(rows["code"]).view(np.uint8).reshape(-1, CODE_BYTES)
    pc, verified, other, row = (
        rows[name].copy() for name in ("pc", "verified", "other", "row")
    )
    tables = tuple(_modules(modules))
    return Record(counts, tuple(mismatches), pc, verified, other, row, code, tables)


def _modules(data: bytes) -> Iterator[ModuleRows]:
    """Yield the modules, the first that was loaded first."""
    found = []
    while data:
        if len(data) < _MODULE.itemsize:
            break
        head, data = np.frombuffer(data, _MODULE, 1)[0], data[_MODULE.itemsize :]
        size = 8 * int(head["count"])
        if len(data) < size:
            break
        ip, data = np.frombuffer(data[:size], "<u8"), data[size:]
        name = bytes(head["name"]).partition(b"\0")[0].decode(errors="replace")
        found.append(ModuleRows(name, int(head["first_row"]), ip))
    if data:
        raise InfraError(
            f"the plugin left {len(data)} bytes more of modules than whole"
        )
    yield from reversed(found)


def _numbers(line: str, fields: list[str], count: int) -> list[int]:
    try:
        numbers = [int(field, 0) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InfraError(f"the plugin wrote {line!r}, expected {count} numbers")
    return numbers

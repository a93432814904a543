"""Judge: what a boot with the plugin says of the table, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.boot.shadow.code import Code
from harness.boot.shadow.inlined import Inlined
from harness.boot.shadow.record import Mismatch, Record
from harness.elf.orc import (
    WITHOUT_OFFSET,
    OrcTable,
    OrcType,
    describe,
    offset_ignored,
    pack,
    unpack,
)
from harness.finding import Finding

RULES = {"cfa": "shadow/cfa", "bp": "shadow/bp"}
_MESSAGES = {
    "cfa": "the caller's frame is not where the entry says, as calls tell",
    "bp": "the caller's %rbp is not where the entry says, as calls tell",
}
PLACES_SHOWN = 4


class Seen(Struct, frozen=True):
    """How often each entry of the sorted table was executed, and found true.

    Attributes:
        executed: u64[n], instructions executed while the entry held.
        verified: u64[n], of them those whose claim was true.
    """

    executed: npt.NDArray[np.uint64]
    verified: npt.NDArray[np.uint64]


def seen(record: Record, table: OrcTable) -> Seen:
    """Return what ``record`` says of each row of the kernel's ``table``."""
    held = (record.row >= 0) & (record.row < len(table))
    executed = np.zeros(len(table), dtype=np.uint64)
    verified = np.zeros(len(table), dtype=np.uint64)
    np.add.at(executed, record.row[held], record.executed[held])
    np.add.at(verified, record.row[held], record.verified[held])
    return Seen(executed, verified)


def findings(record: Record, code: Code, platform: str) -> tuple[Finding, ...]:
    """Return one finding for each entry that was wrong, or each cause of many.

    What is wrong inside of an inlined operation is apart from the rest of its entry.
    """
    inlined = Inlined(code)
    groups: dict[tuple[str, int, str], list[Mismatch]] = {}
    for one in sorted(record.mismatches, key=lambda one: (one.claim, one.row, one.pc)):
        operation = inlined.at(one.pc, one.row)
        groups.setdefault((one.claim, one.row, operation), []).append(one)
    return tuple(
        _finding(code, platform, places, operation)
        for (_, _, operation), places in groups.items()
    )


def _finding(
    code: Code, platform: str, places: Sequence[Mismatch], operation: str
) -> Finding:
    first = places[0]
    state = code.state(first.row)
    back = code.location(first.returned, first.row).symbol if first.returned else ""
    cause = f"callee {back} under {describe(state)}" if back else ""
    if operation:
        cause = f"inlined {operation}"
    elif all(_ignores_offset(state, one) for one in places):
        cause = offset_ignored(describe(state))
    return Finding(
        rule=RULES[first.claim],
        location=code.location(first.pc, first.row),
        message=_MESSAGES[first.claim],
        declared=describe(state),
        actual=_actual(state, first),
        platforms=(platform,),
        cause=cause,
        window=tuple(_window(code, places)),
    )


def _ignores_offset(state: int, one: Mismatch) -> bool:
    """Whether the entry is right, and the unwinder does not do all that it says."""
    entry = unpack(state)
    missed = one.truth - one.claimed if one.claim == "cfa" else 0
    return entry.sp_reg in WITHOUT_OFFSET and missed == entry.sp_offset != 0


def _actual(state: int, one: Mismatch) -> str:
    """Say what the entry should have been, if any offset would do."""
    if one.claim == "bp":
        return f"%rbp was {one.truth:#x} at the call"
    if _ignores_offset(state, one):
        return f"{describe(state)}, had the unwinder added its offset"
    entry = unpack(state)
    offset = entry.sp_offset + one.truth - one.claimed
    if not one.truth or not -0x8000 <= offset < 0x8000:
        return "no frame is there"
    return describe(pack(replace(entry, sp_offset=offset)))


def _window(code: Code, places: Sequence[Mismatch]) -> Iterator[str]:
    for one in places[:PLACES_SHOWN]:
        place = code.location(one.pc, one.row)
        yield f"{place}: {one.count} times; the first, with %rsp {one.rsp:#x},"
        yield f"    claimed {one.claim} {one.claimed:#x}, true {one.truth:#x},"
        behind = f"    behind {code.location(one.previous, one.row)}"
        if one.returned:
            behind += f", back from {code.location(one.returned, one.row)}"
        yield behind
        if one.caller:
            yield f"    innermost frame made at {code.location(one.caller, one.row)}"
    if len(places) > PLACES_SHOWN:
        yield f"and {len(places) - PLACES_SHOWN} places more"


def counts(record: Record, table: OrcTable, by_row: Seen) -> dict[str, int]:
    """Return what was done, by name, what matters most first."""
    stateless = np.isin(table.type, (OrcType.UNDEFINED, OrcType.END_OF_STACK))
    executed = by_row.executed
    module = record.row >= len(table)
    right = module & (record.verified > 0)
    return {
        "verified": int(record.verified.sum()),
        "instructions": len(np.unique(record.pc)),
        "orc_entries": len(table),
        "mismatches": sum(one.count for one in record.mismatches),
        "without_a_state": int(executed[stateless].sum()),
        "without_a_table": int(record.other[record.row < 0].sum()),
        "modules_with_a_table": len(record.modules),
        "verified_in_modules": int(record.verified[module].sum()),
        "module_entries_verified": len(np.unique(record.row[right])),
        **record.counts,
    }


def reason_against(record: Record, least: int) -> str:
    """Say why ``record`` is no verdict, or nothing.

    ``least`` is how many claims have to be found true by a boot that is one.
    """
    count = record.counts
    verified = int(record.verified.sum())
    if count.get("misread"):
        return f"the plugin took %rsp for unchanged {count['misread']} times"
    if unread := count.get("modules_unread"):
        return f"the tables of {unread} modules were not where the kernel takes them"
    if verified < least:
        return f"only {verified} claims were checked, expected {least}"
    if not count.get("control_seen"):
        return "control did not fail: a wrong entry went unseen"
    if not count.get("control_clean"):
        return "control: the entry was put back, yet it was not verified again"
    return ""

"""Rule: what is said of the lists, and of which place."""

from __future__ import annotations

import enum

from harness.elf.sites import SiteTable
from harness.finding import Finding
from harness.verify.columns import Columns
from harness.verify.window import excerpt


class Rule(enum.StrEnum):
    """Ids of the findings about the lists."""

    MISSING = "patch-site/missing"
    FOREIGN = "patch-site/foreign"
    KEY = "patch-site/key"


def finding(columns: Columns, address: int, rule: Rule, message: str) -> Finding:
    """Return a finding about what is at ``address``."""
    return Finding(
        rule.value,
        columns.program.location(address),
        message,
        window=excerpt(columns.program, columns.insns, address),
    )


def list_name(table: SiteTable) -> str:
    """Return the section that ``table`` is, in an object."""
    return "__mcount_loc" if table is SiteTable.MCOUNT_LOC else f".{table}"

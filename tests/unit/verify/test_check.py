"""The whole validation of files, good ones and bad ones, alone and together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.feature import Features
from harness.verify.check import check, check_columns
from harness.verify.columns import read_columns
from harness.verify.edges import wholesale
from harness.verify.lints import (
    blind,
    condition,
    length,
    order,
    patch_site,
    replacement,
    table,
)
from harness.verify.texts import judge
from tests.builders.elfwriter import ALLOC, EXEC, ElfWriter, call
from tests.builders.site import XENPV, Replacement, a_site

PV_CALL = bytes.fromhex("ff1500000000")
SAVE_FL = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
NAMES = Features({XENPV: "XENPV"}, 0, "test")


def test_no_orc_is_a_note() -> None:
    """An object without ORC is not an error and has no finding."""
    writer = ElfWriter()
    writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    verdict = check(writer.program())
    assert verdict.findings == ()
    assert "carries no ORC: nothing to validate" in verdict.notes


def test_counts_say_what_was_looked_at() -> None:
    """Entries, instructions, sites, variants and their boundaries are counted."""
    counts = check(a_site(PV_CALL, [SAVE_FL], [(1, call(16)), (2, call(8))])).counts
    assert counts["sites"] == 1
    assert counts["variants"] == 2
    assert counts["boundaries"] == 1 + 6
    assert counts["merge equal"] == 1


def test_findings_are_stable() -> None:
    """The same program gives the same findings with the same keys."""
    one, two = (check(a_site(PV_CALL, [SAVE_FL])).findings for _ in range(2))
    assert one == two
    assert not re.search(r"ffffffff|\+0x", one[0].key)


KINDS = ["sp_offset", "type", "sp_reg", "bp", "undefined", "move", "delete"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutation_inside_a_site_is_seen(kind: str) -> None:
    """Whatever happens to an entry inside a site, somebody objects."""
    entries = [(1, call(16)), (2, call(8))]
    columns = read_columns(a_site(PV_CALL, [SAVE_FL], entries), NAMES)
    assert columns is not None
    assert check_columns(columns).findings == ()
    orc = columns.table.sorted()
    row = 1  # the entry behind pushf
    fields = {
        name: getattr(orc, name).copy()
        for name in ("ip", "sp_offset", "bp_offset", "sp_reg", "bp_reg", "type")
    }
    if kind == "sp_offset":
        fields["sp_offset"][row] += 8
    elif kind == "type":
        fields["type"][row] = 3
    elif kind == "sp_reg":
        fields["sp_reg"][row] = 4
    elif kind == "bp":
        fields["bp_reg"][row], fields["bp_offset"][row] = 1, -24
    elif kind == "undefined":
        for name in ("type", "sp_reg", "sp_offset"):
            fields[name][row] = 0
    elif kind == "move":
        fields["ip"][row] += np.uint64(1)
    mutant = replace(orc, **fields)
    if kind == "delete":
        keep = np.arange(len(orc)) != row
        names = (*fields, "signal", "raw")
        mutant = replace(orc, **{name: getattr(orc, name)[keep] for name in names})
    assert check_columns(replace(columns, table=mutant)).findings


def test_every_rule_is_documented() -> None:
    """docs/findings.md has one section per rule, and none for a rule that is gone."""
    text = (Path(__file__).parents[3] / "docs" / "findings.md").read_text()
    sections = set(
        re.findall(r"^## `((?:alternative|table|patch-site|blind)/[^`]+)`", text, re.M)
    )
    several = (*judge.Rule, *table.Rule, *patch_site.Rule, *blind.Rule)
    rules = {rule.value for rule in several} | {
        length.RULE,
        replacement.RULE,
        condition.RULE,
        order.RULE,
        wholesale.RULE,
    }
    assert sections == rules

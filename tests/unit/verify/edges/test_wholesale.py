"""A table that is wrong everywhere: one finding, quickly, and never none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.errors import UserError
from harness.finding import Finding, Location
from harness.text.patch.choice import Machine
from harness.variant import Platform
from harness.verify.blame import Culprit, blame, pair
from harness.verify.check import check_columns
from harness.verify.columns import Columns
from harness.verify.edges.wholesale import RULE, absorb, few
from harness.verify.many import check_group
from harness.verify.reproducer import reproduce
from harness.verify.texts.view import verify_view
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call
from tests.builders.flow import columns_of, kernel

MANY = 700  # functions of push; pop; ret
CODE = "5058c3cc"
ROWS = [(0, call(8)), (1, call(16)), (2, call(8)), (3, UND)]


def a_kernel(wrong: int = 0, count: int = MANY) -> Columns:
    """A kernel of so many functions; in ``wrong`` of them the table knows no push."""
    rows = [
        (4 * n + offset, call(32) if n < wrong and offset == 1 else entry)
        for n in range(count)
        for offset, entry in ROWS
    ]
    symbols = [(f"f{n}", 4 * n, 3) for n in range(count)]
    return columns_of(kernel(CODE * count, rows, symbols))


def shuffled(columns: Columns) -> Columns:
    """The entries are not at their addresses any more."""
    table = columns.table
    names = ("sp_offset", "bp_offset", "sp_reg", "bp_reg", "type", "signal", "raw")
    mixed = {name: np.roll(getattr(table, name), 1) for name in names}
    return replace(columns, table=replace(table, **mixed))


def test_a_table_that_is_mixed_up() -> None:
    """One finding, whose window counts and samples what does not hold."""
    verdict = check_columns(shuffled(a_kernel()))

    (finding,) = verdict.findings
    assert finding.rule == RULE
    assert finding.location.symbol == ".orc_unwind"
    assert finding.occurrences >= verdict.counts["not followed edges"] > MANY
    assert any("text/step" in line for line in finding.window)
    assert any("not followed" in note for note in verdict.notes)


def test_some_wrong_entries_are_followed() -> None:
    """Each is looked into, and has its place."""
    verdict = check_columns(a_kernel(wrong=9))

    assert {str(f.location) for f in verdict.findings} >= {f"f{n}" for n in range(9)}
    assert "not followed edges" not in verdict.counts


def test_every_view_of_it_is_wrong() -> None:
    """It lies in no site, and no view is right for that."""
    part = verify_view(shuffled(a_kernel()), Machine(Platform.NATIVE))

    assert [finding.rule for finding in part.findings] == [RULE]


def test_it_is_not_cut_out() -> None:
    """No part of a file shows that all of it is wrong."""
    wrong = shuffled(a_kernel())
    (finding,) = check_columns(wrong).findings

    with pytest.raises(UserError, match="is about all of vmlinux"):
        reproduce(wrong, finding, "ab" * 32, {})


@pytest.mark.parametrize("after", [True, False])
def test_whose_it_is(after: bool) -> None:
    """The whole table tells, no place of it does."""
    right = a_kernel()
    wrong = shuffled(right)
    (finding,) = check_columns(wrong).findings

    both = pair(wrong, right if after else wrong)

    assert blame(finding, both) is (Culprit.SORTTABLE if after else Culprit.OBJTOOL)


def a_module(directory: Path, name: str, count: int, state: int) -> Path:
    """Write a module whose functions have ``state`` behind their push."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex(CODE) * count, flags=ALLOC | EXEC)
    rows = []
    for n in range(count):
        writer.symbol(f"f{n}", text, 4 * n, 3)
        rows += [(4 * n + at, call(state) if at == 1 else entry) for at, entry in ROWS]
    add_orc(writer, text, rows)
    path = directory / name
    path.write_bytes(writer.build())
    return path


def test_it_does_not_hide_what_is_beside_it(tmp_path: Path) -> None:
    """Modules are joined; one of them is broken, another has one wrong entry."""
    paths = [
        a_module(tmp_path, name, count, state)
        for name, count, state in (
            ("broken.ko", MANY, 24),
            ("clean.ko", 3, 16),
            ("wrong.ko", 1, 24),
        )
    ]

    results = check_group(tuple(paths))

    verdicts = {one.paths[0].name: one.verdict for one in results}
    found = {}
    for name, verdict in verdicts.items():
        assert verdict is not None
        assert "broken.ko" in verdict.alone
        found[name] = {finding.rule for finding in verdict.findings}
    assert found.pop("broken.ko") == {RULE}
    assert found["clean.ko"] == set()
    assert found["wrong.ko"]


def a_finding(rule: str, number: int, cause: str = "", name: str = "a") -> Finding:
    return Finding(
        rule, Location(name, f"f{number}", 0), "wrong", "sp+8 call", cause=cause
    )


def test_what_one_rule_says_too_often() -> None:
    """Hundreds of findings are read one by one; more have one cause."""
    some = [a_finding("x/y", n) for n in range(300)]
    other = [a_finding("x/z", 1), a_finding("x/y", 1, name="b")]

    assert sorted(few([*some, *other]), key=lambda f: f.order) == sorted(
        [*some, *other], key=lambda f: f.order
    )
    one, *rest = few([*some, a_finding("x/y", 300), *other])
    assert (one.key, one.occurrences) == ("x/y:wholesale", 301)
    assert len(rest) == 2


def test_what_one_tool_did_to_many_objects() -> None:
    """Together they are as many as those of one."""
    some = [a_finding("x/y", 0, name=f"m{n}.ko") for n in range(301)]

    assert len(list(few(some))) == 301
    (one,) = few(some, of_all=True)
    assert one.occurrences == 301


def test_many_places_of_one_cause_stay() -> None:
    """They are one finding already, and keep their key."""
    some = [a_finding("x/y", n, "callee f") for n in range(500)]

    assert {finding.key for finding in few(some)} == {"x/y:callee f"}


def test_what_follows_from_a_broken_table() -> None:
    """What is about that table is counted; what is not stays, and so do others."""
    whole = Finding(RULE, Location("a", ".orc_unwind", 0), "wrong", occurrences=5)
    lint = Finding("patch-site/missing", Location("a", "f", 0), "missing")
    elsewhere = a_finding("x/y", 1, name="b")

    kept = absorb([a_finding("x/y", 1), a_finding("x/y", 2), lint, whole, elsewhere])

    assert [finding.rule for finding in kept] == [lint.rule, "x/y", RULE]
    assert kept[-1].occurrences == 7
    assert "2 x/y" in kept[-1].window[-1]

"""Many runs in a terminal: nothing is cut that tells them apart."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from harness.errors import ExitCode
from harness.history.diff import diff
from harness.history.summary import Summary
from harness.history.trend import measured, trends
from harness.report import chronicle
from tests.builders.results import finding, run, stage

RUN = "20261127T045056-541842"
TREE = "/home/somebody/src/kernels/linux-next-with-a-long-name"


def drawn(table: RenderableType, columns: int = 100) -> str:
    """Return what a pipe gets, or a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=columns)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (ExitCode.CLEAN, "clean"),
        (ExitCode.FINDINGS, "findings"),
        (ExitCode.INFRASTRUCTURE, "error"),
        (77, "error"),  # whoever saved it knew that one
    ],
)
def test_a_run_is_a_row(code: int, verdict: str) -> None:
    """Its name is whole, every title is; a long tree is folded."""
    one = Summary(RUN, "2026", 1234.5, "validate", TREE, code, 123, 4567, 16, 16)

    head, row, *more = drawn(chronicle.run_table([one]), 80).splitlines()

    titles = ["run", "profile", "verdict", "new", "known", "judged", "seconds", "tree"]
    assert head.split() == titles
    told = f"{RUN} validate {verdict} 123 4567 16/16 1234.5".split()
    assert row.split()[:-1] == told
    assert "".join([row.split()[-1], *(line.strip() for line in more)]) == TREE


def test_numbers_that_moved() -> None:
    """Whole ones are whole; those that stayed are left out."""
    runs = [
        run(stage(counts={"sites": sites, "same": 1}, seconds=1.25))
        for sites in (1000, 1200)
    ]

    table = drawn(
        chronicle.trend_table(trends([m for r in runs for m in measured(r)]), len(runs))
    )

    (row,) = [line for line in table.splitlines() if "xen" in line]
    assert row.replace("\u2502", " ").split() == (
        ["xen", "validate", "sites", "1,000", "1,200", "1,000", "1,200", "▁█"]
    )


def test_a_trend_of_a_long_name_and_large_numbers() -> None:
    """Names are folded; numbers, and how they moved, are whole."""
    name = "6.12-gcc12-native-mitigations-off"
    runs = [
        run(stage(counts={"verified_in_modules": n}, variant=name))
        for n in (206_271_100, 212_429_200)
    ]

    table = drawn(
        chronicle.trend_table(trends([m for r in runs for m in measured(r)]), len(runs))
    )

    rows = [line.split("\u2502")[1:-1] for line in table.splitlines()[3:-1]]
    columns = ["".join(map(str.strip, column)) for column in zip(*rows, strict=True)]
    assert columns == (
        [name, "validate", "verified_in_modules"]
        + ["206,271,100", "212,429,200"] * 2
        + ["▁█"]
    )


@pytest.mark.parametrize(("runs", "numbers"), [(0, 0), (1, 4), (2, 4)])
def test_a_trend_without_a_move_is_a_sentence(runs: int, numbers: int) -> None:
    """Runs that took over the same cells have equal numbers: no table without rows."""
    same = [run(stage(counts={"sites": 5}, seconds=2.0)) for _ in range(runs)]

    shown = chronicle.trend_table(trends([m for r in same for m in measured(r)]), runs)

    assert shown == f"no number moved (runs: {runs}, numbers: {numbers})"


def test_changes() -> None:
    """Each with its key and where it was, then the sum."""
    before = run(stage(finding("a"), known=(finding("b"),)), run_id="r1")
    after = run(stage(finding("c"), known=(finding("b"),)), run_id="r2")

    assert list(chronicle.changes(diff(before, after))) == [
        "new    text/depth:vmlinux:c:-:0 [xen]",
        "known  text/depth:vmlinux:b:-:0 [xen] (excused)",
        "fixed  text/depth:vmlinux:a:-:0 [xen]",
        "r1 -> r2: 1 new, 1 known, 1 fixed, 0 unseen",
    ]

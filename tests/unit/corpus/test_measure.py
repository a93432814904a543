"""Measuring mutants of files on disk, in processes and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.corpus.classes import Zone
from harness.corpus.measure import (
    Outcome,
    Wanted,
    measure,
    new_findings,
    read_subjects,
    remake,
    try_mutant,
)
from harness.errors import UserError
from harness.progress import silent
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc
from tests.unit.corpus.program import FUNCTION, ROWS


def an_object() -> bytes:
    writer = ElfWriter()
    text = writer.section(".text", FUNCTION, flags=ALLOC | EXEC, align=16)
    writer.symbol("f", text, 0, len(FUNCTION))
    add_orc(writer, text, [*ROWS, (len(FUNCTION), UND)])
    return writer.build()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A kernel, so to speak, and one module."""
    names = ["kernel.o", "module.ko"]
    for name in names:
        (tmp_path / name).write_bytes(an_object())
    return [tmp_path / name for name in names]


def wanted(name: str, *seeds: int) -> list[Wanted]:
    return [Wanted(name, Zone.ALL, seed) for seed in seeds]


def test_a_mutant_that_a_rule_finds(paths: list[Path]) -> None:
    """Two entries of one address are a lint's."""
    outcome = try_mutant(read_subjects(paths), wanted("orc/duplicate", 1)[0])

    assert "table/duplicate" in outcome.rules
    assert not outcome.missed
    assert outcome.place.startswith("kernel.o: f")


def test_a_mutant_that_a_rule_excuses(paths: list[Path]) -> None:
    """An entry that says the same again is no defect."""
    outcome = try_mutant(read_subjects(paths), wanted("orc/repeat", 0)[0])

    assert outcome.rules == ()
    assert outcome.equivalent == "same-answers"
    assert not outcome.missed


def test_every_fourth_mutant_is_a_module_s(paths: list[Path]) -> None:
    """Modules are spoilt too, and by the number alone."""
    subjects = read_subjects(paths)

    places = [
        try_mutant(subjects, one).place.partition(":")[0]
        for one in wanted("orc/duplicate", 0, 1, 2, 3)
    ]

    assert places == ["kernel.o", "kernel.o", "kernel.o", "module.ko"]


def test_nothing_to_spoil(paths: list[Path]) -> None:
    """It is neither found nor missed."""
    outcome = try_mutant(read_subjects(paths), wanted("side/bug_table-drop", 0)[0])

    assert outcome == Outcome(wanted("side/bug_table-drop", 0)[0])
    assert not outcome.missed


def test_a_verifier_that_dies_has_missed_it(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it died of is told."""
    subjects = read_subjects(paths)

    def dies(columns: object) -> None:
        raise ZeroDivisionError("of shame")

    monkeypatch.setattr("harness.corpus.measure.check_columns", dies)

    outcome = try_mutant(subjects, wanted("orc/duplicate", 0)[0])

    assert outcome.missed
    assert outcome.error == "ZeroDivisionError: of shame"


def test_the_clean_objects_raise_no_alarm(paths: list[Path]) -> None:
    """Precision is measured on them."""
    assert new_findings(read_subjects(paths)) == []


def test_a_file_without_orc(tmp_path: Path) -> None:
    """There is nothing to spoil in it."""
    path = tmp_path / "plain.o"
    path.write_bytes(ElfWriter().build())

    with pytest.raises(UserError, match="carries no ORC"):
        read_subjects([path])


def test_processes_give_what_one_gives(paths: list[Path]) -> None:
    """The order and the outcomes do not depend on who worked."""
    some = wanted("orc/duplicate", *range(9)) + wanted("orc/repeat", 0, 1)

    outcomes = measure(paths, some, jobs=2, timeout_s=60, progress=silent)

    subjects = read_subjects(paths)
    alone = [try_mutant(subjects, one) for one in some]
    assert outcomes == sorted(alone, key=lambda o: (o.wanted.name, o.wanted.seed))


def test_a_deadline_leaves_the_rest_untried(paths: list[Path]) -> None:
    """What was not tried is not in the result."""
    outcomes = measure(
        paths, wanted("orc/duplicate", *range(64)), jobs=1, timeout_s=0, progress=silent
    )

    assert len(outcomes) < 64


def test_a_miss_can_be_made_again(paths: list[Path]) -> None:
    """Its command names class, zone and seed; the mutant itself can be had."""
    one = Wanted("orc/type", Zone.ENTRY, 17)

    assert one.command == "--class orc/type --zone entry --seed 17 --count 1"
    assert remake(read_subjects(paths), wanted("orc/type", 5)[0]) is not None

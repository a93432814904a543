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
    try_mutants,
)
from harness.errors import UserError
from harness.progress import silent
from harness.verify import check
from harness.verify.columns import Columns
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc
from tests.unit.corpus.program import FUNCTION, ROWS


def an_object(*names: str) -> bytes:
    """Return an object with the same function under each name."""
    writer = ElfWriter()
    step = -(-len(FUNCTION) // 16) * 16
    code = FUNCTION.ljust(step, b"\xcc") * len(names)
    text = writer.section(".text", code, flags=ALLOC | EXEC, align=16)
    rows = []
    for place, name in enumerate(names):
        start = place * step
        writer.symbol(name, text, start, len(FUNCTION))
        rows += [(start + offset, entry) for offset, entry in ROWS]
        rows.append((start + len(FUNCTION), UND))
    add_orc(writer, text, rows)
    return writer.build()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A kernel, so to speak, and one module."""
    names = ["kernel.o", "module.ko"]
    for name in names:
        (tmp_path / name).write_bytes(an_object("f"))
    return [tmp_path / name for name in names]


def wanted(name: str, *seeds: int) -> list[Wanted]:
    return [Wanted(name, Zone.ALL, seed) for seed in seeds]


def one(paths: list[Path], name: str, seed: int) -> Outcome:
    (outcome,) = try_mutants(read_subjects(paths), wanted(name, seed))
    return outcome


def test_a_mutant_that_a_rule_finds(paths: list[Path]) -> None:
    """Two entries of one address are a lint's."""
    outcome = one(paths, "orc/duplicate", 1)

    assert "table/duplicate" in outcome.rules
    assert not outcome.missed
    assert outcome.place.startswith("kernel.o: f")


def test_a_mutant_that_a_rule_excuses(paths: list[Path]) -> None:
    """An entry that says the same again is no defect."""
    outcome = one(paths, "orc/repeat", 0)

    assert outcome.rules == ()
    assert outcome.equivalent == "same-answers"
    assert not outcome.missed


def test_every_fourth_mutant_is_a_module_s(paths: list[Path]) -> None:
    """Modules are spoilt too, and by the number alone."""
    subjects = read_subjects(paths)

    places = [
        outcome.place.partition(":")[0]
        for outcome in try_mutants(subjects, wanted("orc/duplicate", 0, 1, 2, 3))
    ]

    assert places == ["kernel.o", "kernel.o", "kernel.o", "module.ko"]


def test_nothing_to_spoil(paths: list[Path]) -> None:
    """It is neither found nor missed."""
    outcome = one(paths, "side/bug_table-drop", 0)

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

    (outcome,) = try_mutants(subjects, wanted("orc/duplicate", 0))

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
    alone = [try_mutants(subjects, [one])[0] for one in some]
    assert outcomes == sorted(alone, key=lambda o: (o.wanted.name, o.wanted.seed))


def test_a_deadline_leaves_the_rest_untried(paths: list[Path]) -> None:
    """What was not tried is not in the result."""
    outcomes = measure(
        paths, wanted("orc/duplicate", *range(64)), jobs=1, timeout_s=0, progress=silent
    )

    assert len(outcomes) < 64


def test_a_miss_can_be_made_again() -> None:
    """Its command names class, zone and seed."""
    miss = Wanted("orc/type", Zone.ENTRY, 17)

    assert miss.command == "--class orc/type --zone entry --seed 17 --count 1"


def test_mutants_of_several_functions_are_validated_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found together is not looked at alone."""
    path = tmp_path / "kernel.o"
    path.write_bytes(an_object(*"abcdefgh"))
    subjects = read_subjects([path])
    some = wanted("orc/duplicate", *range(8))
    alone = [try_mutants(subjects, [each])[0] for each in some]
    validated = []
    real = check.check_columns

    def counted(columns: Columns) -> check.Verdict:
        validated.append(columns)
        return real(columns)

    monkeypatch.setattr("harness.corpus.measure.check_columns", counted)

    assert try_mutants(subjects, some) == alone
    assert len(validated) < len(some)


def test_what_nothing_finds_together_is_tried_alone(tmp_path: Path) -> None:
    """An equivalent mutant is proved one even in company."""
    path = tmp_path / "kernel.o"
    path.write_bytes(an_object(*"abcdefgh"))

    outcomes = try_mutants(read_subjects([path]), wanted("orc/repeat", *range(4)))

    assert {outcome.equivalent for outcome in outcomes} == {"same-answers"}

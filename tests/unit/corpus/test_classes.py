"""Classes of mutants: each can be made, is wrong as it says, and is reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from harness.corpus.classes import CLASSES, Zone, candidates, chosen, zones
from harness.corpus.mutant import WANTED, Change, Kind, draw
from harness.elf.orc import describe
from harness.errors import UserError
from harness.verify.extent import functions
from harness.verify.transfer import UNDEFINED
from tests.builders.elfwriter import call
from tests.unit.corpus.program import columns, read, rules

# What this object has nothing for: tables beside the code, frames, entry code.
_ABSENT = ("side/", "text/frame", "text/shift", "original/drop", "original/flip")
MADE = sorted(
    name
    for name in CLASSES
    if not name.startswith(_ABSENT)
    and name
    not in (
        "orc/unsorted",
        "orc/far",
        "orc/bp-offset",
        "orc/bp-reg",
        "replacement/shift",
        "alternative/repl-offset",  # of two entries one is half of the table
    )
)


def make(name: str, seed: int = 0) -> Change:
    clean = columns()
    change = draw(
        CLASSES[name], clean, candidates(CLASSES[name], Zone.ALL, clean), seed
    )
    assert change is not None
    return change


@pytest.mark.parametrize("name", MADE)
def test_a_mutant_differs_from_the_clean_program(name: str) -> None:
    """Some byte of some section is another one, or there are more or fewer."""
    clean = columns().program
    mutant = make(name).columns.program

    assert any(
        before.data.tobytes() != after.data.tobytes()
        for before, after in zip(clean.sections, mutant.sections, strict=True)
    )


@pytest.mark.parametrize("name", ["orc/sp-offset", "text/drop", "alternative/instrlen"])
def test_a_seed_names_a_mutant(name: str) -> None:
    """The same seed gives the same mutant, another gives another one sometimes."""
    same = {(make(name, 3).address, make(name, 3).what) for _ in range(2)}
    some = {(make(name, seed).address, make(name, seed).what) for seed in range(12)}

    assert len(same) == 1
    assert len(some) > 1


def test_the_clean_object_is_clean() -> None:
    """Or else no mutant of it proves anything."""
    assert rules(columns()) == set()


def test_a_moved_frame() -> None:
    """sp_offset changes by eight and nothing else does."""
    clean, change = columns(), make("orc/sp-offset")
    table, old = change.columns.table, clean.table

    changed = np.flatnonzero(table.state != old.state)

    assert len(changed) == 1
    steps = table.sp_offset.astype(int) - old.sp_offset
    assert abs(int(steps[changed[0]])) == 8


def test_a_deleted_entry() -> None:
    """One row is gone, the others are what they were."""
    change = make("orc/delete")

    assert len(change.columns.table) == len(columns().table) - 1


def test_an_undefined_entry() -> None:
    """It says nothing any more."""
    change = make("orc/undefined")

    assert change.what.endswith("-> (und)")


@pytest.mark.parametrize("seed", range(4))
def test_a_function_that_lost_its_states(seed: int) -> None:
    """None of its instructions has one, everything else has what it had."""
    clean, change = columns(), make("orc/lost", seed)
    start, end = functions(clean.program)
    address = clean.insns.address
    (size,) = (end - start)[start == change.address]
    inside = (address >= change.address) & (address < change.address + size)

    assert (change.columns.state[inside] == UNDEFINED).all()
    assert (change.columns.state[~inside] == clean.state[~inside]).all()
    assert rules(change.columns) >= {"blind/function"}


def test_what_follows_a_function_that_lost_its_states() -> None:
    """It keeps its state, which was in the same entry."""
    clean = read("53 5b c3 c3", [(0, call(8)), (1, call(16)), (2, call(8))], behind=3)
    one = CLASSES["orc/lost"]

    (row,) = candidates(one, Zone.ALL, clean).tolist()  # no entry begins where g does
    change = one.mutate(clean, row, np.random.default_rng(0))

    assert change is not None
    states = [describe(state) for state in change.columns.state.tolist()]
    assert states == ["(und)", "(und)", "(und)", "sp+8 call"]


def test_an_end_of_stack() -> None:
    """It ends the stack in the middle of a function."""
    assert make("orc/end").what.endswith("-> end")


def test_an_entry_one_instruction_later() -> None:
    """It holds from the next instruction on."""
    clean, change = columns(), make("orc/later")
    table = change.columns.table

    moved = np.flatnonzero(table.ip != clean.table.ip)

    assert len(moved) == 1
    assert clean.insns.index(table.ip[moved])[0] >= 0
    assert describe(int(table.state[moved[0]])) in change.what


@pytest.mark.parametrize(
    "name",
    ["text/drop", "text/push", "text/pair", "text/immediate", "text/return"],
)
def test_code_mutants_keep_their_length(name: str) -> None:
    """The text around them stays where it is."""
    clean, change = columns(), make(name)
    last = change.address + change.size

    assert clean.insns.index(np.array([last], np.uint64))[0] >= 0
    assert change.columns.insns.index(np.array([last], np.uint64))[0] >= 0


@pytest.mark.parametrize(
    "name", ["replacement/push", "replacement/drop", "original/push"]
)
def test_the_verifier_sees_stack_changes_in_sites(name: str) -> None:
    """What happens to the stack in a text that is not in the table is found."""
    assert rules(make(name).columns)


def test_a_group_is_chosen_by_its_name() -> None:
    """A prefix names a group, a whole name one class, nothing names all."""
    assert {one.name for one in chosen("orc")} == {
        name for name in CLASSES if name.startswith("orc/")
    }
    assert [one.name for one in chosen("text/push")] == ["text/push"]
    assert len(chosen("")) == len(CLASSES)


def test_an_unknown_class() -> None:
    """The error names the groups."""
    with pytest.raises(UserError, match="no class of mutants orx") as caught:
        chosen("orx")
    assert "orc" in (caught.value.hint or "")
    with pytest.raises(UserError) as near:
        chosen("orc/sp_ofset")
    assert "orc/sp-offset" in (near.value.hint or "")


def test_a_class_is_not_the_beginning_of_another() -> None:
    """text/pop does not stand for text/popped."""
    with pytest.raises(UserError):
        chosen("text/pus")


def test_entry_code_is_drawn_apart_where_the_stack_state_is_spoilt() -> None:
    """Tables and ordinary code have a zone of their own there; sites have not."""
    assert zones(CLASSES["orc/type"]) == (Zone.ALL, Zone.ENTRY)
    assert zones(CLASSES["alternative/cpuid"]) == (Zone.ALL,)


def test_no_entry_code_no_candidates() -> None:
    """An object without the entry section's symbols has no such mutants."""
    rows = candidates(CLASSES["orc/type"], Zone.ENTRY, columns())

    assert len(rows) == 0


def test_nothing_to_spoil_is_no_mutant() -> None:
    """A class without candidates gives none."""
    clean = columns()
    one = CLASSES["side/jump_table-drop"]

    assert draw(one, clean, candidates(one, Zone.ALL, clean), 0) is None


def test_what_is_asked_for() -> None:
    """The thresholds are those of the project's own promise."""
    assert WANTED == {
        Kind.STATE: 0.995,
        Kind.LENGTH: 0.90,
        Kind.CONDITION: 0.65,
        Kind.SIDE: None,
    }

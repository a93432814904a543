"""Places are the same in another build, and different from each other."""

from __future__ import annotations

import numpy as np

from harness.elf.place import Places
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter

BASE = 0xFFFFFFFF81000000


def places(names: list[str], spread: int = 16) -> tuple[Places, np.ndarray]:
    """Return the places of functions ``spread`` bytes apart, and their addresses."""
    writer = ElfWriter(ET_EXEC)
    size = spread * len(names)
    text = writer.section(".text", bytes(size), address=BASE, flags=ALLOC | EXEC)
    for number, name in enumerate(names):
        writer.symbol(name, text, BASE + spread * number, spread)
    at = np.arange(len(names), dtype=np.uint64) * np.uint64(spread) + np.uint64(BASE)
    return Places(writer.program("vmlinux")), at


def test_a_place_is_where_its_symbol_is() -> None:
    """Wherever that is linked to, and whatever lies between."""
    here, at = places(["a", "b"])
    there, far = places(["a", "other", "b"], 32)
    keys = here.of(at + np.uint64(3))
    assert keys.tolist() == there.of(far[[0, 2]] + np.uint64(3)).tolist()
    assert len({*keys.tolist(), *here.of(at).tolist()}) == 4


def test_more_tells_things_at_one_place_apart() -> None:
    """The state of an entry, the number of a text."""
    here, at = places(["a"])
    more = np.array([-1, 0, 1])
    assert len(set(here.of(at[[0, 0, 0]], more).tolist())) == 3


def test_functions_of_one_name_are_told_by_their_neighbours() -> None:
    """Copies of an inlined function that this build has and another has not."""
    here, at = places(["a", "lock", "lock", "b", "lock"])
    there, far = places(["a", "lock", "b", "lock"])
    keys, others = here.of(at).tolist(), there.of(far).tolist()
    assert len(set(keys)) == 5
    assert others == [keys[0], keys[1], keys[3], keys[4]]


def test_what_is_before_all_symbols_has_a_place() -> None:
    """Nothing is known of it but that."""
    here, at = places(["a"])
    assert here.of(at - np.uint64(8)).tolist() != here.of(at).tolist()

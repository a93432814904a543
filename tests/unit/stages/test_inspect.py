"""A place is found in what somebody built, and shown with its findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.stages import inspect
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)
from tests.builders.site import ALWAYS


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("f", ("f", None)),
        ("f.cold+0x1c", ("f.cold", 28)),
        ("f+0x1c/0x40", ("f", 28)),
        ("f+12", ("f", 12)),
        ("0xffffffff81000000", ("0xffffffff81000000", None)),
    ],
)
def test_places_as_people_and_traces_write_them(
    text: str, place: tuple[str, int | None]
) -> None:
    """A symbol, an offset in it, an address; the size of an oops is ignored."""
    assert inspect.parse_place(text) == place


def write(tmp_path: Path) -> Path:
    """An object with `first` (2 bytes) and the label `second` behind it."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("90c3 50 58 c3"), flags=ALLOC | EXEC)
    writer.symbol("first", text, 0, 2)
    writer.symbol("second", text, 2)
    add_orc(writer, text, [(0, call(8)), (3, call(16)), (4, call(8)), (5, UND)])
    path = tmp_path / "a.o"
    path.write_bytes(writer.build())
    return path


def test_a_label_reaches_to_the_next(tmp_path: Path) -> None:
    """A symbol without a size ends where the next one or the section does."""
    shown = inspect.show(write(tmp_path), "second+1")

    assert (shown.listing.symbol, shown.listing.size, shown.asked) == ("second", 3, 1)


def test_an_offset_behind_the_end_is_no_place(tmp_path: Path) -> None:
    """The very end is: there returns what is called last."""
    assert inspect.show(write(tmp_path), "second+3").asked == 3
    with pytest.raises(UserError, match=r"second has 0x3 bytes, and no \+0x4"):
        inspect.show(write(tmp_path), "second+4")


def test_an_address_is_a_place(tmp_path: Path) -> None:
    """It is named by the symbol that it lies in."""
    by_name = inspect.show(write(tmp_path), "first").listing

    shown = inspect.show(write(tmp_path), f"{by_name.address + 1:#x}")

    assert (shown.listing, shown.asked) == (by_name, 1)


def test_an_unknown_symbol_names_similar_ones(tmp_path: Path) -> None:
    """The hint is what to type instead."""
    with pytest.raises(UserError, match="no symbol fir") as caught:
        inspect.show(write(tmp_path), "fir")
    assert caught.value.hint == "there is first"


def test_what_is_wrong_there_is_shown(tmp_path: Path) -> None:
    """The findings of the function come with it."""
    path = tmp_path / "victim.o"
    path.write_bytes(victim())

    shown = inspect.show(path, "victim")

    assert {f.rule for f in shown.findings} == {"alternative/end"}


def victim() -> bytes:
    """The file of a function whose replacement leaves a word on the stack."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("90c3"), flags=ALLOC | EXEC)
    writer.symbol("victim", text, 0, 2)
    add_orc(writer, text, [(0, call(8)), (2, UND)])
    add_alternatives(
        writer, text, bytes.fromhex("9c"), [Alternative(0, 0, ALWAYS, 1, 1)]
    )
    return writer.build()

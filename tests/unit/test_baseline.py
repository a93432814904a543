"""The baseline covers what was reviewed, until it expires, and nothing else."""

from __future__ import annotations

import datetime
import fnmatch
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from msgspec.structs import replace

from harness import baseline
from harness.errors import FormatError, InfraError, UserError
from harness.finding import Finding, Location

TODAY = datetime.date(2026, 1, 1)
FINDING = Finding("a/b", Location("vmlinux", "f", 4), "wrong", cause="callee g")
ENTRY = """
key = "a/b:callee g"
reason = "it is wrong upstream"
evidence = ["arch/x86/entry/entry_64.S: g"]
link = "commit 123456789abc"
affected = "6.12"
expires = 2026-06-01
"""


def write(tmp_path: Path, text: str = ENTRY) -> tuple[baseline.Known, ...]:
    (tmp_path / "g.toml").write_text(text)
    return baseline.load(tmp_path)


def test_a_known_cause_is_not_new(tmp_path: Path) -> None:
    """The finding moves to the known ones, unchanged."""
    new, known = baseline.split([FINDING], write(tmp_path), TODAY)

    assert (new, known) == ((), (FINDING,))


def test_an_expired_entry_covers_nothing(tmp_path: Path) -> None:
    """After its last day the finding is new again, and says what was known of it."""
    entries = write(tmp_path)
    day_after = datetime.date(2026, 6, 2)

    (found,), known = baseline.split([FINDING], entries, day_after)

    assert known == ()
    assert found == replace(
        FINDING,
        expired=("2026-06-01: it is wrong upstream, commit 123456789abc",),
    )
    # one that is renewed is known, and says no more of that
    assert baseline.split([found], entries, TODAY) == ((), (FINDING,))


def test_another_cause_stays_new(tmp_path: Path) -> None:
    """The key is matched whole, not by symbol."""
    other = Finding("a/b", Location("vmlinux", "f", 4), "wrong", cause="callee h")

    new, _ = baseline.split([other], write(tmp_path), TODAY)

    assert new == (other,)


@pytest.mark.parametrize("text", ["key = 1", "][", ENTRY.replace("reason", "excuse")])
def test_an_entry_without_its_proof_is_refused(tmp_path: Path, text: str) -> None:
    """Every field is needed."""
    with pytest.raises(FormatError, match="baseline entry"):
        write(tmp_path, text)


@pytest.mark.parametrize(
    ("day", "seen"),
    [
        ('"2026-06-01"', "`str`"),
        ("2026-06-01T00:00:00", "`datetime`"),
        ("2026", "`int`"),
    ],
)
def test_the_last_day_is_a_date(tmp_path: Path, day: str, seen: str) -> None:
    """A date of TOML's, which has no quotes and no time; the error says what it is."""
    with pytest.raises(FormatError, match=r"Expected `date`.*\$\.expires") as error:
        write(tmp_path, ENTRY.replace("2026-06-01", day))

    assert seen in str(error.value)
    assert "expires = 2027-01-31" in str(error.value)


def test_an_added_entry_reads_back(tmp_path: Path) -> None:
    """Whatever the words: quotes, newlines, backslashes."""
    entry = baseline.Known(
        "a/b:text [x]*",
        'it says "no"\nand \\ is\x7f odd',
        ("a.c:1", "b.c:2"),
        "https://example.org/?a=b",
        "6.12",
        TODAY,
    )

    path = baseline.add(entry, tmp_path / "own")

    assert path.name.startswith("a_b_text_x-")
    assert baseline.load(path.parent) == (entry,)


@pytest.mark.parametrize("key", ["a/b", "a b", "../x:y", ""])
def test_only_a_key_can_be_added(tmp_path: Path, key: str) -> None:
    """A rule alone would silence too much."""
    entry = baseline.Known(key, "r", (), "l", "", TODAY)
    with pytest.raises(UserError, match="no finding's key"):
        baseline.add(entry, tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Where there is a file there is no directory: the machine's error, not ours."""
    (tmp_path / "file").touch()
    entry = baseline.Known("a/b:c", "r", (), "l", "", TODAY)

    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InfraError, match=r"cannot write .*a_b_c.*: "):
            baseline.add(entry, directory)


def test_an_entry_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory of that name: one error, which names it."""
    (tmp_path / "g.toml").mkdir()

    with pytest.raises(FormatError, match=r"cannot read .*g\.toml: "):
        baseline.load(tmp_path)


def test_each_key_has_a_file(tmp_path: Path) -> None:
    """Signs that file names may lack, and where long ones are cut."""
    keys = ("a/b:f.o", "a/b:f_o", f"a/b:{'x' * 200}y", f"a/b:{'x' * 200}z")
    for key in keys:
        baseline.add(baseline.Known(key, "r", (), "l", "", TODAY), tmp_path)

    assert {entry.key for entry in baseline.load(tmp_path)} == set(keys)


def test_an_entry_is_never_overwritten(tmp_path: Path) -> None:
    """The second of the same key is an error that names the first."""
    entry = baseline.Known("a/b:c", "r", (), "l", "", TODAY)
    baseline.add(entry, tmp_path)
    with pytest.raises(UserError, match="a_b_c"):
        baseline.add(entry, tmp_path)


def test_brackets_in_a_key_are_no_pattern() -> None:
    """A star is; a key can be pasted as it is printed."""
    entry = baseline.Known("a/b:f[1]:*", "r", (), "l", "", TODAY)
    assert entry.names("a/b:f[1]:original")
    assert not entry.names("a/b:f1:original")


@hypothesis.given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_star_is_what_it_is_in_a_shell(pattern: str, key: str) -> None:
    """Any number of them, anywhere, each for any text or none."""
    entry = baseline.Known(pattern, "r", (), "l", "", TODAY)
    assert entry.names(key) == fnmatch.fnmatchcase(key, pattern)


def test_a_distribution_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries come from ours, from the environment's directories and from options."""
    for name in ("env", "option"):
        entry = baseline.Known(f"a/{name}:x", "r", (), "l", "", TODAY)
        baseline.add(entry, tmp_path / name)
    monkeypatch.setenv("ORC_HARNESS_KNOWN", f"{tmp_path}/env:{tmp_path}/none")

    keys = [entry.key for entry in baseline.load_all([tmp_path / "option"])]

    assert keys[-2:] == ["a/env:x", "a/option:x"]
    assert len(keys) == len(baseline.load()) + 2
    with pytest.raises(UserError, match="no directory"):
        baseline.load_all([tmp_path / "nowhere"])


def test_own_entries_are_where_settings_are() -> None:
    """The XDG directory, unless the environment names others."""
    assert baseline.own_directories({"HOME": "/h"}) == (
        Path("/h/.config/orc-harness/known"),
    )
    assert baseline.own_directories({"XDG_CONFIG_HOME": "/x"}) == (
        Path("/x/orc-harness/known"),
    )


def test_the_shipped_baseline() -> None:
    """A few causes only, each with evidence, each expiring within two years."""
    known = baseline.load()

    assert len(known) <= 20
    assert all(entry.evidence and entry.link for entry in known)
    assert all(entry.expires.year <= 2028 for entry in known)


def test_one_cause_may_have_several_keys(tmp_path: Path) -> None:
    """What is wrong for one reason in several places is one entry."""
    (known,) = write(tmp_path, ENTRY + 'also = ["a/b:callee h*", "a/c:x"]\n')

    assert known.names("a/b:callee g")
    assert known.names("a/b:callee h1")
    assert not known.names("a/b:callee i")
    with pytest.raises(FormatError, match=r"got `str` - at `\$.also`"):
        write(tmp_path, ENTRY + 'also = "a/b:callee h"\n')

"""Options are found whatever olddefconfig makes of them, and clean builds decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.bisect import journal as journals
from harness.bisect.asking import Asking
from harness.bisect.config.bisection import ConfigBisection, Without
from harness.bisect.config.hunt import ConfigHunt
from harness.bisect.config.letter import letter
from harness.bisect.question import Question
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.cli.options import to_json
from harness.errors import InfraError, UserError
from harness.finding import Finding, Location
from harness.kconfig import Setting, parse_config

WANTED = Finding("text/step", Location("x.o", "x", 4), "wrong")
Config = dict[str, str]


def _text(config: Config) -> str:
    return "".join(f"{Setting(s, v)}\n" for s, v in sorted(config.items()))


@dataclass
class Tree:
    """A tree whose Kconfig is ``whole``, and whose kernels are ``bad`` or do not build.

    ``lies`` is what kept directories show of some; ``dies`` counts looks down to the
    one in which the machine fails.
    """

    whole: Callable[[Config], Config]
    bad: Callable[[Config], bool]
    builds: Callable[[Config], bool] = lambda config: True
    lies: Callable[[Config], bool] | None = None
    dies: int = -1
    looks: list[tuple[str, bool]] = field(default_factory=list)

    def resolve(self, text: str) -> str:
        return _text(self.whole(parse_config(text)))

    def read(self, name: str) -> str:
        return name

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        if self.dies == len(self.looks):
            raise InfraError("the disk is full")
        self.looks.append((commit, clean))
        config = parse_config(commit)
        if not self.builds(config):
            return Sight(commit, None, "does not build", clean=clean)
        tell = self.lies if self.lies and not clean else self.bad
        found = (WANTED,) if tell(config) else ()
        return Sight(commit, found, toolchain="gcc", clean=clean)


def _options(**sets: str) -> Config:
    return {f"O{n}": "n" for n in range(40)} | sets


def _hunt(path: Path, tree: Tree, good: Config, bad: Config) -> ConfigBisection:
    ends = [tree.resolve(_text(config)) for config in (good, bad)]
    question = Question("linux", *ends, "native", "x.o", ("gcc",), WANTED.key)
    opening = journals.resume if path.exists() else journals.begin
    with opening(path, question) as journal:
        return ConfigHunt(Asking(question, tree, journal), tree).run()


def _symbols(found: ConfigBisection) -> list[list[str]]:
    return [[delta.symbol for delta in unit] for unit in found.units]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "journal"


ON = dict.fromkeys(_options(), "y")


def test_one_option(path) -> None:
    """It is found in a logarithm, confirmed both ways, and taken out of the bad one."""
    tree = Tree(dict, lambda config: config["O17"] == "y")

    found = _hunt(path, tree, _options(), ON)

    assert _symbols(found) == [["O17"]]
    assert found.found
    assert found.first.clean
    assert [sight.findings for sight in found.without] == [()]
    assert found.reverse is Without.GONE
    assert len(tree.looks) <= 2 + 7 + 2 + 1


def test_options_that_make_it_together(path) -> None:
    """All of them, each confirmed by what is good without it."""
    tree = Tree(dict, lambda c: c["O3"] == c["O20"] == "y")

    found = _hunt(path, tree, _options(), ON)

    assert sorted(_symbols(found)) == [["O20"], ["O3"]]
    assert len(found.without) == 2


def test_what_an_option_depends_on_belongs_to_it(path) -> None:
    """Alone it is dropped, which is no other configuration: nothing is built."""

    def whole(config: Config) -> Config:
        return config if config["O1"] == "y" else {**config, "O30": "n"}

    tree = Tree(whole, lambda config: config["O30"] == "y")

    found = _hunt(path, tree, _options(), ON)

    assert sorted(_symbols(found)) == [["O1"], ["O30"]]
    built = [name for name, clean in tree.looks if not clean]
    assert len(built) == len(set(built))


def test_what_is_selected_follows(path) -> None:
    """It is no option of its own; the report lists it."""

    def whole(config: Config) -> Config:
        return {**config, "O0": config["O9"]}

    tree = Tree(whole, lambda config: config["O0"] == "y")

    found = _hunt(path, tree, _options(), ON)

    assert _symbols(found) == [["O9"]]
    assert [delta.symbol for delta in found.follows] == ["O0"]


def test_other_options_make_it_too(path) -> None:
    """Then the bad one keeps it."""
    tree = Tree(dict, lambda config: "y" in (config["O3"], config["O30"]))

    found = _hunt(path, tree, _options(), ON)

    assert _symbols(found) == [["O3"]]
    assert found.reverse is Without.STILL_THERE


def test_what_nobody_can_tell_apart(path) -> None:
    """One without the other does not build: that is said, and is no single option."""
    tree = Tree(
        dict,
        lambda config: config["O6"] == "y",
        builds=lambda config: config["O5"] == config["O6"],
    )

    found = _hunt(path, tree, _options(), ON)

    assert _symbols(found) == [["O5", "O6"]]
    assert not found.found
    assert letter(found, "again", "step").startswith("Untestable options")


def test_stale_objects_do_not_mislead(path) -> None:
    """Whatever a kept directory shows, clean builds decide."""
    tree = Tree(
        dict,
        lambda config: config["O17"] == "y",
        lies=lambda config: "y" in (config["O2"], config["O17"]),
    )

    assert _symbols(_hunt(path, tree, _options(), ON)) == [["O17"]]


@pytest.mark.parametrize("dies", range(8))
def test_it_survives_a_kill(path, dies) -> None:
    """No answer that was kept is asked for again."""
    tree = Tree(dict, lambda config: config["O17"] == "y", dies=dies)
    with pytest.raises(InfraError):
        _hunt(path, tree, _options(), ON)
    tree.dies = -1

    assert _symbols(_hunt(path, tree, _options(), ON)) == [["O17"]]
    if dies >= 2:
        assert len(tree.looks) == len({*tree.looks})


@pytest.mark.parametrize(
    ("bad", "message"),
    [(lambda c: False, "the bad end is good"), (lambda c: True, "the good end is bad")],
)
def test_the_ends_are_proved(path, bad, message) -> None:
    """Before anything between them is looked at."""
    with pytest.raises(UserError, match=message):
        _hunt(path, Tree(dict, bad), _options(), ON)


def test_differences_that_do_not_add_up(path) -> None:
    """kconfig makes of the good one never the bad one: nothing can be searched."""

    calls = []

    def whole(config: Config) -> Config:
        calls.append(config)
        return config if calls[2:] == [] else {**config, "O7": "n"}

    tree = Tree(whole, lambda config: config["O7"] == "y")

    with pytest.raises(UserError, match="does not make the bad one"):
        _hunt(path, tree, _options(), ON)


def test_the_letter(path) -> None:
    """The option and what it was, what was tested, and the line to set it."""
    tree = Tree(dict, lambda config: config["O17"] == "y")
    found = _hunt(path, tree, _options(), ON)

    text = letter(found, "orc-harness config-bisect --good a --bad b", "step")

    assert text.startswith(f"One option of 40 that differ makes {WANTED.key}\n")
    assert "  CONFIG_O17=y (was n)" in text
    assert "the finding is gone" in text
    assert "bad: the bad configuration" in text
    assert text.endswith("  CONFIG_O17=y\n")
    assert '"O17"' in to_json(found)

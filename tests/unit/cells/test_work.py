"""Work on a cell: what is asked of the machine, how often, and what is kept of it.

The stages are played: what they do is tested where they are, and with real kernels in
tests/system/test_cells.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.artifacts import Artifacts, Manifest
from harness.build.tree import Tree
from harness.cells import local, work
from harness.cells.cell import Cell
from harness.cells.kept import Kept
from harness.cells.need import BUILD_MB, Need
from harness.cells.work import Maker, Terms
from harness.container.image import Image
from harness.corpus.booted import Boot
from harness.corpus.built import Build
from harness.errors import BuildError, ExitCode, InfraError
from harness.progress import silent
from harness.result import Stage, StageResult, Status
from harness.stages import runtime
from tests.builders.machines import ScriptedEngine
from tests.builders.results import finding, stage

PLENTY = Need(4, 64000)
STAGES = (Stage.BUILD, Stage.VALIDATE, *runtime.STAGES)
LOST = InfraError("the daemon is gone")


def a_cell(name: str, append: str = "", toolchain: str = "bookworm") -> Cell:
    """Return a cell; those of one toolchain share a kernel."""
    return Cell(Build(name, toolchain), Boot(name, "b", append=append))


@dataclass
class Machine:
    """What happened, and what goes wrong: ``fails`` are raised one by one."""

    did: list[str] = field(default_factory=list)
    engines: list[ScriptedEngine] = field(default_factory=list)
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    boots: list[list[StageResult]] = field(default_factory=list)

    def does(self, what: str) -> None:
        self.did.append(what)
        if left := self.fails.get(what):
            raise left.pop(0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Machine:
    """A machine whose stages are played."""
    played = Machine()

    @contextlib.contextmanager
    def connect(runtime: str) -> Iterator[ScriptedEngine]:
        played.does("connect")
        played.engines.append(ScriptedEngine())
        yield played.engines[-1]

    def ensure(engine: object, recipe: work.image.Recipe, *_: object) -> Image:
        played.does(f"image {recipe.name}")
        return Image(recipe.tag, {recipe.name: "1"}, created=False)

    def open_tree(*_: object, package: str) -> Tree:
        played.does("tree")
        return Tree(cache, "digest", f"{package} 1")

    def build_stage(
        shop: object, variant: object, jobs: int, progress: object
    ) -> tuple[StageResult, Artifacts | None]:
        def made() -> StageResult:
            played.does("build")
            return stage(of=Stage.BUILD)

        ended = work.guard(Stage.BUILD, "native", made)
        good = ended.status is Status.PASS
        return ended, ARTIFACTS if good else None

    def run(subject: work.Subject, *_: object) -> tuple[list[StageResult], None]:
        played.does(f"boot {subject.name}")
        if played.boots:
            return played.boots.pop(0), None
        return [stage(of=each, variant=subject.name) for each in runtime.STAGES], None

    def validated(_: object, name: str, *rest: object) -> StageResult:
        return stage(variant=name)

    monkeypatch.setattr(work, "connect", connect)
    monkeypatch.setattr(work.image, "ensure", ensure)
    monkeypatch.setattr(work, "open_tree", open_tree)
    monkeypatch.setattr(work.build, "stage", build_stage)
    monkeypatch.setattr(work.runtime, "run", run)
    monkeypatch.setattr(work.validate, "stage", validated)
    monkeypatch.setattr(work.kernel_build, "find", lambda directory: directory)
    return played


MANIFEST = Manifest(
    *("key", "native", "native", "tree 1", "6.12"),
    *({"gcc": "gcc 12"}, (), (), {}, 1.0, 1),
)
ARTIFACTS = Artifacts(Path("/store/key"), MANIFEST)


def night(cells: list[Cell], name: str = "one", *, again: bool = False) -> list[Kept]:
    """Return what ``cells`` come to in the night ``name``."""
    maker = Maker(Terms(name, again=again), lambda _: silent)
    told: list[str] = []
    kept = local.run(maker, cells, 2, lambda one: told.append(one.name), lambda: PLENTY)
    assert sorted(told) == sorted(one.name for one in kept)
    return kept


def test_cells_of_one_kernel(machine: Machine) -> None:
    """It is built once, then booted for each; the source is opened once."""
    cells = [a_cell("a"), a_cell("b", "quiet"), a_cell("c", toolchain="sid")]

    kept = night(cells)

    assert [one.name for one in kept] == ["a", "b", "c"]
    assert machine.did.count("build") == 2
    assert machine.did.count("tree") == 2
    assert sorted(did for did in machine.did if "boot" in did) == [
        "boot a",
        "boot b",
        "boot c",
    ]
    for one in kept:
        assert tuple(each.stage for each in one.stages) == STAGES
        assert {each.variant for each in one.stages} == {one.name}
        assert one.tools == {"machine": "1"}
    assert kept[0].stages[0].notes[0] == "tree 1, gcc 12"


def test_an_unchanged_cell_is_answered(machine: Machine) -> None:
    """The next night asks nothing of the machine, unless it is told to."""
    night([a_cell("a")])
    machine.did.clear()

    (same,) = night([a_cell("a")], "two")
    assert same.night == "one"
    assert not {"build", "boot a"} & set(machine.did)

    (anew,) = night([a_cell("a")], "three", again=True)
    assert anew.night == "three"
    assert {"build", "boot a"} <= set(machine.did)


def test_only_what_changed_is_made(machine: Machine) -> None:
    """Of two cells of one kernel the one that is told something else."""
    night([a_cell("a"), a_cell("b", "quiet")])
    machine.did.clear()

    first, second = night([a_cell("a"), a_cell("b", "debug")], "two")

    assert (first.night, second.night) == ("one", "two")
    assert "boot b" in machine.did
    assert "boot a" not in machine.did


def error(of: Stage) -> StageResult:
    return stage(
        of=of,
        variant="a",
        status=Status.ERROR,
        reason="lost guest",
        exit_code=ExitCode.INFRASTRUCTURE,
    )


def test_a_guest_is_lost(machine: Machine) -> None:
    """It is tried again by a fresh line to the engine; both results are kept."""
    machine.boots = [[error(Stage.BOOT)]]

    (kept,) = night([a_cell("a")])

    assert machine.did.count("boot a") == 2
    assert machine.did.count("build") == 1
    assert len(machine.engines) == 3  # the build's, and each attempt's
    assert [len(attempt) for attempt in kept.attempts] == [3, 6]
    assert kept.final
    (boot,) = (one for one in kept.stages if one.stage is Stage.BOOT)
    assert boot.status is Status.PASS
    assert boot.notes == ("another attempt: ERROR: lost guest",)


def test_a_guest_is_lost_twice(machine: Machine) -> None:
    """There is no verdict; that answers this night when it goes on, and no other."""
    machine.boots = [[error(Stage.BOOT)], [error(Stage.BOOT)]]

    (kept,) = night([a_cell("a")])
    assert not kept.final

    machine.did.clear()
    (same,) = night([a_cell("a")], "one")
    assert same == kept
    assert "boot a" not in machine.did
    (better,) = night([a_cell("a")], "two")
    assert better.final


@pytest.mark.parametrize("what", ["connect", "image toolchain-bookworm", "tree"])
def test_the_machine_fails_before_the_build(machine: Machine, what: str) -> None:
    """Once more, and then it works."""
    machine.fails = {what: [LOST]}

    (kept,) = night([a_cell("a")])

    assert kept.final
    assert [one[0].status for one in kept.attempts] == [Status.ERROR, Status.PASS]
    assert kept.stages[0].notes[-1] == "another attempt: ERROR: the daemon is gone"


def test_a_machine_that_is_broken_stops_only_its_cells(machine: Machine) -> None:
    """The others come to their verdicts; of these there is no key, and one night."""
    machine.fails = {"image toolchain-sid": [LOST, LOST, LOST, LOST]}
    cells = [a_cell("a", toolchain="sid"), a_cell("b")]

    broken, good = night(cells)

    assert good.final
    assert [one.status for one in broken.stages] == [Status.ERROR, *[Status.SKIP] * 5]
    assert tuple(one.stage for one in broken.stages) == STAGES
    machine.fails.clear()
    again, _ = night(cells, "two")
    assert again.final


def test_the_machine_fails_before_the_boot(machine: Machine) -> None:
    """That is one attempt of this cell; its validation stands, and no other is lost."""
    machine.fails = {"boot a": [LOST]}

    kept, other = night([a_cell("a"), a_cell("b")])

    assert kept.final
    assert other.final
    (lost, better) = kept.attempts
    assert [one.status for one in lost[2:]] == [Status.ERROR, *[Status.SKIP] * 3]
    assert [one.status for one in better] == [Status.PASS] * len(STAGES)


def test_nothing_begins_after_an_interrupt(machine: Machine) -> None:
    """Neither a second attempt nor a result that another night would take for one."""
    maker = Maker(Terms("one"), lambda _: silent)
    maker.abort()

    with pytest.raises(InfraError, match="interrupted"), maker._engine():
        pass
    assert machine.engines == []


def test_a_kernel_that_does_not_compile(machine: Machine) -> None:
    """That is no trouble of the machine's: once, and another night again."""
    machine.fails = {"build": [BuildError("no such header")]}

    (kept,) = night([a_cell("a")])

    assert machine.did.count("build") == 1
    assert kept.stages[0].reason == "no such header"
    assert kept.stages[0].exit_code == ExitCode.USAGE
    (mended,) = night([a_cell("a")], "two")
    assert mended.final


def test_a_finding_is_a_verdict(machine: Machine) -> None:
    """It answers the next night as well."""
    wrong = stage(finding(), of=Stage.COMPARE, variant="a")
    machine.boots = [[wrong]]

    (kept,) = night([a_cell("a")])
    (same,) = night([a_cell("a")], "two")

    assert same == kept
    assert machine.did.count("boot a") == 1


def test_no_memory_for_it(machine: Machine) -> None:
    """It is told before anything is begun."""
    maker = Maker(Terms("one"), lambda _: silent)

    wanted = f"build of a needs 2 cores, {BUILD_MB['small']} MB"
    with pytest.raises(InfraError, match=wanted):
        local.run(maker, [a_cell("a")], 2, print, lambda: Need(4, 1000))
    assert machine.did == []


def test_an_interrupt_ends_what_runs(machine: Machine) -> None:
    """The engines that are at work are told, and the night stays unfinished."""
    aborted: list[object] = []

    class Engine(ScriptedEngine):
        def abort(self) -> None:
            aborted.append(self)

    maker = Maker(Terms("one"), lambda _: silent)
    engine = Engine()

    def build(cells: object) -> work.Built:
        maker._living[0] = engine
        raise KeyboardInterrupt

    maker.build = build  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        local.run(maker, [a_cell("a")], 2, print, lambda: PLENTY)
    assert aborted == [engine]


def test_a_plan(machine: Machine, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """What is kept is known; nothing is made to know it."""
    group = [a_cell("a")]
    maker = Maker(Terms(""), lambda _: silent)
    monkeypatch.setattr(work.build, "stored", lambda *_: ARTIFACTS)
    monkeypatch.setattr(work.image, "is_present", lambda *_: True)

    assert maker.known(group) is None  # no source yet
    name = cache / "trees" / group[0].build.package / "NAME"
    name.parent.mkdir(parents=True)
    name.write_text("linux 1")
    before = maker.known(group)
    night(group)
    after = maker.known(group)

    assert before is not None
    assert after is not None
    assert (list(before[0].answers), list(after[0].answers)) == ([], ["a"])
    assert after[1]

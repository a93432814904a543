"""Plants grown into kernels: what counts as found, and what objtool is heard to say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from harness.artifacts import Artifacts, Manifest, Store
from harness.build.tree import Tree
from harness.container.image import Image
from harness.container.job import Engine
from harness.corpus import garden
from harness.corpus.plant import Blame, Edit, Heard, Plant
from harness.errors import BuildError
from harness.finding import Finding, Location
from harness.progress import Progress, silent
from harness.result import Stage, StageResult, Status
from harness.stages.shop import Shop
from harness.stages.subject import Subject
from harness.variant import Variant

WARNING = "vmlinux.o: warning: objtool: f+0x4: stack state mismatch: cfa1=4+8\n"
OLD = "vmlinux.o: warning: objtool: old+0x1: unreachable instruction\n"


MANIFEST = Manifest("k", "native", "native", "t", "6.12", {}, (), (), {}, 0, 0)


def a_plant(
    objtool: Heard = Heard.SILENT, old: str = "right", blame: Blame = Blame.HINT
) -> Plant:
    edit = Edit("kernel/f.c", old, "wrong")
    rules = ("text/*",)
    return Plant("p", "a bug", "why", blame, objtool, rules, (edit,), 1, ("f",))


def found(rule: str, symbol: str) -> Finding:
    where = Location("vmlinux", symbol, 4)
    return Finding(rule, where, "wrong", blame="source hint: it says so")


Grow = Callable[..., garden.Grown]


@pytest.fixture
def grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grow:
    """Grow a plant whose build says ``log`` and whose validation finds ``findings``."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    (source / "kernel").mkdir(parents=True)
    (source / "kernel" / "f.c").write_text("right\n")

    made: dict[str, Artifacts] = {}

    def stored(shop: Shop, variant: Variant) -> Artifacts | None:
        return made.get(shop.tree.digest)

    def one(
        plant: Plant,
        log: str = "",
        findings: tuple[Finding, ...] = (),
        ran: tuple[Finding, ...] = (),
        control: Status = Status.PASS,
    ) -> garden.Grown:
        def make(shop: Shop, variant: Variant, jobs: int, progress: Progress) -> object:
            planted = (shop.tree.source / "kernel" / "f.c").read_text() == "wrong\n"
            where = tmp_path / ("planted" if planted else "clean")
            where.mkdir(exist_ok=True)
            (where / "vmlinux").write_bytes(b"")
            (where / "build.log").write_text(OLD + (log if planted else ""))
            made[shop.tree.digest] = Artifacts(where, MANIFEST)
            return made[shop.tree.digest]

        def stage(build: object, name: str, *rest: object) -> StageResult:
            ours = (found("table/order", "known"),)
            ours += findings if name != "clean" else ()
            return StageResult(Stage.VALIDATE, name, Status.FAIL, findings=ours)

        def run(subject: Subject, *rest: object) -> tuple[list[StageResult], None]:
            if subject.name == "clean":
                return [StageResult(Stage.SHADOW, "clean", control)], None
            reason = "no QEMU" if not ran else ""
            ended = Status.FAIL if ran else Status.ERROR
            one = StageResult(Stage.SHADOW, "p", ended, findings=ran, reason=reason)
            return [one], None

        monkeypatch.setattr(garden.build, "make", make)
        monkeypatch.setattr(garden.build, "stored", stored)
        monkeypatch.setattr(garden.validate, "stage", stage)
        monkeypatch.setattr(garden.runtime, "run", run)
        shop = Shop(
            cast(Engine, None),
            cast(Image, None),
            Future(),
            Tree(source, "digest", "a tree"),
            Store(tmp_path),
        )
        (grown,) = garden.grow(shop, [plant], 1, lambda name: silent)
        return grown

    return one


def test_a_plant_that_is_found_where_it_is(grow: Grow) -> None:
    """What the clean kernel has as well is not counted."""
    grown = grow(a_plant(), findings=(found("text/step", "f"), found("text/step", "g")))

    assert (grown.found, grown.others) == (1, 1)
    assert [str(finding.location) for finding in grown.findings] == ["f+0x4"]
    assert grown.good


def test_what_was_grown_is_not_planted_again(
    grow: Grow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows the tree by its name; nothing has to be copied."""
    first = grow(a_plant(), findings=(found("text/step", "f"),))

    def copies(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(garden, "planted", copies)
    second = grow(a_plant(), findings=(found("text/step", "f"),))

    assert second.good
    assert replace(second, seconds=0) == replace(first, seconds=0)


def test_a_plant_that_another_is_blamed_for(grow: Grow) -> None:
    """Found, and still not as it should be."""
    grown = grow(a_plant(blame=Blame.LINKER), findings=(found("text/step", "f"),))

    assert grown.found
    assert not grown.blamed
    assert grown.mark == "NOT BLAMED"


def test_a_plant_that_is_missed(grow: Grow) -> None:
    """Something elsewhere is shown, and does not count."""
    grown = grow(a_plant(), findings=(found("text/step", "g"),))

    assert (grown.found, grown.others) == (0, 1)
    assert grown.mark == "MISSED"


def test_what_objtool_says_more_than_of_the_clean_kernel(grow: Grow) -> None:
    """Its own words, and whether they were expected."""
    grown = grow(a_plant(), log=WARNING, findings=(found("text/step", "f"),))

    assert grown.objtool == ("f+0x4: stack state mismatch: cfa1=4+8",)
    assert grown.unexpected
    assert grown.mark == "OBJTOOL CHANGED"


@pytest.mark.parametrize(
    ("objtool", "log"), [(Heard.SILENT, ""), (Heard.NOISY, WARNING)]
)
def test_objtool_as_it_was_measured(grow: Grow, objtool: Heard, log: str) -> None:
    """Nothing is unexpected then, and its words are no finding of ours."""
    grown = grow(a_plant(objtool), log=log, findings=(found("objtool/x", "f"),))

    assert not grown.unexpected
    assert grown.found == 0


RUNS = replace(a_plant(), oracles=(Stage.SHADOW,), rules=("shadow/*",))


def test_a_plant_that_shows_as_it_runs(grow: Grow) -> None:
    """The verifier need not see it, nor say whose it is."""
    grown = grow(RUNS, ran=(found("shadow/cfa", "f"),))

    assert grown.good
    assert grown.seen == {"validate": 0, "shadow": 1}


def test_a_plant_that_the_verifier_sees_and_should_not(grow: Grow) -> None:
    """What was measured of it is no longer so, unless it was measured."""
    words = {"findings": (found("text/step", "f"),), "ran": (found("shadow/cfa", "f"),)}

    assert grow(RUNS, **words).mark == "VERIFIER CHANGED"
    assert grow(replace(RUNS, verifier=Heard.NOISY), **words).good


def test_every_oracle_has_to_see_it(grow: Grow) -> None:
    """One that does not is a miss, whatever the others see."""
    both = replace(RUNS, oracles=(Stage.VALIDATE, Stage.SHADOW), rules=("*",))

    one = grow(both, ran=(found("shadow/cfa", "f"),))
    two = grow(both, findings=(found("text/step", "f"),), ran=one.findings)

    assert (one.found, one.unseen, one.mark) == (1, ("validate",), "MISSED")
    assert (two.found, two.unseen, two.mark) == (2, (), "")


def test_an_oracle_without_a_verdict(grow: Grow) -> None:
    """It missed nothing: the reason is told."""
    grown = grow(RUNS)

    assert grown.mark == "NO VERDICT"
    assert grown.error == "shadow: ERROR: no QEMU"


def test_a_clean_kernel_that_is_not_clean_where_it_runs(grow: Grow) -> None:
    """Then what the plant's kernel has there proves nothing."""
    ran = (found("shadow/cfa", "f"),)
    grown = grow(RUNS, ran=ran, control=Status.FAIL)

    assert "control: shadow of the clean kernel ends in FAIL" in grown.error


def test_a_plant_that_does_not_fit(grow: Grow) -> None:
    """It is an error of that plant, not of all."""
    grown = grow(a_plant(old="never"))

    assert "does not fit" in grown.error
    assert grown.mark == "NOT BUILT"


def test_a_plant_that_does_not_build(
    grow: Grow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build's error is told."""

    def fails(*arguments: object) -> None:
        raise BuildError("the tree does not build")

    monkeypatch.setattr(garden, "planted", fails)

    assert grow(a_plant()).error == "the tree does not build"


def test_the_tally() -> None:
    """What was not built was not found, and what objtool does not say is ours alone."""
    where = (found("text/step", "f"),)
    grown = [
        garden.Grown("a", "there", found=1, findings=where, blamed=True),
        garden.Grown("b", "there", objtool=("so",), found=2, findings=where),
        garden.Grown("c", "there"),
        garden.Grown("d", error="it does not build"),
    ]

    assert garden.tally(grown) == (
        "4 plants, 3 built, 2 found (50%), 1 blamed on who did it; objtool is silent "
        "about 2, of which 1 are found"
    )

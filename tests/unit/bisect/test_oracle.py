"""A boot is asked often enough, and neither a dead kernel nor a broken host is bad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from harness.bisect import oracle as oracles
from harness.bisect.judge import Made
from harness.bisect.oracle import Boots, Oracle, settled
from harness.bisect.quorum import Quorum
from harness.bisect.sight import Sight, Wanted
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.container.host import HostEngine
from harness.errors import ExitCode, HarnessError, InfraError
from harness.finding import Finding, Location
from harness.result import Stage, StageResult, Status
from harness.variant import Platform

FOUND = Finding("compare/frame", Location("vmlinux", "f", 4), "wrong")
OTHER = Finding("compare/frame", Location("vmlinux", "g", 4), "wrong")
CLEAN = StageResult(Stage.COMPARE, "k", Status.PASS)
BAD = replace(CLEAN, status=Status.FAIL, findings=(FOUND,))
BROKEN = replace(
    CLEAN, status=Status.ERROR, reason="no pipe", exit_code=ExitCode.INFRASTRUCTURE
)
DEAD = StageResult(
    Stage.BOOT,
    "k",
    Status.FAIL,
    findings=(Finding("boot/panic", Location("bzImage", "native", 0), "it panics"),),
)
UP = StageResult(Stage.BOOT, "k", Status.PASS)


@dataclass
class Guest:
    """What boots and comparisons come to, in their order; the last one stays."""

    boots: list[StageResult] = field(default_factory=lambda: [UP])
    compares: list[StageResult] = field(default_factory=lambda: [CLEAN])
    booted: int = 0
    compared: int = 0
    seeds: list[int] = field(default_factory=list)

    def boot(self, subject, progress) -> tuple[StageResult, object]:
        stage = self.boots[min(self.booted, len(self.boots) - 1)]
        self.booted += 1
        return stage, SimpleNamespace() if stage is UP else None

    def compare(self, subject, seed, booted, progress) -> StageResult:
        stage = self.compares[min(self.compared, len(self.compares) - 1)]
        self.compared += 1
        self.seeds.append(seed)
        return stage

    def read_back(self, subject, seed, progress) -> StageResult:
        return self.compare(subject, seed, None, progress)

    def shadow(self, subject, booted, progress) -> tuple[StageResult, None]:
        return self.compare(subject, 0, booted, progress), None


@pytest.fixture
def look(monkeypatch, tmp_path) -> Callable[..., Sight]:
    """Look at a kernel that is made up, whose guest is given."""
    made = Made(tmp_path / "vmlinux", tmp_path, tmp_path, {})
    image, module = tmp_path / "bzImage", tmp_path / "x.ko"
    for file in (made.file, image, module):
        file.write_bytes(b"a kernel")
    subject = SimpleNamespace(kernel=Kernel(image, made.file, (module,)))
    monkeypatch.setattr(oracles, "_subject", lambda *_: subject)

    def look(
        guest: Guest, wanted: Wanted, platform=Platform.NATIVE, stage=Stage.COMPARE
    ) -> Sight:
        monkeypatch.setattr(oracles.boot, "stage", guest.boot)
        monkeypatch.setattr(oracles.compare, "stage", guest.compare)
        monkeypatch.setattr(oracles.readback, "stage_alone", guest.read_back)
        monkeypatch.setattr(oracles.shadow, "stage", guest.shadow)
        toolbox = Toolbox(HostEngine(), "machine")
        asked = Oracle(stage, Quorum(10, 0.95, 0))
        judge = Boots(asked, platform, toolbox, tmp_path / "evidence")
        return judge.judge(made, Sight("c" * 40, None), wanted)

    return look


def test_the_first_boot_that_shows_it_is_the_last(look) -> None:
    """And each had a sampling of its own."""
    guest = Guest(compares=[CLEAN, CLEAN, BAD])

    sight = look(guest, Wanted(FOUND.key, 9))

    assert sight.findings == (FOUND,)
    assert (sight.runs, sight.times(FOUND.key)) == (3, 1)
    assert guest.seeds == [0, 1, 2]


@pytest.mark.parametrize("stage", [Stage.READBACK, Stage.COMPARE, Stage.SHADOW])
def test_whoever_is_asked(look, stage) -> None:
    """What it finds in a boot is found."""
    sight = look(Guest(compares=[BAD]), Wanted(FOUND.key, 9), stage=stage)

    assert sight.findings == (FOUND,)


@pytest.mark.parametrize("name", ["vmlinux", "bzImage", "x.ko"])
def test_all_that_is_booted_has_a_digest(look, tmp_path, name) -> None:
    """The setup code is in the image only, and a module in itself."""
    before = look(Guest(), Wanted(FOUND.key, 1)).digest
    assert look(Guest(), Wanted(FOUND.key, 1)).digest == before

    (tmp_path / name).write_bytes(b"another")

    assert look(Guest(), Wanted(FOUND.key, 1)).digest != before


def test_it_is_not_there_after_so_many(look) -> None:
    """Another finding does not count."""
    guest = Guest(compares=[CLEAN, replace(BAD, findings=(OTHER,)), CLEAN])

    sight = look(guest, Wanted(FOUND.key, 9))

    assert sight.findings == (OTHER,)
    assert (sight.runs, sight.times(FOUND.key)) == (9, 0)


def test_how_often_it_shows_is_counted(look) -> None:
    """Known ones too: it is the key that is asked for."""
    known = replace(CLEAN, known=(FOUND,))
    guest = Guest(compares=[BAD, CLEAN, known, CLEAN])

    sight = look(guest, Wanted("", 5))

    assert (sight.runs, sight.times(FOUND.key)) == (5, 2)


@pytest.mark.parametrize("platform", Platform)
def test_what_does_not_boot_tells_nothing(look, platform) -> None:
    """It is neither good nor bad, and not booted again."""
    guest = Guest(boots=[DEAD])

    sight = look(guest, Wanted(FOUND.key, 9), platform)

    assert sight.findings is None
    assert sight.reason == "does not boot: it panics"
    assert (guest.booted, guest.compared) == (1, 0)


def test_what_shows_before_it_dies_is_bad(look) -> None:
    """On KVM each look is a boot of its own."""
    dying = Guest(boots=[UP, UP, DEAD], compares=[CLEAN, BAD])
    assert look(dying, Wanted(FOUND.key, 9), Platform.KVM).findings == (FOUND,)

    dead = Guest(boots=[UP, DEAD], compares=[CLEAN, BAD])
    assert look(dead, Wanted(FOUND.key, 9), Platform.KVM).findings is None


def test_a_stage_that_cannot_say(look) -> None:
    """A kernel without what the oracle reads is skipped, and says why."""
    usage = replace(
        CLEAN, status=Status.ERROR, reason="no ORC", exit_code=ExitCode.USAGE
    )

    sight = look(Guest(compares=[usage]), Wanted(FOUND.key, 9))

    assert sight.findings is None
    assert "no ORC" in sight.reason


def test_a_machine_gets_a_second_chance(look) -> None:
    """Not a third: then the search stops, and nothing is bad."""
    assert look(Guest(compares=[BROKEN, BAD]), Wanted(FOUND.key, 9)).findings

    with pytest.raises(InfraError, match="twice: no pipe"):
        look(Guest(compares=[BROKEN]), Wanted(FOUND.key, 9))
    with pytest.raises(InfraError, match="twice: no pipe"):
        look(Guest(boots=[BROKEN]), Wanted(FOUND.key, 9))


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        (replace(CLEAN, status=Status.MISS, reason="no QEMU"), InfraError),
        (
            replace(CLEAN, status=Status.ERROR, exit_code=ExitCode.INTERNAL),
            HarnessError,
        ),
    ],
    ids=["missing", "bug"],
)
def test_what_is_no_answer(stage, error) -> None:
    """It is raised: 128 to git."""
    with pytest.raises(error):
        settled(lambda: stage)


@pytest.mark.parametrize(
    ("line", "current"),
    [("lib/x.o", True), ("kernel/lib/x.ko", True), ("lib/y.o", False)],
)
def test_modules_of_this_build(tmp_path: Path, line, current) -> None:
    """What a kept directory has of another commit is not loaded."""
    (tmp_path / "modules.order").write_text(f"{line}\n")

    assert oracles._is_current(tmp_path / "lib" / "x.ko", tmp_path) is current

"""Garden: plants grown into kernels, and what objtool and we said of each.

Those that the verifier cannot see are booted, too, as is the clean kernel before them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from harness import kernel_build
from harness.artifacts import Artifacts
from harness.boot.boot import kernel_of
from harness.boot.machine import MachineConfig
from harness.build import log
from harness.corpus.plant import Heard, Plant, named, planted
from harness.errors import HarnessError, InfraError
from harness.finding import Finding
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages import build, runtime, validate
from harness.stages.shop import Shop
from harness.stages.subject import Subject
from harness.variant import Platform, variant

SHOWN = 5  # findings and lines that are kept of each plant
SEED = 0


class Grown(Struct, frozen=True):
    """What became of one plant.

    Attributes:
        plant: its name.
        directory: where its kernel is.
        objtool: what objtool said that it does not say of the clean kernel.
        found: how many of our new findings are the one that was asked for.
        seen: of them, how many each stage has that was run.
        unseen: the stages that had to see it and did not.
        others: how many more new ones there are, which the clean kernel has not.
        findings: the first of those that were asked for, or else of the others.
        error: why there is no kernel, or no verdict.
        unexpected: objtool is not as silent or noisy as when it was measured.
        surprised: so is the verifier, where others have to see it.
        blamed: one of them blames the right one, if the verifier has to.
        seconds: how long it took to plant, build and judge it.
    """

    plant: str
    directory: str = ""
    objtool: tuple[str, ...] = ()
    found: int = 0
    seen: Mapping[str, int] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    others: int = 0
    findings: tuple[Finding, ...] = ()
    error: str = ""
    unexpected: bool = False
    surprised: bool = False
    blamed: bool = False
    seconds: float = 0.0

    @property
    def mark(self) -> str:
        """What is not as it should be, in a word or two; empty if all is."""
        if self.error:
            return "NO VERDICT" if self.directory else "NOT BUILT"
        if self.unseen or not self.found:
            return "MISSED"
        if not self.blamed:
            return "NOT BLAMED"
        if self.surprised:
            return "VERIFIER CHANGED"
        return "OBJTOOL CHANGED" if self.unexpected else ""

    @property
    def good(self) -> bool:
        """It was built, found where it is, blamed on who did it, as measured before."""
        return not self.mark


def tally(grown: Sequence[Grown]) -> str:
    """Say how many were found: of all, and of those of which objtool says nothing."""
    built = [one for one in grown if one.directory]
    found = [one for one in built if one.found and not one.unseen]
    silent = [one for one in built if not one.objtool]
    unseen = sum(one in found for one in silent)
    recall = len(found) / max(len(grown), 1)
    return (
        f"{len(grown)} plants, {len(built)} built, {len(found)} found ({recall:.0%}), "
        f"{sum(one.blamed for one in found)} blamed on who did it; objtool is silent "
        f"about {len(silent)}, of which {unseen} are found"
    )


def grow(
    shop: Shop, plants: Sequence[Plant], jobs: int, board: Callable[[str], Progress]
) -> list[Grown]:
    """Build, validate and judge each of ``plants``, one after the other.

    Raises:
        HarnessError: the clean kernel that all are compared with cannot be built.
    """
    clean: dict[str, _Clean] = {}
    grown = []
    for plant in plants:
        if plant.profile not in clean:
            clean[plant.profile] = _clean(shop, plant.profile, jobs, board)
        control = clean[plant.profile]
        if plant.runs and not control.ran:
            control.ran = _run(shop, control.artifacts, "clean", board("clean"))
        started = time.monotonic()
        try:
            one = _grow(shop, plant, control, jobs, board)
        except HarnessError as exc:
            one = Grown(plant.name, error=exc.message)
        grown.append(replace(one, seconds=round(time.monotonic() - started, 1)))
        board(plant.name)(one.mark.lower() or f"found at {one.findings[0].location}")
    return grown


class _Clean(Struct):
    """What is said of the kernel without any plant.

    Attributes:
        ran: the stages of its boot, once a plant asks for them.
    """

    artifacts: Artifacts
    words: frozenset[str]
    keys: frozenset[str]
    ran: Sequence[StageResult] = ()

    def require(self, stages: Iterable[Stage]) -> None:
        """Raise InfraError unless ``stages`` pass: else they prove nothing."""
        for one in self.ran:
            if one.stage in stages and one.status is not Status.PASS:
                raise InfraError(
                    f"control: {one.stage} of the clean kernel ends in {one.status}: "
                    f"{one.reason or ', '.join(f.key for f in one.findings)}"
                )


def _clean(
    shop: Shop, profile: str, jobs: int, board: Callable[[str], Progress]
) -> _Clean:
    wanted = variant(Platform.NATIVE, profile)
    artifacts = build.make(shop, wanted, jobs, board("clean"))
    stage = validate.stage(
        kernel_build.find(artifacts.directory), "clean", jobs, board("clean")
    )
    return _Clean(
        artifacts,
        frozenset(_words(artifacts)),
        frozenset(f.key for f in stage.findings),
    )


def _run(
    shop: Shop, artifacts: Artifacts, name: str, progress: Progress
) -> list[StageResult]:
    subject = Subject(
        name,
        Platform.NATIVE,
        kernel_of(artifacts),
        lambda: shop.toolbox,
        MachineConfig(),
    )
    stages, _ = runtime.run(subject, SEED, progress)
    return stages


def _words(artifacts: Artifacts) -> list[str]:
    """What objtool said, place and message."""
    return [
        f"{finding.location}: {finding.message}"
        for finding in log.findings(artifacts.log.read_text(errors="replace"))
        if finding.rule.startswith("objtool/")
    ]


def _grow(
    shop: Shop,
    plant: Plant,
    clean: _Clean,
    jobs: int,
    board: Callable[[str], Progress],
) -> Grown:
    progress = board(plant.name)
    wanted = variant(Platform.NATIVE, plant.profile)
    artifacts = build.stored(replace(shop, tree=named(shop.tree, plant)), wanted)
    if artifacts is None:
        progress("planting")
        with planted(shop.tree, plant) as tree:
            artifacts = build.make(replace(shop, tree=tree), wanted, jobs, progress)
    words = [word for word in _words(artifacts) if word not in clean.words]
    found = kernel_build.find(artifacts.directory)
    stages = [validate.stage(found, plant.name, jobs, progress)]
    if plant.runs:
        clean.require(plant.oracles)
        stages += _run(shop, artifacts, plant.name, progress)
    ours = {
        one.stage: [
            finding
            for finding in one.findings
            if finding.key not in clean.keys
            and not finding.rule.startswith(("objtool/", "modpost/"))
        ]
        for one in stages
    }
    by = {stage: plant.seen_by(findings) for stage, findings in ours.items()}
    seen = [finding for stage in plant.oracles for finding in by.get(stage, ())]
    seen.sort(key=lambda finding: not finding.blame.startswith(plant.blame))
    others = [f for each in ours.values() for f in each if f not in seen]
    noisy = plant.verifier is Heard.NOISY
    return Grown(
        plant=plant.name,
        directory=str(artifacts.directory),
        objtool=tuple(words[:SHOWN]),
        found=len(seen),
        seen={str(stage): len(findings) for stage, findings in by.items()},
        unseen=tuple(str(stage) for stage in plant.oracles if not by.get(stage)),
        others=len(others),
        findings=tuple((seen or others)[:SHOWN]),
        error=_error(stages, plant.oracles),
        unexpected=bool(words) != (plant.objtool is Heard.NOISY),
        surprised=not plant.static and bool(ours[Stage.VALIDATE]) != noisy,
        blamed=not plant.static or any(f.blame.startswith(plant.blame) for f in seen),
    )


def _error(stages: Iterable[StageResult], oracles: Sequence[Stage]) -> str:
    """Return why one of ``oracles`` came to no verdict, or ""."""
    for one in stages:
        if one.stage in oracles and one.status not in (Status.PASS, Status.FAIL):
            return f"{one.stage}: {one.status}: {one.reason}"
    return ""

"""Garden: plants grown into kernels, and what objtool and we said of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness import kernel_build
from harness.artifacts import Artifacts
from harness.build import log
from harness.corpus.plant import Objtool, Plant, named, planted
from harness.errors import HarnessError
from harness.finding import Finding
from harness.progress import Progress
from harness.result import Status
from harness.stages import build, validate
from harness.stages.shop import Shop
from harness.variant import Platform, variant

SHOWN = 5  # findings and lines that are kept of each plant


@dataclass(frozen=True, slots=True)
class Grown:
    """What became of one plant.

    Attributes:
        plant: its name.
        directory: where its kernel is.
        objtool: what objtool said that it does not say of the clean kernel.
        found: how many of our new findings are the one that was asked for.
        others: how many more new ones there are, which the clean kernel has not.
        findings: the first of those that were asked for, or else of the others.
        error: why there is no kernel, or no verdict.
        unexpected: objtool is not as silent or noisy as when it was measured.
        blamed: one of them blames the right one.
        seconds: how long it took to plant, build and judge it.
    """

    plant: str
    directory: str = ""
    objtool: tuple[str, ...] = ()
    found: int = 0
    others: int = 0
    findings: tuple[Finding, ...] = ()
    error: str = ""
    unexpected: bool = False
    blamed: bool = False
    seconds: float = 0.0

    @property
    def mark(self) -> str:
        """What is not as it should be, in a word or two; empty if all is."""
        if self.error:
            return "NO VERDICT" if self.directory else "NOT BUILT"
        if not self.found:
            return "MISSED"
        if not self.blamed:
            return "NOT BLAMED"
        return "OBJTOOL CHANGED" if self.unexpected else ""

    @property
    def good(self) -> bool:
        """It was built, found where it is, blamed on who did it, as measured before."""
        return not self.mark


def tally(grown: Sequence[Grown]) -> str:
    """Say how many were found: of all, and of those of which objtool says nothing."""
    built = [one for one in grown if one.directory]
    found = [one for one in built if one.found]
    silent = [one for one in built if not one.objtool]
    unseen = sum(bool(one.found) for one in silent)
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
        started = time.monotonic()
        try:
            one = _grow(shop, plant, clean[plant.profile], jobs, board)
        except HarnessError as exc:
            one = Grown(plant.name, error=exc.message)
        grown.append(replace(one, seconds=round(time.monotonic() - started, 1)))
        board(plant.name)(one.mark.lower() or f"found at {one.findings[0].location}")
    return grown


@dataclass(frozen=True, slots=True)
class _Clean:
    """What is said of the kernel without any plant."""

    words: frozenset[str]
    keys: frozenset[str]


def _clean(
    shop: Shop, profile: str, jobs: int, board: Callable[[str], Progress]
) -> _Clean:
    wanted = variant(Platform.NATIVE, profile)
    artifacts = build.make(shop, wanted, jobs, board("clean"))
    stage = validate.stage(
        kernel_build.find(artifacts.directory), "clean", jobs, board("clean")
    )
    return _Clean(
        frozenset(_words(artifacts)), frozenset(f.key for f in stage.findings)
    )


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
    stage = validate.stage(
        kernel_build.find(artifacts.directory), plant.name, jobs, progress
    )
    ours = [
        finding
        for finding in stage.findings
        if finding.key not in clean.keys
        and not finding.rule.startswith(("objtool/", "modpost/"))
    ]
    seen = plant.seen_by(ours)
    seen.sort(key=lambda finding: not finding.blame.startswith(plant.blame))
    others = [finding for finding in ours if finding not in seen]
    return Grown(
        plant=plant.name,
        directory=str(artifacts.directory),
        objtool=tuple(words[:SHOWN]),
        found=len(seen),
        others=len(others),
        findings=tuple((seen or others)[:SHOWN]),
        error=stage.reason if stage.status is Status.ERROR else "",
        unexpected=bool(words) != (plant.objtool is Objtool.NOISY),
        blamed=any(finding.blame.startswith(plant.blame) for finding in seen),
    )

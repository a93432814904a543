"""Oracle: who says whether a kernel has the finding: the validator, or a boot.

A finding of a boot may show only now and then: the kernel is booted until it does, or
until it did not often enough. A kernel that does not boot tells nothing, and a machine
that fails is no answer: neither is ever a finding.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness import kernel_build
from harness.bisect.judge import Judge, Made, Validation, keep
from harness.bisect.question import LINKED
from harness.bisect.quorum import ONE_LOOK, Quorum
from harness.bisect.sight import Sight, Wanted
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.outcome import BootResult
from harness.build.collect import CPUFEATURES
from harness.container import image
from harness.container.job import Engine
from harness.elf.digest import digest
from harness.errors import ExitCode, HarnessError, InfraError
from harness.finding import Finding
from harness.progress import Progress, silent
from harness.result import Stage, StageResult, Status
from harness.stages import boot, compare, readback, shadow
from harness.stages.subject import Subject
from harness.variant import Platform

_BOOTED = ("vmlinux", "bzImage", "modules")


class Oracle(Struct, frozen=True):
    """Who is asked, and how sure the answer has to be.

    Attributes:
        stage: ``validate``, or one that boots: ``readback``, ``compare``, ``shadow``.
        quorum: of those that boot.
        seed: what the sampling of the first boot starts from; each has its own.
    """

    stage: Stage = Stage.VALIDATE
    quorum: Quorum = ONE_LOOK
    seed: int = 0

    def __str__(self) -> str:
        """Name it for a state file: other answers are another bisection."""
        if self.stage is Stage.VALIDATE:
            return str(self.stage)
        asked = self.quorum
        rate = f", rate {asked.rate:g}" if asked.rate else ""
        sure = f"{asked.looks} boots, confidence {asked.confidence:g}{rate}"
        return f"{self.stage}, {sure}, seed {self.seed}"

    def judge(
        self,
        target: str,
        platform: Platform,
        engine: Engine,
        files: Path,
        board: Callable[[str], Progress],
    ) -> Judge:
        """Return the judge; what clean looks judged is kept in ``files``.

        Raises:
            InfraError: the machine image cannot be made.
        """
        if self.stage is Stage.VALIDATE:
            return Validation(target, files, board("probe"))
        made = image.ensure(engine, image.machine(), board("machine"))
        toolbox = Toolbox(engine, made.tag)
        return Boots(self, platform, toolbox, files, board("probe"))


VALIDATOR = Oracle()


class Boots(Struct, frozen=True):
    """The judge that boots, on ``platform``."""

    oracle: Oracle
    platform: Platform
    toolbox: Toolbox
    evidence: Path
    progress: Progress = silent

    @property
    def targets(self) -> tuple[str, ...]:
        """A kernel that boots; modules are left out where there are none."""
        return _BOOTED

    def judge(self, made: Made, sight: Sight, wanted: Wanted) -> Sight:
        """Boot it until what is wanted shows, or as often as it takes."""
        file = keep(made.file, sight, self.evidence)
        subject = _subject(made, self.platform, self.toolbox)
        sight = replace(sight, digest=_digest(subject.kernel), file=file)
        found: dict[str, Finding] = {}
        shown: Counter[str] = Counter()
        runs, reason = 0, ""
        for seen in self._boots(subject, wanted):
            runs += 1
            if isinstance(seen, str):
                reason = seen
                break
            found = {**{finding.key: finding for finding in seen}, **found}
            shown.update({finding.key for finding in seen})
            if wanted.key in shown:
                break
        sight = replace(sight, runs=runs, shown=dict(shown))
        if reason:  # what did not boot this time may have had it
            return replace(sight, reason=reason)
        return replace(sight, findings=tuple(found.values()))

    def _boots(
        self, subject: Subject, wanted: Wanted
    ) -> Iterator[tuple[Finding, ...] | str]:
        """Yield what each boot shows, or why it shows nothing."""
        booted: BootResult | None = None
        for turn in range(wanted.runs):
            self.progress(
                f"{self.oracle.stage}: boot {turn + 1} of up to {wanted.runs}"
            )
            if booted is None or self.platform is Platform.KVM:
                came_up, booted = self._boot(subject)
                if booted is None:
                    yield came_up
                    return
            yield self._verdict(subject, booted, self.oracle.seed + turn)

    def _boot(self, subject: Subject) -> tuple[str, BootResult | None]:
        """Boot it alone; return why it did not come up, or what it left."""
        ended: list[BootResult] = []

        def once() -> StageResult:
            stage, result = boot.stage(subject, self.progress)
            ended[:] = [result] if result else []
            return stage

        stage = settled(once)
        if ended:
            return "", ended[0]
        why = stage.findings or stage.known
        return f"does not boot: {why[0].message if why else stage.reason}", None

    def _verdict(
        self, subject: Subject, booted: BootResult, seed: int
    ) -> tuple[Finding, ...] | str:
        def once() -> StageResult:
            if self.oracle.stage is Stage.READBACK:
                return readback.stage_alone(subject, seed, self.progress)
            if self.oracle.stage is Stage.COMPARE:
                return compare.stage(subject, seed, booted, self.progress)
            return shadow.stage(subject, booted, self.progress)[0]

        stage = settled(once)
        if stage.status in (Status.PASS, Status.FAIL):
            return (*stage.findings, *stage.known)
        return f"{stage.stage} says nothing of it: {stage.reason}"


def settled(work: Callable[[], StageResult]) -> StageResult:
    """Return what ``work`` comes to; a machine that fails gets a second chance.

    Raises:
        InfraError: it failed twice, or has not what it takes: that is no answer.
        HarnessError: a bug of ours: that is none either.
    """
    stage = work()
    if _failed(stage):
        stage = work()
    if stage.status is Status.MISS:
        raise InfraError(f"{stage.stage}: {stage.reason}", hint=stage.hint or None)
    if _failed(stage):
        raise InfraError(
            f"{stage.stage} came to no verdict, twice: {stage.reason}",
            hint=stage.hint or "a kernel that is to blame can be skipped with --replay",
        )
    if stage.status is Status.ERROR and stage.exit_code == ExitCode.INTERNAL:
        raise HarnessError(stage.reason, hint=stage.hint or None)
    return stage


def _failed(stage: StageResult) -> bool:
    infra = stage.exit_code == ExitCode.INFRASTRUCTURE
    return stage.status is Status.ERROR and infra


def _digest(kernel: Kernel) -> str:
    """Return the hash of all that is booted, debug information aside."""
    files = [kernel.bzimage, kernel.vmlinux, *sorted(kernel.modules)]
    lines = [f"{file.name} {digest(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _subject(made: Made, platform: Platform, toolbox: Toolbox) -> Subject:
    header = made.source / CPUFEATURES
    if header.exists():  # make's link to the source is its container's
        shutil.copyfile(header, made.out / "cpufeatures.h")
    found = kernel_build.find(made.out)
    assert found.bzimage is not None
    modules = tuple(path for path in found.modules if _is_current(path, made.out))
    kernel = Kernel(found.bzimage, made.file, modules)
    return Subject(LINKED, platform, kernel, lambda: toolbox, MachineConfig())


def _is_current(module: Path, out: Path) -> bool:
    """Tell whether make lists it: what another commit left in a kept directory is not.

    ``modules.order`` has ``x.o`` in v6.12, ``x.ko`` in v5.10, there below ``kernel/``.
    """
    try:
        lines = (out / "modules.order").read_text().splitlines()
    except FileNotFoundError:
        return False
    names = {line.removeprefix("kernel/").rpartition(".")[0] for line in lines}
    return module.relative_to(out).as_posix().removesuffix(".ko") in names

"""Booted: kernels of other versions and mitigations, on which we are silent as they run.

Which ones is data (``configs/boots.toml``): builds of ours (``built``), each on a
platform, with a CPU and a command line that make it patch itself in another way.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from harness.boot.boot import kernel_of
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.outcome import BootResult
from harness.container import image
from harness.container.job import Engine
from harness.corpus import built, catalog
from harness.data import CONFIGS
from harness.errors import FormatError
from harness.progress import Progress
from harness.result import StageResult
from harness.stages import runtime
from harness.stages.confirm import confirm
from harness.stages.guard import skipped
from harness.stages.subject import Subject
from harness.variant import Platform


class Boot(Struct, frozen=True):
    """One kernel to boot; the fields are those of ``configs/boots.toml``."""

    name: str
    build: str
    platform: Platform = Platform.NATIVE
    built_for: Platform = Platform.NATIVE
    cpu: str | None = None
    append: str = ""
    says: str = ""
    nightly: bool = False

    @property
    def config(self) -> MachineConfig:
        """The machine that it is booted on."""
        return MachineConfig(cpu=self.cpu, append=self.append)

    def objection(self, booted: BootResult) -> str:
        """Return why what ``booted`` is not what was to be looked at, or ""."""
        if self.says in booted.console:
            return ""
        word = self.says.rpartition(": ")[0] or self.says.rpartition(" ")[2]
        lines = [line for line in booted.console.splitlines() if word in line]
        said = "; ".join(lines) or "nothing of the kind"
        return (
            f"with {self.append!r} the kernel did not say {self.says!r}, but: {said}: "
            "this machine's CPU has not what it takes"
        )


def chosen(prefix: str, nightly: bool) -> list[Boot]:
    """Return the boots whose name begins with ``prefix``; the nightly on request.

    Raises:
        FormatError: the file is not TOML of that shape.
        UserError: there is none.
    """
    entries = catalog.read(CONFIGS / "boots.toml", Boot)
    return catalog.choose(entries, prefix, nightly=nightly)


def build_of(wanted: Boot) -> built.Build:
    """Return what ``wanted`` boots, with the name of that.

    Raises:
        FormatError: no build is called so.
    """
    for build in catalog.read(CONFIGS / "builds.toml", built.Build):
        if build.name == wanted.build:
            return replace(build, name=wanted.name, platform=wanted.built_for)
    raise FormatError(f"{wanted.name} boots {wanted.build}, which no build is called")


def judge(
    engine: Engine, wanted: Boot, jobs: int, seed: int, progress: Progress
) -> list[StageResult]:
    """Build, validate and boot ``wanted``, with all that looks at a running kernel.

    Raises:
        FormatError: it boots no build that is known.
        InfraError: there is no machine image, and it cannot be made.
    """
    toolbox = Toolbox(engine, image.ensure(engine, image.machine(), progress).tag)
    validated, artifacts = built.make(engine, build_of(wanted), jobs, progress)
    if artifacts is None:
        why = "there is no build"
        later = [skipped(stage, wanted.name, why) for stage in runtime.STAGES]
        return [validated, *later]
    subject = Subject(
        wanted.name,
        wanted.platform,
        kernel_of(artifacts),
        lambda: toolbox,
        wanted.config,
    )
    ran, _ = runtime.run(subject, seed, progress, wanted.objection)
    return confirm([validated, *ran])

"""Readback: every byte of a running kernel's text, against the model of its patching."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from msgspec.structs import replace

from harness import kernel_build
from harness.boot import boot, init_end
from harness.boot.gdb import Gdb
from harness.boot.machine import Machine, MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.readback.dump import DumpMemory, init_is_there
from harness.boot.readback.memory import memory_of
from harness.boot.readback.taken import Taken, take
from harness.boot.readback.verdict import Verdict, judge
from harness.elf.core import parse_core
from harness.elf.file import map_file
from harness.elf.load import load
from harness.elf.program import Program
from harness.errors import ExitCode, HarnessError, UserError
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages.again import again
from harness.stages.guard import Missing, guard, judged, skipped, unless
from harness.stages.subject import Subject, names_of

STOPS, STOP_S = 50, 0.005
LATER_S = 120.0  # for the second reading


class Looker:
    """Reads the kernel of a boot on the way, for the stage to judge.

    What goes wrong is no trouble of the boot: it is kept for the stage, too.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._taken: Taken | None = None
        self._later: Taken | None = None
        self._error: HarnessError | None = None
        self._later_error: HarnessError | None = None

    def look(self, machine: Machine, gdb: Gdb, program: Program) -> None:
        """Read the guest that is stopped at the end of its init."""
        try:
            memory = memory_of(machine, gdb)
            self._taken = take(program, memory, init=True, seed=self._seed)
            self._error = None
        except HarnessError as exc:
            self._error = exc

    def look_again(self, machine: Machine, gdb: Gdb, program: Program) -> None:
        """Read the guest once more, wherever it is by now: its init memory is freed.

        It may be stopped where a user's page tables have no kernel: then it goes on.
        """
        memory = memory_of(machine, gdb)
        ends = time.monotonic() + LATER_S
        for _ in range(STOPS):
            try:
                self._later = take(program, memory, init=False, seed=self._seed + 1)
            except HarnessError as exc:
                self._later_error = exc
            else:
                self._later_error = None
                return
            if time.monotonic() > ends:
                return
            try:
                gdb.run_for(STOP_S)
            except HarnessError as exc:  # it is lost: what was found before is not
                self._later_error = exc
                return

    @property
    def later(self) -> Taken | None:
        """What was read when userspace had run and loaded modules, if it was."""
        return self._later

    @property
    def later_error(self) -> str:
        """Why it could not be read once more, or empty."""
        return self._later_error.message if self._later_error else ""

    @property
    def taken(self) -> Taken:
        """What was read.

        Raises:
            HarnessError: nothing was.
        """
        if self._error is not None:
            raise self._error
        if self._taken is None:
            raise init_end.not_seen()
        return self._taken


def stage(
    subject: Subject, looker: Looker, booted: BootResult | None, progress: Progress
) -> StageResult:
    """Judge what ``looker`` read of ``subject`` while it was booted for comparison."""
    if booted is None:
        return skipped(Stage.READBACK, subject.name, "it did not boot")

    def work() -> StageResult:
        progress(f"predicting the text of {subject.name}")
        result = _judged(subject, looker.taken, looker.later)
        error = looker.later_error
        return unless(result, f"it was not read once more: {error}" if error else "")

    return guard(Stage.READBACK, subject.name, work)


def stage_alone(subject: Subject, seed: int, progress: Progress) -> StageResult:
    """Boot ``subject`` to the end of its init, read its text and judge that."""

    def once() -> Taken:
        looker = Looker(seed)
        config = replace(subject.config, debugged=True)
        with boot.session(
            subject.toolbox(), subject.kernel, subject.platform, config
        ) as running:
            running.start(looker.look)
        return looker.taken

    def work() -> StageResult:
        progress(f"booting {subject.name} on {subject.platform}")
        try:
            taken, before = again(subject.platform, once, lambda _: "")
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        progress(f"predicting the text of {subject.name}")
        result = _judged(subject, taken)
        if before:
            note = f"tried again, for the first try came to no verdict: {before}"
            result = replace(result, notes=(*result.notes, note))
        return result

    return guard(Stage.READBACK, subject.name, work)


def stage_dump(core: Path, build: Path, progress: Progress) -> StageResult:
    """Judge the text of the kernel in ``build`` in the dump ``core`` of its machine."""

    def work() -> StageResult:
        found = kernel_build.find(build)
        if not found.kernels:
            raise UserError(f"{build} has no vmlinux", hint="name the one that ran")
        progress(f"reading {core.name}")
        program = load(found.kernels[0])
        memory = DumpMemory(parse_core(map_file(core), core.name), program)
        taken = take(program, memory, init=init_is_there(memory, program))
        progress(f"predicting the text of {program.name}")
        verdict = judge(taken, names_of(found.cpufeatures, program), "")
        command = ["orc-harness", "readback", str(build), "--vmcore", str(core)]
        return result_of(verdict, core.name, shlex.join(command))

    return guard(Stage.READBACK, core.name, work)


def _judged(subject: Subject, taken: Taken, later: Taken | None = None) -> StageResult:
    names = subject.features(taken.linked)
    verdict = judge(taken, names, subject.platform)
    if later is not None:
        verdict = verdict.with_later(judge(later, names, subject.platform))
    return result_of(verdict, subject.name, _command(subject))


def result_of(verdict: Verdict, name: str, command: str) -> StageResult:
    """Return ``verdict`` as a stage's result; ``command`` reads it back again."""
    findings = (*verdict.unselected, *verdict.findings)
    again = [replace(finding, reproduce=command) for finding in findings]
    judgement = judged(Stage.READBACK, name, again, verdict.counts)
    if not verdict.reason:
        return judgement
    return replace(
        judgement,
        status=Status.ERROR,
        reason=verdict.reason,
        exit_code=ExitCode.INFRASTRUCTURE,
    )


def _command(subject: Subject) -> str:
    return subject.command.replace("orc-harness boot", "orc-harness readback", 1)

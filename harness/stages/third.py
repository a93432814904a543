"""Third: a dump's tasks, unwound by drgn, too."""

from __future__ import annotations

from pathlib import Path

from harness import kernel_build
from harness.boot.readback.dump import DumpMemory
from harness.boot.third import MissingDrgn, third_opinion
from harness.elf.core import parse_core
from harness.elf.file import map_file
from harness.elf.load import load
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages.guard import Missing, guard, judged, skipped, unless


def stage(
    core: Path, build: Path, read_back: StageResult, progress: Progress
) -> StageResult:
    """Unwind each sleeping task in ``core`` by the table of ``build`` and with drgn.

    A difference is no finding: both go by one table. It is a note.
    """
    if read_back.status not in (Status.PASS, Status.FAIL):
        return skipped(Stage.COMPARE, core.name, "the dump was not read back")

    def work() -> StageResult:
        progress(f"unwinding the tasks of {core.name} with drgn")
        program = load(kernel_build.find(build).kernels[0])
        memory = DumpMemory(parse_core(map_file(core), core.name), program)
        try:
            third = third_opinion(program, core, memory)
        except MissingDrgn as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        result = judged(Stage.COMPARE, core.name, (), third.counts, third.notes)
        return unless(result, third.reason)

    return guard(Stage.COMPARE, core.name, work)

"""``orc-harness corpus --boots``: is every kernel of configs/boots.toml as it should be?"""

from __future__ import annotations

from datetime import UTC, datetime

from harness.cli import options
from harness.cli.console import OUT, board
from harness.cli.outcome import show
from harness.container.engine import connect
from harness.corpus.booted import chosen, judge
from harness.errors import ExitCode
from harness.result import Stage, run_result


def command(
    prefix: str,
    nightly: bool,
    seed: int,
    jobs: int,
    runtime: options.Runtime,
    output: options.Format,
) -> ExitCode:
    """Build and boot each; print one table, and what each was made with.

    Raises:
        UserError: none is called so.
    """
    started = datetime.now(UTC)
    wanted = chosen(prefix, nightly)
    with board() as lines, connect(runtime.value) as engine:
        engine.reap()
        stages = [
            stage
            for one in wanted
            for stage in judge(engine, one, jobs, seed, lines(one.name))
        ]
    result = run_result("boots", "our builds", stages, started=started)
    show(result, output)
    if output is options.Format.TEXT:
        for stage in stages:
            if stage.stage is Stage.VALIDATE:
                for note in stage.notes:
                    OUT.print(f"{stage.variant}: {note}", markup=False)
    return result.exit_code

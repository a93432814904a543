"""Local: the cells of a night on this machine, as many at once as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from msgspec.structs import replace

from harness.allowance import RESERVE_MB
from harness.cells.cell import Cell
from harness.cells.kept import Kept
from harness.cells.need import Need, of_build, of_cell, of_machine
from harness.cells.schedule import Schedule, Task
from harness.cells.work import Built, Maker
from harness.errors import InfraError

POLL_S = 5.0  # memory that others have freed is seen then


def groups(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Return ``cells`` by their kernel, in their order."""
    found: dict[object, list[Cell]] = {}
    for cell in cells:
        found.setdefault(replace(cell.build, name="", nightly=False), []).append(cell)
    return [tuple(group) for group in found.values()]


def tasks(grouped: Sequence[Sequence[Cell]], jobs: int) -> list[Task]:
    """Return a task per kernel, and one per cell after it."""
    listed = []
    for group in grouped:
        first = _build_name(group)
        listed.append(Task(first, of_build(group[0].build, jobs)))
        listed += [Task(cell.name, of_cell(cell), (first,)) for cell in group]
    return listed


def _build_name(group: Sequence[Cell]) -> str:
    return f"build of {group[0].name}"


def run(
    maker: Maker,
    cells: Sequence[Cell],
    jobs: int,
    on_kept: Callable[[Kept], None],
    machine: Callable[[], Need] = of_machine,
) -> list[Kept]:
    """Make ``cells``, in their order; ``on_kept`` is told of each as it is done.

    Raises:
        InfraError: this machine has not the memory for one of them.
    """
    grouped = groups(cells)
    schedule = Schedule(tasks(grouped, jobs), machine())
    if too_big := schedule.too_big():
        raise InfraError(
            f"{too_big[0].name} needs {too_big[0].need}; this machine has {machine()}",
            hint=f"end what uses it ({RESERVE_MB} MB are left to others), or "
            "leave that cell out",
        )
    by_build = {_build_name(group): group for group in grouped}
    builds = {cell.name: name for name, group in by_build.items() for cell in group}
    by_name = {cell.name: cell for cell in cells}
    built: dict[str, Built] = {}
    kept: dict[str, Kept] = {}
    running: dict[Future[Built | Kept], str] = {}
    pool = ThreadPoolExecutor(len(cells) + len(grouped), thread_name_prefix="cells")

    def submit(name: str) -> Future[Built | Kept]:
        if name in by_build:
            return pool.submit(maker.build, by_build[name])
        return pool.submit(maker.judge, by_name[name], built[builds[name]])

    try:
        while not schedule.finished:
            for task in schedule.start(machine().memory_mb):
                running[submit(task.name)] = task.name
            done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                result = future.result()
                schedule.end(name)
                if isinstance(result, Kept):
                    kept[name] = result
                    on_kept(result)
                else:
                    built[name] = result
    except BaseException:  # Ctrl-C: the guests die now, not at their deadlines
        maker.abort()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [kept[cell.name] for cell in cells]

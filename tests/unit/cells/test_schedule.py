"""Schedules: what may start beside what, and that all of it does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.cells.need import Need
from harness.cells.schedule import OVERCOMMIT, PATIENCE, Schedule, Task

BUILD, GUEST = Need(2, 2000), Need(1, 2000)
PLENTY = Need(2, 16000)


def names(tasks: tuple[Task, ...]) -> list[str]:
    """Return what the tasks are called."""
    return [task.name for task in tasks]


def test_a_guest_runs_beside_a_build() -> None:
    """On two cores; a second build waits, and what comes after a build for that."""
    schedule = Schedule(
        [
            Task("build a", BUILD),
            Task("a", GUEST, ("build a",)),
            Task("build b", BUILD),
            Task("b", GUEST, ("build b",)),
        ],
        PLENTY,
    )

    assert names(schedule.start(16000)) == ["build a"]
    assert names(schedule.start(16000)) == []
    schedule.end("build a")
    assert names(schedule.start(16000)) == ["a", "build b"]
    schedule.end("a")
    schedule.end("build b")
    assert names(schedule.start(16000)) == ["b"]
    schedule.end("b")
    assert schedule.finished


def test_memory_is_shared_out() -> None:
    """Two guests fit into 4000 MB, not three; nor two, when others use it meanwhile."""
    tasks = [Task(name, GUEST) for name in "abc"]

    assert names(Schedule(tasks, Need(8, 4500)).start(4500)) == ["a", "b"]
    assert names(Schedule(tasks, Need(8, 16000)).start(3000)) == ["a"]


def test_alone_it_starts_whatever_others_use() -> None:
    """Else a busy machine would wait for ever."""
    assert names(Schedule([Task("a", GUEST)], PLENTY).start(0)) == ["a"]


def test_what_fits_nowhere() -> None:
    """It is told before anything starts; cores are shared, memory is not."""
    big = Task("big", Need(64, 20000))

    assert Schedule([big, Task("a", GUEST)], PLENTY).too_big() == (big,)
    assert Schedule([Task("wide", Need(64, 1))], PLENTY).too_big() == ()


def test_a_build_is_not_overtaken_for_ever() -> None:
    """Guests that come and go leave it no room, but only so often."""
    guests = [Task(f"guest {number}", GUEST) for number in range(50)]
    schedule = Schedule(
        [guests[0], guests[1], Task("build", BUILD), *guests[2:]], PLENTY
    )
    running = names(schedule.start(16000))
    ended = 0
    while "build" not in running:
        schedule.end(running.pop(0))
        ended += 1
        running += names(schedule.start(16000))
    assert ended < 3 * PATIENCE


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4000), st.booleans()), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_everything_is_done_and_never_too_much_at_once(
    shapes: list[tuple[int, int, bool]], chance
) -> None:
    """In any order of endings: after what it comes after, within what there is."""
    tasks: list[Task] = []
    for number, (cores, memory_mb, depends) in enumerate(shapes):
        after = (tasks[-1].name,) if depends and tasks else ()
        tasks.append(Task(str(number), Need(cores, memory_mb), after))
    machine = Need(2, 4000)
    schedule = Schedule(tasks, machine)
    running: dict[str, Task] = {}
    done: list[str] = []
    while not schedule.finished:
        for task in schedule.start(4000):
            assert set(task.after) <= set(done)
            running[task.name] = task
        assert running
        assert sum(task.need.memory_mb for task in running.values()) <= 4000
        if len(running) > 1:
            cores = sum(task.need.cores for task in running.values())
            assert cores <= machine.cores * OVERCOMMIT
        ended = chance.choice(sorted(running))
        del running[ended]
        schedule.end(ended)
        done.append(ended)
    assert sorted(done) == sorted(task.name for task in tasks)

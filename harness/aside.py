"""Aside: work done by a thread meanwhile, for what mostly leaves the GIL alone.

``concurrent.futures`` does the same and imports logging for it, which takes as long as
decoding a megabyte of code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class Aside(Generic[T]):
    """A thread that does ``work``, beginning now; it ends with it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: list[T] = []
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._done.append(self._work())
        except BaseException as exc:  # noqa: BLE001 # raised where it is waited for
            self._failed = exc

    def result(self) -> T:
        """Wait for what it came to, and return it, or raise what the work raised."""
        self.wait()
        if self._failed is not None:
            raise self._failed
        return self._done[0]

    def wait(self) -> None:
        """Wait until the thread is gone."""
        self._thread.join()


def each(work: Callable[[S], T], parts: Sequence[S], threads: int) -> list[T]:
    """Return ``work`` of each of ``parts``, done by so many ``threads`` at once."""
    todo = [*enumerate(parts)][::-1]
    done: dict[int, T] = {}

    def some() -> None:
        while True:
            try:
                at, part = todo.pop()
            except IndexError:
                return
            try:
                done[at] = work(part)
            except BaseException:
                todo.clear()  # it is in vain
                raise

    workers = [Aside(some) for _ in range(threads)]
    for worker in workers:
        worker.wait()
    for worker in workers:
        worker.result()
    return [done[at] for at in range(len(parts))]

"""Beside: part of the work done by a forked copy of this process, at the same time.

A fork costs a few milliseconds and copies nothing, where another process would have to
read and decode the kernel again. The copy only computes: it prints nothing, starts no
thread and ends without cleaning up. Whatever befalls it, its work gets done: by us.

A process that works in several threads is not forked: what one of them holds in that
moment (the lock of a module that is imported, of a cached property) is never let go of in
the copy, which would wait for it until its deadline; and longer, if we are killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from harness.errors import HarnessError

T = TypeVar("T")

DEADLINE_S = 120.0  # then the copy is stuck


class Copy(Generic[T]):
    """A forked process that does ``work``, and has ``deadline_s`` seconds for it."""

    def __init__(self, work: Callable[[], T], deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._pipe, write = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:  # no room for one more
            self._pid = 0
            os.close(write)
            return
        if not self._pid:
            _work_and_exit(work, write)
        os.close(write)

    def result(self, otherwise: Callable[[], T]) -> T:
        """Return what it came to, or raise it; if it came to no end do it ``otherwise``.

        Raises:
            HarnessError: as the work did.
        """
        told = self._told() if self._pid else b""
        if not told:
            return otherwise()
        outcome: T | HarnessError = pickle.loads(told)
        if isinstance(outcome, HarnessError):
            raise outcome
        return outcome

    def end(self) -> None:
        """Leave no process and no pipe behind."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._pipe)

    def _told(self) -> bytes:
        """Return all that the copy wrote; nothing if it did not come to its end."""
        parts: list[bytes] = []
        ends = time.monotonic() + self._deadline_s
        while select.select([self._pipe], [], [], max(0.0, ends - time.monotonic()))[0]:
            part = os.read(self._pipe, 1 << 20)
            if not part:
                told = b"".join(parts)
                return told[:-1] if told.endswith(_WHOLE) else b""
            parts.append(part)
        return b""


_WHOLE = b"."  # what a copy writes last


def _work_and_exit(work: Callable[[], T], write: int) -> None:
    try:
        try:
            told = pickle.dumps(work())
        except HarnessError as exc:
            told = pickle.dumps(exc)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(told + _WHOLE)
    finally:
        os._exit(0)  # what else went wrong goes wrong again where it is seen


def _in_company() -> bool:
    """Tell whether another thread may hold something; those that draw and watch do not."""
    return any(
        not thread.daemon and thread is not threading.current_thread()
        for thread in threading.enumerate()
    )


@contextlib.contextmanager
def beside(work: Callable[[], T], *, forked: bool) -> Iterator[Callable[[], T]]:
    """Yield what returns the result of ``work``, which is done meanwhile.

    Unless ``forked`` it is done only then, and here; as it is if other threads work.
    """
    if not forked or _in_company():
        yield work
        return
    copy = Copy(work, DEADLINE_S)
    try:
        yield lambda: copy.result(work)
    finally:
        copy.end()

"""Forerunner: a copy of this process, made when it has imported what both need.

It imports what judges while we import what reads the command line, which takes as long
as judging a small kernel does. Then it is given its work, and we get ready to print what
comes of it. As with any copy, its work gets done whatever befalls it: by us.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
from collections.abc import Callable, Sequence
from typing import TypeVar

from harness.beside import Copy

T = TypeVar("T")

DEADLINE_S = 3600.0  # of its work, which may be any kernel

_living: list[_Forerunner] = []  # at most one that nobody has asked


class _Forerunner:
    def __init__(self, modules: Sequence[str]) -> None:
        self.asked = False
        asked, self._ask = os.pipe()

        def serve() -> object:
            os.close(self._ask)
            return _serve(modules, asked)

        self._copy = Copy(serve, DEADLINE_S)
        os.close(asked)

    def ask(self, work: Callable[[], object]) -> None:
        """Give it ``work``; if it is there no more, the result will tell."""
        self.asked = True
        with contextlib.suppress(OSError), os.fdopen(self._ask, "wb") as pipe:
            pickle.dump(work, pipe)

    def result(self, work: Callable[[], object]) -> object:
        """Return what it made of ``work``, or else what that does here."""
        try:
            return self._copy.result(work)
        finally:
            self.end()

    def end(self) -> None:
        """Leave no process and no pipe behind."""
        if not self.asked:
            os.close(self._ask)
        self._copy.end()
        _living.remove(self)


def start(modules: Sequence[str]) -> None:
    """Fork a copy that imports ``modules`` until it is given its work."""
    _living.append(_Forerunner(modules))


def end() -> None:
    """End the copy, if its result was not asked for."""
    for forerunner in [*_living]:
        forerunner.end()


def ask(work: Callable[[], T]) -> Callable[[], T]:
    """Give ``work`` to the forerunner, if one waits; return what returns its result.

    ``work`` must be picklable. Without a forerunner it is done when its result is
    wanted, here.

    Raises:
        HarnessError: by what is returned, as the work did.
    """
    forerunner = next((one for one in _living if not one.asked), None)
    if forerunner is None:
        return work
    forerunner.ask(work)
    return lambda: forerunner.result(work)  # type: ignore[return-value]


def _serve(modules: Sequence[str], asked: int) -> object:
    for name in modules:
        if select.select([asked], [], [], 0)[0]:
            break  # the work imports what it needs of the others
        importlib.import_module(name)
    with os.fdopen(asked, "rb") as pipe:
        work: Callable[[], object] = pickle.load(pipe)
    return work()

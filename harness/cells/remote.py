"""Remote: what a worker of a cluster does for us; JSON comes and JSON goes.

Kernels and results travel through the depot, by their hashes. A worker that dies leaves
nothing half done there, so that whoever does its work again finds what it has finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness import allowance
from harness.cells.cell import Cell
from harness.cells.depot import open_depot
from harness.cells.kept import Kept, dump, parse
from harness.cells.work import Maker, Terms
from harness.errors import InfraError
from harness.progress import silent
from harness.result import StageResult, plain


class Order(Struct, frozen=True):
    """What a worker is asked for: cells of one kernel, and how they are made."""

    cells: tuple[Cell, ...]
    terms: Terms
    depot: str


class Sent(Struct, frozen=True):
    """A :class:`Built`, as it travels: a kernel is its key, which may not be built.

    What is kept is for who judges to know: that depends on its host.
    """

    kernel: str
    is_built: bool
    attempts: tuple[StageResult, ...]


def order(cells: Sequence[Cell], terms: Terms, depot: str) -> str:
    """Return the JSON that asks for ``cells``."""
    wanted = Order(tuple(cells), terms, depot)
    return msgspec.json.encode(wanted, enc_hook=str).decode()  # a tree is a path


def build(asked: str) -> str:
    """Build what ``asked`` asks for, with all that this worker has."""
    _, maker, cells = _opened(asked)
    made = maker.compile(cells)
    sent = Sent(made.kernel, made.artifacts is not None, made.attempts)
    return json.dumps(plain(sent))


def judge(asked: str, told: str) -> str:
    """Judge the one cell that ``asked`` asks for, of whose kernel ``told`` tells.

    It is answered, if it was judged before by a host like this one.
    """
    wanted, maker, (cell,) = _opened(asked)
    sent = msgspec.convert(json.loads(told), Sent)
    built = replace(maker.look(cell, sent.kernel), attempts=sent.attempts)
    if sent.is_built and not built.answers:
        artifacts = maker.kernel(sent.kernel)
        if artifacts is None:
            raise InfraError(
                f"{wanted.depot} has no kernel {sent.kernel} any more",
                hint="every worker needs to read and write it",
            )
        built = replace(built, artifacts=artifacts)
    return dump(maker.judge(cell, built)).decode()


def _read(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(f"{kind.__name__} is not sent")  # so msgspec asks
    return Path(value)


def _opened(asked: str) -> tuple[Order, Maker, tuple[Cell, ...]]:
    wanted = msgspec.json.decode(asked, type=Order, dec_hook=_read)
    terms = replace(wanted.terms, jobs=allowance.jobs())
    maker = Maker(terms, lambda _: silent, open_depot(wanted.depot))
    return wanted, maker, wanted.cells


def result(said: str) -> Kept:
    """Read what :func:`judge` returned.

    Raises:
        InfraError: a worker has another version of us.
    """
    kept = parse(said.encode())
    if kept is None:
        raise InfraError(
            "a worker answered with what is no result of ours",
            hint="all machines need the same orc-harness",
        )
    return kept

"""Cluster: the cells of a night on many machines, through dask.distributed.

The scheduler gives a task to a worker that has its resource: ``BUILD`` (a kernel at a
time) or ``KVM`` (a guest at a time). It gives the tasks of a worker that dies to others;
what that one had built is in the depot.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from harness.cells import remote, workers
from harness.cells.cell import Cell
from harness.cells.depot import open_depot
from harness.cells.kept import Kept
from harness.cells.key import no_key
from harness.cells.local import groups
from harness.cells.work import STAGES, Terms
from harness.cells.workers import BUILD, KVM, POLL_S, RESUMES, NoWorker
from harness.errors import HarnessError, InfraError, UserError
from harness.progress import Progress
from harness.stages.guard import failed

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 30
RETRIES = 2
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Cluster(Struct, frozen=True):
    """Where the scheduler listens, and how it is spoken to.

    Attributes:
        address: ``tcp://host:8786``, or ``tls://`` with all three files.
        depot: the URL that machines leave kernels and results at.
        ca, cert, key: who is trusted, and who we are.
    """

    address: str
    depot: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def open_to_all(self) -> bool:
        """Whether anybody who reaches the scheduler can run code on its machines."""
        where = urlsplit(self.address)
        return where.scheme != "tls" and where.hostname not in LOOPBACK

    def check(self) -> None:
        """Refuse what cannot work, before anything begins.

        Raises:
            UserError: distributed is missing, or the address or its files are wrong.
        """
        if importlib.util.find_spec("distributed") is None:
            raise UserError(
                "--scheduler needs dask.distributed, which is not installed",
                hint="pip install 'orc-harness[dask]'",
            )
        where = urlsplit(self.address)
        if where.scheme not in {"tcp", "tls"} or not where.hostname:
            raise UserError(
                f"{self.address} is no scheduler", hint="tcp://host:8786, or tls://"
            )
        files = (self.ca, self.cert, self.key)
        if where.scheme == "tls" and not all(files):
            raise UserError(
                "tls:// needs --tls-ca, --tls-cert and --tls-key",
                hint="docs/nightly.md says how to make them",
            )
        for path in filter(None, files):
            if not path.is_file():
                raise UserError(f"there is no {path}")
        if not self.depot:
            raise UserError(
                "--scheduler needs --artifacts URL, which all its machines can write",
                hint="a shared directory, or s3://bucket/prefix",
            )
        open_depot(self.depot)


class Asked(Struct, frozen=True):
    """A cell that workers were asked for, and what its kernel comes to."""

    cell: Cell
    built: Future[str]


def run(
    cluster: Cluster,
    terms: Terms,
    cells: Sequence[Cell],
    on_kept: Callable[[Kept], None],
    progress: Progress,
) -> list[Kept]:
    """Make ``cells`` there; ``on_kept`` is told of each as it is done.

    One that no worker brings to an end is an ERROR, and kept nowhere. ``progress`` is
    told which workers are waited for.

    Raises:
        InfraError: the scheduler does not answer, or no more; no workers have come.
    """
    kept: dict[str, Kept] = {}
    with _connected(cluster) as client:

        def require(resources: set[str]) -> None:
            workers.require(client, cluster.address, resources, progress)

        require({BUILD, KVM})
        asked = _ask(client, cluster.depot, terms, cells)
        try:
            for answer in _answers(asked, terms.night, require):
                kept[answer.name] = answer
                on_kept(answer)
        except KeyboardInterrupt:  # what has begun goes on: a thread cannot be ended
            client.cancel([*asked, *(one.built for one in asked.values())])
            raise
    return [kept[cell.name] for cell in cells]


def _ask(
    client: Client, depot: str, terms: Terms, cells: Sequence[Cell]
) -> dict[Future[str], Asked]:
    asked: dict[Future[str], Asked] = {}
    for group in groups(cells):
        text = remote.order(group, terms, depot)
        built = _submit(client, BUILD, remote.build, text, group[0].name)
        for cell in group:
            text = remote.order((cell,), terms, depot)
            judged = _submit(client, KVM, remote.judge, text, cell.name, built)
            asked[judged] = Asked(cell, built)
    return asked


def _connected(cluster: Cluster) -> Client:
    from distributed import Client, Security

    security = None
    if cluster.ca:
        security = Security(
            tls_ca_file=str(cluster.ca),
            tls_client_cert=str(cluster.cert),
            tls_client_key=str(cluster.key),
            require_encryption=True,
        )
    try:
        return Client(
            cluster.address, security=security, timeout=CONNECT_S, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError) as exc:
        raise InfraError(
            f"no scheduler answers at {cluster.address}: {exc}",
            hint="dask scheduler --host 127.0.0.1 starts one",
        ) from exc


def _answers(
    asked: dict[Future[str], Asked], night: str, require: Callable[[set[str]], None]
) -> Iterator[Kept]:
    """Yield what each of ``asked`` comes to, as they end.

    A result may be lost with its worker before it is here: then it is made again, and
    waited for again. What is here is let go, or it would be made again, too. Where the
    workers that are left cannot make the rest, that is what it comes to.
    """
    while asked:
        ended = [future for future in asked if future.done()]
        for future in ended:
            with contextlib.suppress(TimeoutError):
                answer = _answer(future, asked[future].cell, night)
                del asked[future]
                yield answer
        if ended:
            continue
        time.sleep(POLL_S)
        unbuilt = not all(one.built.done() for one in asked.values())
        try:
            require({KVM, BUILD} if unbuilt else {KVM})
        except NoWorker as exc:
            yield from (_lost(one.cell, night, exc) for one in asked.values())
            return


def _answer(future: Future[str], cell: Cell, night: str) -> Kept:
    """Return what a future that has ended came to.

    Raises:
        TimeoutError: its result is on no worker any more.
        InfraError: the scheduler has forgotten it.
    """
    if future.cancelled():
        raise InfraError(
            f"the scheduler was lost before {cell.name} was done", hint=RESUMES
        )
    if future.status == "error":
        return _lost(cell, night, future.exception())
    try:
        return remote.result(future.result(timeout=CONNECT_S))
    except InfraError as exc:
        return _lost(cell, night, exc)


def _lost(cell: Cell, night: str, why: BaseException) -> Kept:
    """Return the result of a cell that no worker brought to an end."""
    error = (
        why
        if isinstance(why, HarnessError)
        else InfraError(
            f"no worker brought {cell.name} to an end: {type(why).__name__}: {why}",
            hint="look at the workers' logs; the next night makes it again",
        )
    )
    stages = tuple(failed(stage, cell.name, error) for stage in STAGES)
    return Kept(no_key(cell, night), cell.name, night, (stages,), {})


def _submit(
    client: Client,
    resource: str,
    function: Callable[..., str],
    text: str,
    name: str,
    *built: Future[str],
) -> Future[str]:
    """Submit one task, under a name that is the same for who asks the same."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return client.submit(
        function,
        text,
        *built,
        key=f"{function.__name__}-{name}-{digest}",
        resources={resource: 1},
        retries=RETRIES,
        pure=False,
    )

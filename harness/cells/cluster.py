"""Cluster: the cells of a night on many machines, through dask.distributed.

The scheduler gives a task to a worker that has its resource: ``BUILD`` (a kernel at a
time) or ``KVM`` (a guest at a time). It gives the tasks of a worker that dies to others;
what that one had built is in the depot.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from harness.cells import remote
from harness.cells.cell import Cell
from harness.cells.depot import open_depot
from harness.cells.kept import Kept
from harness.cells.local import groups
from harness.cells.work import Terms
from harness.errors import InfraError, UserError

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


def run(
    cluster: Cluster,
    terms: Terms,
    cells: Sequence[Cell],
    on_kept: Callable[[Kept], None],
) -> list[Kept]:
    """Make ``cells`` there; ``on_kept`` is told of each as it is done.

    Raises:
        InfraError: the scheduler does not answer, or a cell's workers died each time.
    """
    from distributed import Client, Security, as_completed

    security = None
    if cluster.ca:
        security = Security(
            tls_ca_file=str(cluster.ca),
            tls_client_cert=str(cluster.cert),
            tls_client_key=str(cluster.key),
            require_encryption=True,
        )
    try:
        client = Client(
            cluster.address, security=security, timeout=CONNECT_S, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError) as exc:
        raise InfraError(
            f"no scheduler answers at {cluster.address}: {exc}",
            hint="dask scheduler --host 127.0.0.1 starts one",
        ) from exc
    kept: dict[str, Kept] = {}
    with client:
        asked = {}
        for group in groups(cells):
            text = remote.order(group, terms, cluster.depot)
            built = _submit(client, "BUILD", remote.build, text, group[0].name)
            for cell in group:
                text = remote.order((cell,), terms, cluster.depot)
                one = _submit(client, "KVM", remote.judge, text, cell.name, built)
                asked[one] = cell.name
        for future in as_completed(list(asked), loop=client.loop):
            name = asked[future]
            try:
                kept[name] = remote.result(future.result())
            except InfraError:
                raise
            except Exception as exc:
                raise InfraError(
                    f"no worker brought {name} to an end: {type(exc).__name__}: {exc}",
                    hint="look at the workers' logs; the next start goes on from here",
                ) from exc
            on_kept(kept[name])
    return [kept[cell.name] for cell in cells]


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

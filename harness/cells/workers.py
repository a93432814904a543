"""Workers: those that have come to a scheduler, and what each says that it has.

Each has some of two resources: ``BUILD``, kernels that it builds at a time, and ``KVM``,
guests that it boots at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.errors import InfraError
from harness.progress import Progress

if TYPE_CHECKING:
    from distributed import Client

BUILD, KVM = "BUILD", "KVM"
POLL_S = 0.5
WORKERS_S = 60  # those of a cluster that starts come one by one
RESUMES = "the next start goes on from here"


class NoWorker(InfraError):
    """No worker has what the rest takes: a cell's trouble, not the scheduler's."""


def require(
    client: Client, address: str, resources: set[str], progress: Progress
) -> None:
    """Wait for workers that have ``resources`` between them.

    Raises:
        NoWorker: they have not come in time.
        InfraError: the scheduler was lost.
    """
    ends = time.monotonic() + WORKERS_S
    while missing := resources.difference(*(seen := present(client)).values()):
        lacking = " and ".join(sorted(missing))
        if client.status in {"closing", "closed"}:
            raise InfraError(f"the scheduler at {address} was lost", hint=RESUMES)
        if time.monotonic() > ends:
            raise NoWorker(
                f"{address} had no worker with {lacking} for {WORKERS_S} s, and needs "
                f"one; it has {_listed(seen)}",
                hint=f"dask worker {address} --nthreads 3 "
                '--resources "BUILD=1 KVM=2" starts one with both',
            )
        progress(f"waiting for a worker with {lacking}")
        time.sleep(POLL_S)


def present(client: Client) -> dict[str, dict[str, float]]:
    """Return what each worker that is there has: resource -> how many."""
    info = client.scheduler_info(n_workers=-1)  # else of five, with some versions
    workers = info.get("workers", {})  # none of a lost one
    return {str(one["name"]): one["resources"] for one in workers.values()}


def _listed(workers: dict[str, dict[str, float]]) -> str:
    each = [
        f"{name} ({' '.join(f'{what}={n:g}' for what, n in has.items()) or 'nothing'})"
        for name, has in workers.items()
    ]
    return ", ".join(each) or "none at all"

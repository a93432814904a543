"""Which workers are waited for, how long, and what is said of those there are."""

from __future__ import annotations

import pytest

from harness.cells import workers
from harness.cells.workers import NoWorker
from harness.errors import InfraError
from harness.progress import silent


class Scheduler:
    """One that has workers: another set of them each time that it is asked."""

    def __init__(self, *seen: dict[str, dict[str, float]]) -> None:
        self.status = "running"
        self._seen = list(seen)

    def scheduler_info(self, n_workers: int) -> dict[str, object]:
        assert n_workers == -1, "some versions tell of five only"
        now = self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]
        return {"workers": {n: {"name": n, "resources": r} for n, r in now.items()}}


def test_workers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what is needed is there, in one or in several; and it is said."""
    monkeypatch.setattr(workers, "POLL_S", 0)
    builds, guests = {"a": {"BUILD": 1.0}}, {"b": {"KVM": 2.0}}
    said: list[str] = []

    def wait(*seen: dict[str, dict[str, float]]) -> None:
        client = Scheduler(*seen)
        workers.require(client, "tcp://farm", {"BUILD", "KVM"}, said.append)

    wait({"c": {"BUILD": 1.0, "KVM": 1.0}})
    assert said == []
    wait({}, builds, builds | guests)
    assert said == [
        "waiting for a worker with BUILD and KVM",
        "waiting for a worker with KVM",
    ]


def test_workers_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is said, what is needed, and how to start it."""
    monkeypatch.setattr(workers, "POLL_S", 0)
    monkeypatch.setattr(workers, "WORKERS_S", 0)
    client = Scheduler({"a": {"BUILD": 1.0}, "b": {}})

    with pytest.raises(NoWorker) as caught:
        workers.require(client, "tcp://farm", {"BUILD", "KVM"}, silent)
    assert caught.value.message == (
        "tcp://farm had no worker with KVM for 0 s, and needs one; "
        "it has a (BUILD=1), b (nothing)"
    )
    assert "dask worker tcp://farm" in str(caught.value.hint)


def test_a_scheduler_that_was_lost() -> None:
    """It has no workers; the run ends, and its next start goes on."""
    client = Scheduler({})
    client.status = "closed"

    with pytest.raises(InfraError, match="was lost") as caught:
        workers.require(client, "tcp://farm", {"BUILD", "KVM"}, silent)
    assert not isinstance(caught.value, NoWorker)

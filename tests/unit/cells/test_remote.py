"""What a worker is asked for: it arrives as it was sent, and is answered where it boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cells import key, remote, work
from harness.cells.cell import read
from harness.cells.work import Terms
from harness.errors import InfraError
from tests.builders import played_worker


@pytest.mark.parametrize("tree", [None, Path("/src/linux")])
def test_an_order_arrives_as_it_was_sent(tree: Path | None, tmp_path: Path) -> None:
    """The cells, and the tree that they are built of."""
    cells = read()[:2]
    asked = remote.order(cells, Terms("night", tree), tmp_path.as_uri())

    wanted, _, opened = remote._opened(asked)

    assert opened == cells
    assert wanted.terms == Terms("night", tree)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers whose stages are played, and whose builds are quick; their notes."""
    monkeypatch.setattr(played_worker, "PLAYED", tmp_path)
    (tmp_path / "go").touch()
    for part in played_worker.PLAYED_BY:
        monkeypatch.setattr(*part)
    return tmp_path


def test_a_result_is_of_the_host_that_booted(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever host built the kernel: who has no KVM is not answered with KVM's."""
    (cell,) = (one for one in read() if one.name == "6.12-gcc12-kvm")

    def on(host: str) -> None:
        monkeypatch.setenv("ORC_HARNESS_CACHE", str(played / host))
        monkeypatch.setattr(key, "host_facts", lambda *_: (host,))

    def made(night: str, host: str) -> str:
        asked = remote.order([cell], Terms(night), str(played / "depot"))
        on("builder")
        told = remote.build(asked)
        on(host)
        return remote.result(remote.judge(asked, told)).night

    assert made("one", "kvm") == "one"
    assert made("two", "builder") == "two"
    assert made("three", "kvm") == "one"
    assert made("four", "builder") == "two"
    assert (played / "log").read_text().count("boots") == 2


def test_a_kernel_that_was_never_known(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an ERROR for this night, and no other."""

    def lost(*_: object, **__: object) -> None:
        raise InfraError("no network")

    asked = remote.order(read()[:1], Terms("one"), str(played / "depot"))
    with monkeypatch.context() as broken:
        broken.setattr(work, "open_tree", lost)
        kept = remote.result(remote.judge(asked, remote.build(asked)))
    after = remote.order(read()[:1], Terms("two"), str(played / "depot"))
    again = remote.result(remote.judge(after, remote.build(after)))

    assert kept.stages[0].reason == "no network"
    assert not kept.final
    assert again.final

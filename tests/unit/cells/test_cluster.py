"""Clusters: real schedulers and workers, whose stages are played."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.cells import cluster
from harness.cells.cell import read
from harness.cells.cluster import Cluster
from harness.cells.kept import dump
from harness.cells.workers import NoWorker
from harness.errors import InfraError, UserError
from harness.result import Status
from tests.unit.cells.test_night import kept

ROOT = Path(__file__).resolve().parents[3]
CELLS = ["6.12-gcc12-native", "6.12-gcc12-native-kaslr", "6.1-gcc12-*", "7.2-sid-xen"]
LIMIT_S = 90


def until(what: Callable[[], object]) -> None:
    """Wait for ``what`` to be true."""
    ends = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.05)


class Farm:
    """A scheduler and workers on this machine, each a process with its own cache."""

    def __init__(self, root: Path, stack: contextlib.ExitStack, *tls: str) -> None:
        self.root = root
        self._stack = stack
        self._tls = tls
        (root / "log").touch()
        protocol = "tls" if tls else "tcp"
        file = root / "scheduler.json"
        self._start(
            *("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--protocol", protocol, "--scheduler-file", str(file), *tls),
        )
        until(lambda: file.exists() and file.stat().st_size)
        self.address = json.loads(file.read_text())["address"]

    def _start(self, *argv: str, cache: str = "none") -> subprocess.Popen[bytes]:
        output = (self.root / f"{argv[0]}.out").open("ab")
        self._stack.callback(output.close)
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *argv],
            cwd=ROOT,
            env=self.environment(cache),
            stdout=output,
            stderr=output,
        )
        self._stack.callback(process.wait, LIMIT_S)
        self._stack.callback(process.kill)
        return process

    def environment(self, cache: str) -> dict[str, str]:
        return (
            os.environ
            | {
                "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",  # of workers, by a task
                "PLAYED": str(self.root),
                "ORC_HARNESS_CACHE": str(self.root / cache),
                "PYTHONPATH": str(ROOT),
            }
        )

    def worker(
        self, name: str, resources: str = "BUILD=1 KVM=1"
    ) -> subprocess.Popen[bytes]:
        """Start a worker that has ``resources``, and a cache of its own."""
        return self._start(
            *("worker", self.address, "--no-nanny", "--nthreads", "2"),
            *("--host", "127.0.0.1", "--no-dashboard", "--name", name),
            *("--resources", resources, *self._tls),
            *("--preload", "tests.builders.played_worker"),
            cache=name,
        )

    def matrix(
        self, *arguments: str, cells: Sequence[str] = CELLS
    ) -> subprocess.Popen[str]:
        """Start the command, as anybody's process that speaks to the scheduler."""
        argv = [sys.executable, "-m", "harness", "matrix", *cells, "--format", "json"]
        argv += ["--scheduler", self.address, "--artifacts", str(self.root / "depot")]
        process = subprocess.Popen(
            [*argv, "--report", str(self.root / "report"), *arguments],
            env=self.environment("client"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def wait_for(self, workers: int) -> None:
        """Wait until so many have come to the scheduler."""
        said = self.root / "worker.out"
        until(lambda: said.read_text().count("Registered to:") >= workers)

    def noted(self, what: str) -> list[list[str]]:
        """Return the notes that begin with ``what``: key or name, and pid."""
        lines = (self.root / "log").read_text().splitlines()
        return [line.split()[1:] for line in lines if line.startswith(f"{what} ")]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def test_a_worker_dies_in_the_middle_of_a_build(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Nothing is lost, no kernel is built twice; who boots has them from the depot.

    Another night makes nothing.
    """
    farm = Farm(tmp_path, stack)
    workers = [farm.worker("a", "BUILD=1"), farm.worker("b", "BUILD=1")]
    farm.worker("guests", "KVM=1")  # which has to be given every kernel
    farm.wait_for(3)
    first = farm.matrix()
    until(lambda: len({pid for _, pid in farm.noted("begins")}) == 2)

    victim = workers[0]
    lost = {key for key, pid in farm.noted("begins") if int(pid) == victim.pid}
    os.kill(victim.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    out, said = first.communicate(timeout=LIMIT_S)

    assert first.returncode == 0, said
    stages = json.loads(out)["stages"]
    names = {stage["variant"] for stage in stages}
    assert {stage["status"] for stage in stages} == {"PASS"}
    assert len(stages) == 6 * len(names)
    built = Counter(key for key, _ in farm.noted("built"))
    assert lost
    assert lost <= built.keys()
    assert len(built) == len(names) - 1  # the two of gcc12-native share one
    assert set(built.values()) == {1}
    assert sorted(name for name, _ in farm.noted("boots")) == sorted(names)
    assert all(int(pid) != victim.pid for _, pid in farm.noted("built"))

    farm.worker("c")  # which has nothing of its own
    farm.wait_for(4)
    second = farm.matrix()
    _, said = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0, said
    assert f"0 made in this run, {len(names)} unchanged" in said
    assert len(farm.noted("built")) == len(built)


def test_a_cell_that_kills_its_workers(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """It is an ERROR of its own; the others are done, and there is a report.

    The next night makes it again.
    """
    (tmp_path / "go").touch()
    deadly = tmp_path / "kills-6.1-gcc12-native"
    deadly.touch()
    farm = Farm(tmp_path, stack)
    farm.worker("a", "BUILD=1")
    for name in ("b", "c", "d"):
        farm.worker(name, "KVM=1")
    farm.wait_for(4)
    cells = ("6.1-gcc12-native", "6.12-gcc12-native")

    first = farm.matrix(cells=cells)
    out, said = first.communicate(timeout=LIMIT_S)

    assert first.returncode == 3, said
    found = {(one["variant"], one["status"]) for one in json.loads(out)["stages"]}
    assert found == {(cells[0], "ERROR"), (cells[1], "PASS")}
    assert "no worker brought 6.1-gcc12-native to an end: KilledWorker" in out
    assert (tmp_path / "report" / "result.json").exists()

    deadly.unlink()
    second = farm.matrix(cells=cells)
    _, said = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0, said
    assert "1 made in this run, 1 unchanged" in said


def test_an_interrupt(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """What a worker has begun it ends, which is said; it begins nothing more."""
    farm = Farm(tmp_path, stack)
    farm.worker("a")
    farm.wait_for(1)
    command = farm.matrix(cells=("6.1-gcc12-native", "6.12-gcc12-native"))
    until(lambda: farm.noted("begins"))
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=LIMIT_S)

    assert command.returncode == 130
    assert f"the workers of {farm.address} go on with what they have begun" in said
    assert "nothing was left running here" in said
    (tmp_path / "go").touch()
    until(lambda: farm.noted("built"))
    farm.matrix(cells=("7.2-sid-xen",)).communicate(timeout=LIMIT_S)  # after the rest
    assert len(farm.noted("begins")) == 2
    assert [name for name, _ in farm.noted("boots")] == ["7.2-sid-xen"]


class Ended:
    """A future that has ended: with what, or with why not."""

    def __init__(self, came_to: str | Exception) -> None:
        self.status = "finished" if isinstance(came_to, str) else "error"
        self._came_to = came_to

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def exception(self) -> Exception:
        assert isinstance(self._came_to, Exception)
        return self._came_to

    def result(self, timeout: float) -> str:
        assert isinstance(self._came_to, str)
        return self._came_to


class Waiting:
    """A future that has not ended."""

    def done(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("came_to", "said"),
    [
        (InfraError("/d has a damaged vmlinux", hint="delete it"), "a damaged vmlinux"),
        (ValueError("what is that"), "no worker brought .*: ValueError: what is that"),
        ("{}", "what is no result of ours"),
    ],
    ids=["depot", "worker", "version"],
)
def test_a_cell_that_comes_to_nothing(came_to: str | Exception, said: str) -> None:
    """The others come to their verdicts; another night makes it again."""
    bad, good = read()[:2]
    whole = kept(good.name, "now")
    built = Ended("")
    asked = {
        Ended(came_to): cluster.Asked(bad, built),
        Ended(dump(whole).decode()): cluster.Asked(good, built),
    }

    lost, other = cluster._answers(asked, "now", print)

    assert other == whole
    assert not lost.final
    assert (lost.name, lost.night) == (bad.name, "now")
    assert {(one.status, one.exit_code) for one in lost.stages} == {(Status.ERROR, 3)}
    assert re.search(said, lost.stages[0].reason)


@pytest.mark.parametrize("built", [True, False])
def test_the_last_worker_dies(monkeypatch: pytest.MonkeyPatch, built: bool) -> None:
    """What it leaves is an ERROR, and the night ends; who builds is needed no more."""
    monkeypatch.setattr(cluster, "POLL_S", 0)
    asked = {Waiting(): cluster.Asked(read()[0], Ended("") if built else Waiting())}
    required: list[object] = []

    def require(resources: object) -> None:
        required.append(resources)
        raise NoWorker("no worker")

    (lost,) = cluster._answers(asked, "now", require)

    assert required == [{"KVM"} if built else {"BUILD", "KVM"}]
    assert {one.reason for one in lost.stages} == {"no worker"}
    assert not lost.final


def certificates(directory: Path) -> tuple[str, str, str]:
    """Make a CA of our own, and a certificate that it has signed."""
    ca, key, cert = (directory / name for name in ("ca.pem", "key.pem", "cert.pem"))

    def openssl(*argv: str | Path) -> None:
        subprocess.run(
            ["openssl", *argv],
            check=True,
            capture_output=True,
            timeout=60,
            cwd=directory,
        )

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(
        *new,
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=ours",
        "-keyout",
        "ca.key",
        "-out",
        ca,
    )
    openssl(*new, "-subj", "/CN=worker", "-keyout", key, "-out", "csr")
    openssl(
        *("x509", "-req", "-in", "csr", "-days", "2", "-CA", ca, "-CAkey", "ca.key"),
        *("-CAcreateserial", "-out", cert),
    )
    return str(ca), str(cert), str(key)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_tls(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """Who has a certificate of our CA is let in; who has another's is not."""
    (tmp_path / "stranger").mkdir()
    ca, cert, key = certificates(tmp_path)
    _, other_cert, other_key = certificates(tmp_path / "stranger")
    (tmp_path / "go").touch()
    files = ("--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key)
    farm = Farm(tmp_path, stack, *files)
    farm.worker("a")

    ours = farm.matrix("--tls-ca", ca, "--tls-cert", cert, "--tls-key", key)
    _, said = ours.communicate(timeout=LIMIT_S)
    strangers = farm.matrix(
        "--again", "--tls-ca", ca, "--tls-cert", other_cert, "--tls-key", other_key
    )
    _, refused = strangers.communicate(timeout=LIMIT_S)

    assert farm.address.startswith("tls://127.0.0.1:")
    assert ours.returncode == 0, said
    assert "not encrypted" not in said
    assert strangers.returncode == 3
    assert "no scheduler answers" in refused


@pytest.mark.parametrize(
    ("address", "open_to_all"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("tcp://farm:8786", True),
        ("tls://farm:8786", False),
    ],
)
def test_who_may_run_code(address: str, open_to_all: bool) -> None:
    """On a loopback we are alone; elsewhere TLS decides."""
    assert Cluster(address, "/depot").open_to_all is open_to_all


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Cluster("http://farm", "/d"), "is no scheduler"),
        (Cluster("tls://farm:1", "/d"), "needs --tls-ca"),
        (Cluster("tcp://farm:1", ""), "needs --artifacts"),
        (Cluster("tcp://farm:1", "gopher://x/y"), "no place for artifacts"),
        (Cluster("tcp://farm:1", "/d", ca=Path("/no/ca")), "there is no /no/ca"),
    ],
)
def test_what_cannot_work(wanted: Cluster, said: str) -> None:
    """It is told before anything begins."""
    with pytest.raises(UserError, match=said):
        wanted.check()

"""Bisections of a real source with a made-up history, in real containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.bisect import request as requests
from harness.bisect.answer import Outcome
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.config import request as config_requests
from harness.bisect.config.bisection import Without
from harness.bisect.config.request import ConfigRequest
from harness.bisect.oracle import Oracle
from harness.bisect.quorum import Quorum
from harness.bisect.request import Request
from harness.bisect.search import First
from harness.build.tree import default_tree
from harness.cache import cache_dir
from harness.container import image as images
from harness.container.engine import connect
from harness.corpus.plant import read_plants
from harness.progress import silent
from harness.result import Stage
from harness.variant import Platform, variant
from tests.builders.commits import History, Plan, write_history, write_source

pytestmark = pytest.mark.build

ASM = "arch/x86/lib/hweight"
C = "lib/argv_split"
KILL_WITHIN_S = 900.0
TOLD = b'"kind":"told"'
NATIVE = variant(Platform.NATIVE, "small")


@pytest.fixture(scope="module")
def source() -> Path:
    with connect() as engine:
        toolchain = images.ensure(engine, images.toolchain())
        return default_tree(engine, toolchain).source


@pytest.fixture(scope="module", autouse=True)
def roots() -> Iterator[list[Path]]:
    """Repositories that a test bisects: what is kept of them is deleted."""
    made: list[Path] = []
    rooms = cache_dir() / "bisect"
    before = set(rooms.glob("*"))
    yield made
    ours = {requests.find_room(root).directory for root in made if root.exists()}
    for room in ours - before:
        shutil.rmtree(room, ignore_errors=True)


def _history(
    source: Path, root: Path, plant: str, touched: str, *, whole: bool = False, **more
) -> History:
    root.mkdir(parents=True)
    (wanted,) = (p for p in read_plants() if p.name == plant)
    plan = Plan(
        touched=touched, **{"commits": 30, "unbuildable": 3, "no_ops": 3, **more}
    )
    return write_history(source, root, plan, wanted, whole=whole)


@pytest.fixture(scope="module")
def hint(source, roots, tmp_path_factory) -> History:
    """A wrong hint in assembly, among commits that do not build or change nothing."""
    roots.append(tmp_path_factory.mktemp("h") / "r")
    return _history(source, roots[-1], "hint-func", f"{ASM}.S")


def _bisect(history: History, target: str, **more) -> Bisection:
    wanted = Request(history.root, NATIVE, target=target, jobs=2, **more)
    return requests.bisect(wanted, history.good, history.bad, lambda _: silent)


def _require_right(found: Bisection, history: History) -> None:
    assert found.conclusion == First(history.culprit)
    assert found.first is not None
    assert found.first.clean
    assert all(sight.findings is not None for sight in found.parents)
    assert set(found.reverts.values()) == {Revert.GONE}
    for answer in found.answers:
        if answer.commit in history.unbuildable:
            assert answer.outcome is Outcome.SKIP
            assert "does not build" in answer.reason


def test_a_wrong_hint(hint) -> None:
    """The commit is found by one object, and reverting it makes the finding go."""
    found = _bisect(hint, f"{ASM}.o")

    _require_right(found, hint)
    assert found.sought.location.symbol == "__sw_hweight64"


def test_objtool_itself(source, roots, tmp_path) -> None:
    """A commit to objtool changes objects that depend on none of its files."""
    roots.append(tmp_path / "r")
    history = _history(source, roots[-1], "bp-lost", f"{C}.c", seed=1, commits=12)

    _require_right(_bisect(history, f"{C}.o"), history)


def test_an_alternative_that_objtool_ignores(source, roots, tmp_path) -> None:
    """What moves the stack in one replacement only."""
    roots.append(tmp_path / "r")
    history = _history(source, roots[-1], "alt-ignored", f"{ASM}.S", commits=12)

    _require_right(_bisect(history, f"{ASM}.o"), history)


@pytest.fixture(scope="module")
def sorted_wrong(source, roots, tmp_path_factory) -> History:
    """A whole kernel, whose table the link sorts wrong from some commit on."""
    roots.append(tmp_path_factory.mktemp("s") / "r")
    few = {"commits": 6, "unbuildable": 0, "no_ops": 1}
    return _history(source, roots[-1], "sorttable", f"{C}.c", whole=True, **few)


@pytest.mark.nightly
def test_what_sorts_the_table(sorted_wrong) -> None:
    """Only vmlinux shows it; it is linked anew, and not built anew."""
    found = _bisect(sorted_wrong, "vmlinux")

    _require_right(found, sorted_wrong)


@pytest.mark.nightly
@pytest.mark.boot
def test_what_a_boot_shows(sorted_wrong) -> None:
    """The same by what the kernel executes: one boot of each, as that always shows."""
    oracle = Oracle(Stage.SHADOW, Quorum(looks=1, rate=1.0))

    found = _bisect(sorted_wrong, "vmlinux", oracle=oracle)

    _require_right(found, sorted_wrong)
    assert found.sought.rule.startswith("shadow/")
    assert (found.sure.shown, found.sure.looks) == (1, 1)


def test_a_kill(hint) -> None:
    """Killed in the middle it goes on, and asks again what was not answered only."""
    state = requests.find_room(hint.root).directory
    for old in state.glob("*.jsonl"):
        old.unlink()
    argv = [sys.executable, "-m", "harness", "bisect", "--tree", str(hint.root)]
    argv += ["--good", hint.good, "--bad", hint.bad, "--target", f"{ASM}.o"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + KILL_WITHIN_S
    while not (before := _told(state)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()

    done = subprocess.run([*argv, "--resume"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"The first bad commit is {hint.culprit}\n")
    (path,) = state.glob("*.jsonl")
    assert path.read_bytes().startswith(before)


def _told(state: Path) -> bytes:
    """Return what the state file holds once both ends and one more are answered."""
    data = b"".join(path.read_bytes() for path in state.glob("*.jsonl"))
    return data if data.endswith(b"\n") and data.count(TOLD) > 2 else b""


@pytest.mark.nightly
def test_options_that_make_it_together(source, tmp_path, monkeypatch) -> None:
    """Two of those that differ make a wrong hint; the others, and all they pull in, not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_borrowed(tmp_path / "cache")))
    both = "#if defined(CONFIG_DEBUG_LIST) && defined(CONFIG_DYNAMIC_DEBUG_CORE)"
    (wanted,) = (p for p in read_plants() if p.name == "hint-func")
    hint = "\tUNWIND_HINT_FUNC\n"
    edits = [
        replace(e, new=e.new.replace(hint, f"{both}\n{hint}#endif\n"))
        for e in wanted.edit
    ]
    write_source(source, tmp_path / "linux", edits)
    fragment = tmp_path / "more.config"
    names = ("DEBUG_SG", "DEBUG_LIST", "DEBUG_NOTIFIERS", "DYNAMIC_DEBUG_CORE")
    fragment.write_text("".join(f"CONFIG_{name}=y\n" for name in names))
    request = ConfigRequest(tmp_path / "linux", target=f"{ASM}.o", jobs=2)

    found = config_requests.bisect(
        request, "native", f"native+{fragment}", lambda _: silent
    )

    units = [[delta.symbol for delta in unit] for unit in found.units]
    assert sorted(units) == [["DEBUG_LIST"], ["DYNAMIC_DEBUG_CORE"]]
    assert found.sought.location.symbol == "__sw_hweight64"
    assert found.first.clean
    assert [sight.findings for sight in found.without] == [(), ()]
    assert found.reverse is Without.GONE


def _borrowed(cache: Path) -> Path:
    """Return a cache of its own that has the images' records and the compiler's cache."""
    ours = cache / "orc-harness"
    ours.mkdir(parents=True)
    for name in ("images", *(p.name for p in cache_dir().glob("ccache-*"))):
        (ours / name).symlink_to(cache_dir() / name)
    return cache


@pytest.mark.slow
def test_git_bisect_run(hint, roots, tmp_path) -> None:
    """git itself finds the same commit by our answers, in the user's own tree."""
    work = tmp_path / "work"
    roots.append(work)
    subprocess.run(["git", "clone", "-q", hint.root, work], check=True)
    step = [sys.executable, "-m", "harness", "bisect-step", "--target", f"{ASM}.o"]
    step += ["--finding", "text/step:hweight.o:__sw_hweight64:-:0"]
    start = ["git", "bisect", "start", hint.bad, hint.good]
    subprocess.run(start, cwd=work, check=True)

    ran = subprocess.run(
        ["git", "bisect", "run", *step],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )

    assert f"{hint.culprit} is the first bad commit" in ran.stdout, ran.stderr

"""Builds in real containers: what ends well, badly, or is cut short.

Most use tests/fakelinux, which builds in a second and fails as it is told; what
depends on real Kconfig and real compilers uses the default tree, and ends early.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import run
from harness.artifacts import Store
from harness.build import kbuild
from harness.build.log import findings
from harness.build.tree import Tree, default_tree, user_tree
from harness.container import image as images
from harness.container.engine import connect
from harness.container.image import Image
from harness.container.job import Engine
from harness.errors import BuildError, InfraError, UserError
from harness.variant import Platform, Variant, from_config, variant

pytestmark = pytest.mark.build

FAKELINUX = Path(__file__).parent.parent / "fakelinux"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with connect() as found:
        yield found


@pytest.fixture(scope="module")
def toolchain(engine) -> Image:
    return images.ensure(engine, images.toolchain())


@pytest.fixture(scope="module")
def default(engine, toolchain) -> Tree:
    return default_tree(engine, toolchain)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    tmp_path.chmod(0o755)
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(path))
    return path


@pytest.fixture
def fakelinux(cache) -> Tree:
    return user_tree(FAKELINUX)


def _fake(tmp_path: Path, *options: str) -> Variant:
    fragment = tmp_path / "fake.config"
    fragment.write_text("".join(f"CONFIG_{option}=y\n" for option in options))
    return Variant("fake", Platform.NATIVE, (fragment,))


def _left_in(cache: Path) -> list[Path]:
    """Return the output directories that are still there."""
    return [path for path in (cache / "build").iterdir() if path.is_dir()]


def _containers(pid: int) -> list[str]:
    """Return the containers that process ``pid`` owns, running or not."""
    label = "org.orc-harness.owner"
    argv = ["docker", "ps", "-a", "--format", f'{{{{.ID}}}} {{{{.Label "{label}"}}}}']
    lines = run.check(argv, timeout_s=30).splitlines()
    return [line for line in lines if line.split()[1:2] == [str(pid)]]


def test_a_build_is_stored_whole(engine, toolchain, fakelinux, cache, tmp_path):
    """Kernel, modules, log and what made them are in the store; no scratch is left."""
    store = Store(cache / "store")
    steps: list[tuple[str, int, int | None]] = []
    built = kbuild.build(
        engine,
        fakelinux,
        _fake(tmp_path),
        toolchain,
        store,
        progress=lambda what, done=0, total=None: steps.append((what, done, total)),
    )
    assert ("building fake", 2, kbuild.TYPICAL_STEPS) in steps
    assert built.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert [path.name for path in built.modules] == ["fake.ko"]
    assert built.manifest.toolchain == toolchain.identity
    assert built.manifest.compiled == 1
    assert [f.rule for f in findings(built.log.read_text())] == [
        "objtool/unreachable-instruction"
    ]
    assert _left_in(cache) == []


def test_equal_input_is_built_once(engine, toolchain, fakelinux, cache, tmp_path):
    """The second call finds the first one's result and starts nothing."""
    store = Store(cache / "store")
    first = kbuild.build(engine, fakelinux, _fake(tmp_path), toolchain, store)
    seen: list[str] = []
    second = kbuild.build(
        engine,
        fakelinux,
        _fake(tmp_path),
        toolchain,
        store,
        progress=lambda what, done=0, total=None: seen.append(what),
    )
    assert second == first
    assert seen == []


def test_equal_input_gives_equal_bytes(engine, toolchain, fakelinux, cache, tmp_path):
    """Neither the time nor the place of a build is in its result."""
    stores = [Store(cache / name) for name in ("one", "two")]
    builds = [
        kbuild.build(engine, fakelinux, _fake(tmp_path), toolchain, store)
        for store in stores
    ]
    assert b"1970 /src /out" in builds[0].vmlinux.read_bytes()
    assert builds[0].manifest.sha256 == builds[1].manifest.sha256


def test_an_edited_tree_is_another_build(engine, toolchain, cache, tmp_path):
    """An uncommitted edit is built, and not found in the store."""
    shutil.copytree(FAKELINUX, tmp_path / "linux")
    store = Store(cache / "store")
    keys = set()
    for text in ("", "\nint edited;\n"):
        with (tmp_path / "linux/kernel/fork.c").open("a") as source:
            source.write(text)
        tree = user_tree(tmp_path / "linux")
        built = kbuild.build(engine, tree, _fake(tmp_path), toolchain, store)
        keys.add(built.manifest.key)
    assert len(keys) == 2


def test_a_users_config_takes_part(engine, toolchain, fakelinux, cache, tmp_path):
    """A .config is built as it is, and named after its file and platform."""
    path = tmp_path / "mine.config"
    path.write_text("CONFIG_MODULES=y\nCONFIG_OWN=y\n")
    built = kbuild.build(
        engine,
        fakelinux,
        from_config(path, Platform.NATIVE),
        toolchain,
        Store(cache / "store"),
    )
    assert built.manifest.variant == "mine-native"
    assert "CONFIG_OWN=y" in built.config.read_text()


@pytest.mark.parametrize(
    ("option", "expected"), [("HUNGRY", "memory limit"), ("DISK_FULL", "disk is full")]
)
def test_what_the_machine_broke_is_never_built_upon(
    option, expected, engine, toolchain, fakelinux, cache, tmp_path, monkeypatch
):
    """The output goes whole, nothing is stored, and the log stays."""
    monkeypatch.setattr(kbuild, "MEMORY_MB", 256)
    store = Store(cache / "store")
    with pytest.raises(InfraError, match=expected):
        kbuild.build(engine, fakelinux, _fake(tmp_path, option), toolchain, store)
    assert _left_in(cache) == []
    assert not store.root.exists()
    assert len(list((cache / "logs").iterdir())) == 1
    # The same directory used twice would make this fail (see fakelinux).
    kbuild.build(engine, fakelinux, _fake(tmp_path), toolchain, store)


def test_a_ccache_that_cannot_be_written_is_no_bad_tree(
    engine, toolchain, fakelinux, cache, tmp_path
):
    """What it has it still answers, and kbuild's probes hide what it says of the rest."""
    store = Store(cache / "store")
    kbuild.build(engine, fakelinux, _fake(tmp_path), toolchain, store)
    (ccache,) = cache.glob("ccache-*")
    directories = [ccache, *(path for path in ccache.rglob("*") if path.is_dir())]
    for path in directories:
        path.chmod(0o555)
    try:
        with pytest.raises(InfraError, match="ccache failed") as caught:
            kbuild.build(engine, fakelinux, _fake(tmp_path, "OWN"), toolchain, store)
    finally:
        for path in directories:
            path.chmod(0o755)
    assert str(caught.value.hint).startswith("delete ccache-*")


def test_a_build_ends_at_its_deadline(engine, toolchain, fakelinux, cache, tmp_path):
    """A hanging make is an error of ours, after the time that was given."""
    hanging = _fake(tmp_path, "HANG")
    store = Store(cache / "store")
    with pytest.raises(InfraError, match="did not end within 2 s"):
        kbuild.build(engine, fakelinux, hanging, toolchain, store, timeout_s=2)
    assert _left_in(cache) == []


_CHILD = """
import signal, sys
from pathlib import Path
from harness.artifacts import Store
from harness.build import kbuild
from harness.build.tree import user_tree
from harness.container import image
from harness.container.engine import connect
from harness.variant import Platform, Variant

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
fakelinux, fragment, store = map(Path, sys.argv[1:])
with connect() as engine:
    toolchain = image.ensure(engine, image.toolchain())
    variant = Variant("fake", Platform.NATIVE, (fragment,))
    print("start", flush=True)
    kbuild.build(engine, user_tree(fakelinux), variant, toolchain, Store(store),
                 progress=lambda what, done=0, total=None: print(what, done, flush=True))
"""


@contextlib.contextmanager
def _building(tmp_path: Path, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield another process whose build has begun to compile, and hangs."""
    _fake(tmp_path, "HANG")
    argv = [sys.executable, "-c", _CHILD, str(FAKELINUX)]
    argv += [str(tmp_path / "fake.config"), str(cache / "store")]
    log = tmp_path / "child.log"
    with log.open("wb") as output:
        child = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + WAIT_S
        while b"building fake 1" not in log.read_bytes():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield child
    finally:
        child.kill()
        child.wait()


def test_a_cancelled_build_leaves_nothing(toolchain, cache, tmp_path):
    """SIGTERM in mid-build removes the container and the output directory."""
    with _building(tmp_path, cache) as child:
        assert len(_containers(child.pid)) == 1
        child.send_signal(signal.SIGTERM)
        child.wait(WAIT_S)
        assert _containers(child.pid) == []
    assert _left_in(cache) == []


def test_the_orphan_of_a_killed_build_is_reaped(engine, toolchain, cache, tmp_path):
    """SIGKILL leaves container and output; the next start and build remove them."""
    with _building(tmp_path, cache) as child:
        assert engine.reap() == 0  # its owner lives
        os.kill(child.pid, signal.SIGKILL)
        child.wait(WAIT_S)
        assert len(_containers(child.pid)) == 1
        assert engine.reap() >= 1
        assert _containers(child.pid) == []
    assert len(_left_in(cache)) == 1
    tree = user_tree(FAKELINUX)
    kbuild.build(engine, tree, _fake(tmp_path), toolchain, Store(cache / "store"))
    assert _left_in(cache) == []


def test_an_impossible_option_names_its_dependency(
    engine, toolchain, default, tmp_path
):
    """kconfig drops it without a word; we say which symbol it needs."""
    fragment = tmp_path / "impossible.config"
    fragment.write_text("CONFIG_X86_VSMP=y\nCONFIG_PARAVIRT_XXL=y\nCONFIG_NO_SUCH=y\n")
    impossible = Variant("impossible", Platform.VSMP, (fragment,))
    with pytest.raises(UserError) as caught:
        kbuild.build(engine, default, impossible, toolchain, Store(tmp_path))
    text = caught.value.message
    assert "impossible.config:1: CONFIG_X86_VSMP=y: unmet dependency" in text
    assert "X86_EXTENDED_PLATFORM is not set" in text
    assert (
        "CONFIG_PARAVIRT_XXL=y: nobody can set it: it is selected only by XEN_PV"
        in text
    )
    assert "CONFIG_NO_SUCH=y: no such symbol in this tree" in text


def test_a_tree_that_does_not_compile_is_quoted(engine, toolchain, default, tmp_path):
    """The compiler's first error is in the message, and the log is kept."""
    source = tmp_path / "linux"
    tmp_path.chmod(0o755)
    linked = ["cp", "-al", str(default.source), str(source)]
    if run.run(linked, timeout_s=300).returncode:  # another file system
        run.check(["cp", "-a", str(default.source), str(source)], timeout_s=300)
    broken = source / "kernel/bounds.c"  # the first file that kbuild compiles
    text = broken.read_text()
    broken.unlink()
    broken.write_text(f"{text}\nint broken(void) {{ return 0 }}\n")
    tree = replace(default, source=source, digest="broken")
    native = variant(Platform.NATIVE, "small")
    with pytest.raises(BuildError, match=r"kernel/bounds\.c:\d+:\d+: error: expected"):
        kbuild.build(engine, tree, native, toolchain, Store(tmp_path / "store"))

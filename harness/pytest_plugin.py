"""The pytest plugin: kernels as fixtures, one item per object and check.

    pytest --kernel-artifacts DIR            a kernel that is built already
    pytest --kernel-tree TREE --kernel-variant xen   build it first (once)

``--artifacts`` is the same where no other option has that name.

A test that takes ``kernel_object`` becomes one item per file of each kernel, one
that takes ``kernel`` an item per kernel, in a stable order. The build happens once,
before collection, in the process that people started; xdist's workers get its paths.
Of a tree that was built before only what was edited is built.

The suite of the harness (``tests/kernel``) uses nothing but what is here, and so can
anybody's:

    def test_mine(kernel_object, orc_verdict, fail_on_new):
        fail_on_new(orc_verdict.findings)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from harness import artifacts, baseline, cache, kernel_build
from harness.errors import HarnessError, UserError
from harness.finding import Finding, group_by_cause
from harness.progress import Progress, silent
from harness.variant import Platform

if TYPE_CHECKING:
    from harness.boot.initramfs import Toolbox
    from harness.verify.verdict import Checked, Verdict

_ARTIFACTS = pytest.StashKey[tuple["Kernel", ...]]()
PROGRESS_INTERVAL_S = 10.0
MARKERS = (
    "build: builds a kernel, or judges what its build said",
    "static: reads artifacts only",
    "boot: boots a kernel under QEMU",
)
_ARTIFACTS_OPTION: dict[str, Any] = {
    "dest": "kernel_artifacts",
    "action": "append",
    "default": [],
    "metavar": "DIR",
    "help": "a kernel build (repeatable): vmlinux, modules, bzImage",
}
FailOnNew = Callable[..., None]
NEEDS = (
    "kernel suite: needs --kernel-artifacts DIR (a kernel build), or --kernel-tree TREE "
    "[--kernel-variant native|kvm|xen|vsmp] to build one"
)


class Kernel(Struct, frozen=True):
    """One kernel under test: its variant's name, platform and files."""

    name: str
    platform: Platform
    build: kernel_build.KernelBuild


class KernelObject(Struct, frozen=True):
    """One file of a kernel under test."""

    kernel: Kernel
    path: Path

    @property
    def name(self) -> str:
        """Its path below the build, or its file name."""
        root = self.kernel.build.root
        inside = self.path.is_relative_to(root) and self.path != root
        return str(self.path.relative_to(root)) if inside else self.path.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say which kernel is tested."""
    group = parser.getgroup("orc-harness", "kernels under test")
    group.addoption("--kernel-artifacts", **_ARTIFACTS_OPTION)
    group.addoption(
        "--kernel-tree",
        metavar="TREE",
        help="kernel source to build first; 'default' is Debian's linux-source",
    )
    group.addoption(
        "--kernel-variant",
        action="append",
        default=[],
        choices=[platform.value for platform in Platform],
        help="variant to build from --kernel-tree (repeatable; default: all)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Iterator[None]:
    """Add the short name of an option, unless a suite has one of that name."""
    yield
    if _is_free("--artifacts", parser):
        group = parser.getgroup("orc-harness")
        group.addoption("--artifacts", **_ARTIFACTS_OPTION)


def _is_free(option: str, parser: pytest.Parser) -> bool:
    try:
        _, unknown = parser.parse_known_and_unknown_args([option])
    except pytest.UsageError:  # somebody knows it, and wants a value
        return False
    return option in unknown


def pytest_configure(config: pytest.Config) -> None:
    """Make the suite's marks known."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Build what is asked for, once: workers get the paths from the controller."""
    config = session.config
    worker = getattr(config, "workerinput", None)
    try:
        if worker is not None:
            pairs = worker["orc_harness_artifacts"]
        else:
            pairs = _requested(config)
        config.stash[_ARTIFACTS] = tuple(
            Kernel(name, Platform(platform), kernel_build.find(Path(path)))
            for name, platform, path in pairs
        )
    except HarnessError as exc:
        raise pytest.UsageError(str(exc)) from exc


def _requested(config: pytest.Config) -> list[tuple[str, str, str]]:
    """Return name, platform and directory of each kernel, once."""
    found = {**_given(config), **_built(config)}
    if not found and (variants := config.getoption("--kernel-variant")):
        raise UserError(
            f"--kernel-variant {variants[0]} is of no kernel",
            hint="name a tree with --kernel-tree, or a build with --kernel-artifacts",
        )
    names = kernel_build.told_apart({path: name for path, (name, _) in found.items()})
    return [(names[path], platform, str(path)) for path, (_, platform) in found.items()]


def _given(config: pytest.Config) -> dict[Path, tuple[str, str]]:
    variants = config.getoption("--kernel-variant")
    paths = (Path(given).absolute() for given in config.getoption("--kernel-artifacts"))
    return {path: _described(path, variants) for path in paths}


def _built(config: pytest.Config) -> dict[Path, tuple[str, str]]:
    tree = config.getoption("--kernel-tree")
    if tree is None:
        return {}
    variants = config.getoption("--kernel-variant")
    cache.hold()
    from harness import matrix  # what builds is loaded on demand

    request = matrix.Request(platforms=tuple(map(Platform, variants or Platform)))
    board = _board(config)
    if tree == "default":
        made, _ = matrix.build_variants(request, board)
    else:
        made = matrix.build_edited(request, Path(tree), board)
    return {
        each.directory: (each.manifest.variant, each.manifest.platform) for each in made
    }


def _board(config: pytest.Config) -> Callable[[str], Progress]:
    """Return what opens progress lines: one in ten seconds, in pytest's terminal."""
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return lambda _: silent
    writer = config.get_terminal_writer()
    printed = -PROGRESS_INTERVAL_S

    def open_line(name: str) -> Progress:
        def line(what: str, done: int = 0, total: int | None = None) -> None:
            nonlocal printed
            if time.monotonic() - printed >= PROGRESS_INTERVAL_S:
                printed = time.monotonic()
                writer.line(f"{name}: {what}" + (f" {done}/{total}" if total else ""))

        return line

    return open_line


def _described(path: Path, variants: Sequence[str]) -> tuple[str, str]:
    """Return name and platform of a build: of its manifest if it is one of ours."""
    if (path / artifacts.MANIFEST).exists():
        manifest = artifacts.load(path).manifest
        return manifest.variant, manifest.platform
    return path.name, variants[0] if variants else Platform.NATIVE.value


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the kernels on to an xdist worker."""
    kernels = node.config.stash[_ARTIFACTS]  # type: ignore[attr-defined]
    node.workerinput["orc_harness_artifacts"] = [  # type: ignore[attr-defined]
        (kernel.name, kernel.platform.value, str(kernel.build.root))
        for kernel in kernels
    ]


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """Say which kernels are tested."""
    return [
        f"kernel {kernel.name}: {kernel.build.root} ({len(kernel.build.files)} files)"
        for kernel in config.stash.get(_ARTIFACTS, ())
    ]


def pytest_report_collectionfinish(items: Sequence[pytest.Item]) -> Sequence[str]:
    """Say what is needed, where there are items that wait for it."""
    return [NEEDS] if any(map(_waits, items)) else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make an item per kernel, or per object of each.

    Under names that only fixtures of ours ask for: an argument ``kernel`` that
    somebody else provides is theirs.
    """
    kernels = metafunc.config.stash.get(_ARTIFACTS, ())
    if not kernels:
        return
    if "orc_object" in metafunc.fixturenames:
        objects = [
            KernelObject(kernel, path)
            for kernel in kernels
            for path in kernel.build.files
        ]
        ids = [f"{found.kernel.name}-{found.name}" for found in objects]
        metafunc.parametrize("orc_object", objects, ids=ids)
    elif "orc_kernel" in metafunc.fixturenames:
        metafunc.parametrize("orc_kernel", kernels, ids=[k.name for k in kernels])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say in JUnit's properties what an item is about; skip it if that is missing."""
    if _waits(item):
        pytest.skip(NEEDS)
    params = _params(item)
    found = params.get("orc_object")
    kernel = found.kernel if found else params.get("orc_kernel")
    if kernel is None:
        return
    platform = params.get("platform")  # a view is of one, whatever the kernel is for
    if not isinstance(platform, Platform):
        platform = kernel.platform
    about = {"kernel": kernel.name, "platform": platform.value}
    about["build"] = str(kernel.build.root)
    if found:
        about["object"] = found.name
    item.user_properties.extend(about.items())


def _waits(item: pytest.Item) -> bool:
    """Tell whether an item is for a kernel, and nobody named one."""
    asked = {"orc_object", "orc_kernel"}.intersection(getattr(item, "fixturenames", ()))
    return bool(asked) and not item.config.stash.get(_ARTIFACTS, ())


def _params(item: pytest.Item) -> Mapping[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def _validation(item: pytest.Item) -> str:
    """Return the command that validates what an item is about, if that is ours."""
    params = _params(item)
    if found := params.get("orc_object"):
        return f"orc-harness validate {found.path}"
    if kernel := params.get("orc_kernel"):
        return f"orc-harness validate {kernel.build.root}"
    return ""


@pytest.fixture
def kernel(orc_kernel: Kernel) -> Kernel:
    """A kernel under test: an item for each."""
    return orc_kernel


@pytest.fixture
def kernel_object(orc_object: KernelObject) -> KernelObject:
    """A file of a kernel under test: an item for each of every kernel."""
    return orc_object


@pytest.fixture(scope="session")
def known_findings() -> tuple[baseline.Known, ...]:
    """The baseline, read once: an item per object and check would read it each."""
    try:
        return baseline.load_all(())
    except HarnessError as exc:
        pytest.fail(f"ERROR: no baseline: {exc}", pytrace=False)


@pytest.fixture
def fail_on_new(
    request: pytest.FixtureRequest, known_findings: tuple[baseline.Known, ...]
) -> FailOnNew:
    """Fails the test with those of some findings that the baseline does not know.

    Called with findings, and with the command that shows them again: without one it
    is what validates the item's file, or kernel.
    """
    again = _validation(request.node)

    def fail(found: Iterable[Finding], reproduce: str = again) -> None:
        __tracebackhide__ = True
        from harness.report import text

        today = datetime.now(UTC).date()
        grouped = group_by_cause(found)
        new, known = baseline.split(grouped, known_findings, today)
        told = request.node.user_properties
        told += [("known finding", finding.key) for finding in known]
        if not new:
            return
        told += [("finding", finding.key) for finding in new]
        shown = ["\n".join(text.lines(finding)) for finding in new]
        if reproduce:
            told.append(("reproduce", reproduce))
            shown.append(f"reproduce: {reproduce}")
        pytest.fail("\n\n".join(shown), pytrace=False)

    return fail


@pytest.fixture
def orc_verdict(kernel_object: KernelObject) -> Verdict:
    """The verdict on one file's ORC table; computed once per file, and kept.

    A file that cannot be read fails the test with the reason.
    """
    checked = _checked(kernel_object.path, kernel_object.kernel.build)
    if checked.verdict is None:
        pytest.fail(f"ERROR: no verdict: {checked.error}", pytrace=False)
    return checked.verdict


@functools.cache
def _checked(path: Path, build: kernel_build.KernelBuild) -> Checked:
    from harness.elf.feature import parse_cpufeatures
    from harness.verify.many import Given, check_many

    header = build.cpufeatures
    names = None if header is None else parse_cpufeatures(header.read_text())
    kernel = next(iter(build.kernels), None)
    # another worker that wants the same waits, and finds it in the archive
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    lock = cache.cache_dir() / "pytest" / f"{name}.lock"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a cache of somebody else's, or a full one
            stack.enter_context(cache.locked(lock))
        (checked,) = check_many([path], given=Given(names), kernel=kernel)
    return checked


@pytest.fixture(scope="session")
def kernel_toolbox() -> Iterator[Toolbox]:
    """What machines are made with: an engine and the machine image."""
    from harness.boot.initramfs import Toolbox
    from harness.container import image
    from harness.container.engine import connect

    try:
        with connect() as engine:
            yield Toolbox(engine, image.ensure(engine, image.machine()).tag)
    except HarnessError as exc:
        pytest.fail(f"ERROR: no machine: {exc}", pytrace=False)

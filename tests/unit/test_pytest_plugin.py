"""The plugin: options become items, and a plain run says what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness.data import FINDINGS as DOCS
from harness.report.rules import read_rules
from tests.builders.elfwriter import ElfWriter
from tests.builders.site import XENPV, Replacement, sites_of
from tests.kernel.test_orc import GROUPS

# Groups that other items are for, and the one that takes --dwarf to be looked at.
OTHERS = {"boot", "readback", "runtime", "shadow", "dwarf"}
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environ: str) -> str:
    return run_in(ROOT, "-rs", "-v", "tests/kernel", *arguments, **environ)


def run_in(root: Path, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=root,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_plain_run_says_what_it_needs() -> None:
    """No kernel: every item is skipped for that reason, and it is said before."""
    said = run()

    assert said.count("needs --kernel-artifacts DIR") >= 2
    assert "passed" not in said


def test_every_object_and_group_of_rules_is_an_item(tmp_path: Path) -> None:
    """Stable ids: kernel, object, rules."""
    for name in ("a.ko", "b.ko"):
        (tmp_path / name).write_bytes(ElfWriter().build())

    said = run("--kernel-artifacts", str(tmp_path), "-m", "static")

    for name in ("a.ko", "b.ko"):
        for rules in GROUPS:
            assert f"test_orc[{tmp_path.name}-{name}-{rules}] PASSED" in said


def test_no_rule_falls_between_the_groups() -> None:
    """Every rule that has a section in docs/findings.md is some item's."""
    rules = [name for name in read_rules(DOCS.read_text()) if "/" in name]

    assert {name.partition("/")[0] for name in rules} == OTHERS | {*GROUPS}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_see_the_same_items(tmp_path: Path, workers: str) -> None:
    """xdist splits them: what is to be tested is found out once."""
    (tmp_path / "a.ko").write_bytes(ElfWriter().build())

    said = run("--kernel-artifacts", str(tmp_path), "-m", "static", "-n", workers)

    assert f"{len(GROUPS)} passed" in said


def test_a_directory_without_a_kernel_is_a_usage_error(tmp_path: Path) -> None:
    """One line and its remedy, before collection."""
    said = run("--kernel-artifacts", str(tmp_path))

    assert "has no vmlinux" in said
    assert "Traceback" not in said


def test_a_variant_of_nothing_is_a_usage_error() -> None:
    """Not a run that skips all, and succeeds."""
    said = run("--kernel-variant", "xen")

    assert "--kernel-variant xen is of no kernel" in said
    assert "skipped" not in said


@pytest.mark.parametrize("options", [["-v"], ["-p", "no:terminal"]])
def test_a_build_that_cannot_start_is_a_usage_error(options: list[str]) -> None:
    """It is asked for before collection, and ends the run with its reason."""
    asked = ["tests/kernel", "--kernel-tree", "default", *options]
    said = run_in(ROOT, *asked, DOCKER_HOST="unix:///nowhere.sock")

    assert "daemon answers" in said
    assert "INTERNALERROR" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("question", ["--markers", "--help"])
def test_who_only_asks_builds_nothing(tmp_path: Path, question: str) -> None:
    """Marks and options are told, whatever tree is named."""
    said = run(question, f"--kernel-tree={tmp_path}")

    assert "no kernel tree" not in said
    assert "usage: " in said or "boots a kernel under QEMU" in said


SOMEBODYS = """
import pytest

@pytest.mark.static
def test_mine(kernel_object, orc_verdict, fail_on_new):
    fail_on_new(orc_verdict.findings, f"see {kernel_object.name}")
"""


COUNTING = """
from harness import baseline

read = baseline.load_all

def counted(extra=()):
    print("the baseline is read")
    return read(extra)

baseline.load_all = counted
"""


@pytest.fixture
def somebodys(tmp_path: Path) -> Path:
    """A test suite of somebody else's, strict about markers, and two objects."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    (tmp_path / "test_somebodys.py").write_text(SOMEBODYS)
    call_pv_ops = bytes.fromhex("ff1500000000")
    pushf_pop = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
    (tmp_path / "built").mkdir()
    (tmp_path / "built/bad.ko").write_bytes(
        sites_of([(call_pv_ops, [pushf_pop])]).build()
    )
    (tmp_path / "built/good.ko").write_bytes(ElfWriter().build())
    return tmp_path


def properties_in(junit: Path) -> dict[tuple[str, str], str]:
    """Return the properties of JUnit's cases, by the names of both."""
    return {
        (case.get("name", ""), item.get("name", "")): item.get("value", "")
        for case in ElementTree.parse(junit).getroot().iter("testcase")
        for item in case.iter("property")
    }


def test_a_baseline_that_cannot_be_read(somebodys: Path) -> None:
    """Its file and no traceback, in each item that asks what is known."""
    entry = somebodys / "known" / "x.toml"
    entry.mkdir(parents=True)

    said = run_in(
        somebodys, "--artifacts", "built", ORC_HARNESS_KNOWN=str(entry.parent)
    )

    assert f"ERROR: no baseline: cannot read {entry}" in said
    assert "pytest_plugin.py" not in said
    assert "passed" not in said


def test_it_serves_a_suite_of_somebody_elses(somebodys: Path) -> None:
    """What fails shows the window and the command; JUnit has it as properties."""
    xml = somebodys / "junit.xml"
    said = run_in(somebodys, "-v", "--kernel-artifacts", "built", f"--junit-xml={xml}")

    assert "test_somebodys.py::test_mine[built-bad.ko] FAILED" in said
    assert "test_somebodys.py::test_mine[built-good.ko] PASSED" in said
    assert "replacement 1 not XENPV         ORC" in said
    assert "reproduce: see bad.ko" in said
    properties = properties_in(xml)
    assert properties["test_mine[built-good.ko]", "platform"] == "native"
    assert properties["test_mine[built-bad.ko]", "object"] == "bad.ko"
    assert properties["test_mine[built-bad.ko]", "reproduce"] == "see bad.ko"
    assert properties["test_mine[built-bad.ko]", "finding"].startswith("alternative/")


VIEWS = """
import pytest

from harness.variant import Platform

@pytest.mark.parametrize("platform", [Platform.XEN, "somebody's"])
def test_view(kernel, platform):
    pass
"""


def test_a_view_has_its_own_platform(somebodys: Path) -> None:
    """In JUnit's properties, as in its id; a word of somebody else's is none."""
    (somebodys / "test_somebodys.py").write_text(VIEWS)
    xml = somebodys / "junit.xml"

    run_in(somebodys, "--kernel-artifacts=built", f"--junit-xml={xml}")

    properties = properties_in(xml)
    assert properties["test_view[built-xen]", "platform"] == "xen"
    assert properties["test_view[built-somebody's]", "platform"] == "native"


FOREIGN = """
import pytest

class TestFixture:
    @pytest.fixture
    def kernel(self):
        return "rbf"

    def test_it(self, kernel):
        assert kernel == "rbf"

class TestParams:
    @pytest.fixture(params=["rbf", "linear"])
    def kernel(self, request):
        return request.param

    def test_it(self, kernel):
        assert kernel in ("rbf", "linear")

@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_marked(kernel):
    assert kernel in ("rbf", "linear")

def test_hooked(kernel):
    assert kernel == "hooked"
"""


HOOKED = """
def pytest_generate_tests(metafunc):
    if metafunc.function.__name__ == "test_hooked":
        metafunc.parametrize("kernel", ["hooked"])
"""


@pytest.mark.parametrize("options", [[], ["--kernel-artifacts=built"]])
def test_an_argument_of_somebody_elses_is_theirs(
    somebodys: Path, options: list[str]
) -> None:
    """A `kernel` that other fixtures, marks or hooks provide is not touched."""
    (somebodys / "conftest.py").write_text(HOOKED)
    (somebodys / "test_foreign.py").write_text(FOREIGN)

    said = run_in(somebodys, "-v", "test_foreign.py", *options)

    assert "6 passed" in said
    assert "skipped" not in said


OPTION = """
def pytest_addoption(parser):
    parser.addoption("--artifacts", default="theirs")
"""


@pytest.mark.parametrize("given", ["theirs", "mine"])
def test_an_option_of_somebody_elses_is_theirs(somebodys: Path, given: str) -> None:
    """An `--artifacts` of a suite takes its argument, and ours has another name."""
    (somebodys / "conftest.py").write_text(OPTION)
    (somebodys / "test_foreign.py").write_text(
        "def test_it(pytestconfig):\n"
        f"    assert pytestconfig.getoption('artifacts') == {given!r}\n"
    )

    said = run_in(
        somebodys,
        f"--artifacts={given}",
        "--kernel-artifacts=built",
        "-k",
        "it or good",
    )

    assert "2 passed" in said


@pytest.mark.parametrize("option", [["--artifacts", "built"], ["--artifacts=built"]])
def test_the_short_name_is_ours_where_it_is_free(
    somebodys: Path, option: list[str]
) -> None:
    """Before the directory, or joined to it."""
    assert "1 failed, 1 passed" in run_in(somebodys, *option)


def test_who_tests_no_kernel_is_told_nothing(tmp_path: Path) -> None:
    """The plugin is installed, and not used."""
    (tmp_path / "test_foreign.py").write_text("def test_it(): pass")

    said = run_in(tmp_path)

    assert "1 passed" in said
    assert "kernel suite" not in said


UNTOLD = """
import pytest

def test_object(kernel_object, orc_verdict, fail_on_new):
    fail_on_new(orc_verdict.findings)

@pytest.fixture
def verdicts(kernel):
    from harness.verify.many import check_many
    return [checked.verdict for checked in check_many(kernel.build.files)]

def test_kernel(verdicts, fail_on_new):
    fail_on_new(finding for verdict in verdicts for finding in verdict.findings)
"""


def test_a_failure_has_a_command_without_being_told(somebodys: Path) -> None:
    """What validates the item's file, or its kernel."""
    (somebodys / "test_somebodys.py").write_text(UNTOLD)
    xml = somebodys / "junit.xml"

    said = run_in(somebodys, "--kernel-artifacts=built", f"--junit-xml={xml}")

    built = somebodys / "built"
    assert f"reproduce: orc-harness validate {built}/bad.ko\n" in said
    assert f"reproduce: orc-harness validate {built}\n" in said
    told = properties_in(xml)
    assert told["test_object[built-bad.ko]", "reproduce"].endswith("/built/bad.ko")
    assert told["test_kernel[built]", "reproduce"].endswith("/built")


def test_the_last_failed_are_run_again(somebodys: Path) -> None:
    """Ids are stable, with workers and without."""
    run_in(somebodys, "--kernel-artifacts", "built", "-n", "2")
    said = run_in(somebodys, "-v", "--kernel-artifacts", "built", "--lf")

    assert "1 failed" in said
    assert "passed" not in said


def test_the_baseline_is_read_once(somebodys: Path) -> None:
    """Not by each item: a kernel has hundreds, and the baseline a file per entry."""
    (somebodys / "conftest.py").write_text(COUNTING)

    said = run_in(somebodys, "-s", "--kernel-artifacts", "built")

    assert "1 failed, 1 passed" in said
    assert said.count("the baseline is read") == 1


@pytest.fixture
def twins(somebodys: Path) -> Path:
    """Two builds in directories of the same name, and a suite for them."""
    for name in ("x", "y"):
        (somebodys / name / "build").mkdir(parents=True)
        (somebodys / name / "build/a.ko").write_bytes(ElfWriter().build())
    return somebodys


def test_builds_of_one_name_are_told_apart(twins: Path) -> None:
    """By their paths, whatever the order."""
    for order in (("x", "y"), ("y", "x")):
        given = [f"--kernel-artifacts={name}/build" for name in order]
        said = run_in(twins, "-v", *given)

        for name in order:
            assert f"test_mine[{twins}/{name}/build-a.ko] PASSED" in said


def test_a_build_that_is_named_twice_is_tested_once(twins: Path) -> None:
    """However it is spelled, under the name that it has alone."""
    given = ("x/build", f"{twins}/x/build/")
    said = run_in(twins, "-v", *(f"--kernel-artifacts={path}" for path in given))

    assert "test_mine[build-a.ko] PASSED" in said
    assert "1 passed" in said


def test_one_is_chosen_by_name(somebodys: Path) -> None:
    """-k takes an object, as it takes any id."""
    said = run_in(somebodys, "--kernel-artifacts", "built", "-k", "good")

    assert "1 passed, 1 deselected" in said

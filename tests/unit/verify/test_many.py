"""Files in numbers: in parallel, in order, errors in their place, none done twice."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.elf.feature import Features
from harness.errors import FormatError
from harness.finding import number
from harness.verify import archive
from harness.verify.kernel import Kernel
from harness.verify.many import (
    Given,
    Group,
    check_file,
    check_group,
    check_many,
    group,
)
from harness.verify.verdict import Checked, Verdict
from tests.builders.elfwriter import ALLOC, EXEC, ElfWriter, add_orc, call
from tests.builders.site import XENPV, Replacement, Site, sites_of


def object_bytes(state: int = 8, **sections: bytes) -> bytes:
    """A small object as a file, ``sections`` besides; it is clean in state 8."""
    writer = ElfWriter()
    for name, data in sections.items():
        writer.section(name, data, flags=0)
    text = writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 1)
    add_orc(writer, text, [(0, call(state)), (1, replace(call(0), type=0, sp_reg=0))])
    return writer.build()


def test_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are checked in parallel; a bad one is an error in its place."""
    monkeypatch.setattr("harness.verify.many.WORTH_PROCESSES", 0)
    monkeypatch.setattr("harness.verify.many.GROUP_BYTES", 0)
    for n in range(9):
        (tmp_path / f"{n}.o").write_bytes(object_bytes())
    (tmp_path / "bad.o").write_bytes(b"not an ELF file")
    paths = [*tmp_path.iterdir(), tmp_path / "0.o"]
    results = check_many(reversed(paths), jobs=2)
    assert [p.name for r in results for p in r.paths] == [
        *(f"{n}.o" for n in range(9)),
        "bad.o",
    ]
    assert isinstance(results[-1].error, FormatError)
    assert results[-1].verdict is None
    assert all(r.verdict and not r.verdict.findings for r in results[:-1])


def test_one_job_is_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for one job gets one, of several files as of one."""
    asked = []

    def checked(paths: Group, _given: Given, threads: int | None) -> list[Checked]:
        asked.append(threads)
        return [Checked(paths, Verdict((), {}, (), 0.0))]

    monkeypatch.setattr("harness.verify.many.check_group", checked)
    monkeypatch.setattr("harness.verify.many.GROUP_BYTES", 0)
    for n in range(2):
        (tmp_path / f"{n}.o").write_bytes(object_bytes())
    check_many(tmp_path.iterdir(), jobs=1, archived=False)
    assert asked == [1, 1]


def test_missing_file_is_an_error_result(tmp_path: Path) -> None:
    """A path that is not there does not stop the others."""
    (result,) = check_many([tmp_path / "gone.o"])
    assert result.error is not None


def test_small_modules_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one name only one each; what is large, or no module, is alone."""
    monkeypatch.setattr("harness.verify.many.GROUP_BYTES", 10)
    sizes = {
        "a/core.ko": 4,
        "a/large.ko": 11,
        "a/main.ko.xz": 4,
        "b/core.ko": 4,
        "b/next.ko": 4,
        "b/other.ko": 4,
        "vmlinux": 4,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))

    groups = group(tmp_path / name for name in sizes)

    assert [[str(p.relative_to(tmp_path)) for p in some] for some in groups] == [
        ["vmlinux"],
        ["a/large.ko"],
        ["a/core.ko", "a/main.ko.xz"],
        ["b/core.ko", "b/next.ko"],
        ["b/other.ko"],
    ]


def some_modules(tmp_path: Path) -> list[Path]:
    """Write a clean module, two with a finding, and one without ORC."""
    paths = []
    for name, state in {"clean": 8, "wrong": 16, "bad": 24}.items():
        path = tmp_path / f"{name}.ko"
        path.write_bytes(object_bytes(state))
        paths.append(path)
    (tmp_path / "data.ko").write_bytes(ElfWriter().build())
    return [*paths, tmp_path / "data.ko"]


def test_together_is_as_alone(tmp_path: Path) -> None:
    """The same findings, at the same places, and as many things looked at."""
    paths = some_modules(tmp_path)
    alone = [check_file(path).verdict for path in paths]

    together, data = check_group(tuple(paths))

    assert [path.name for path in together.paths] == ["clean.ko", "wrong.ko", "bad.ko"]
    assert data.paths == (tmp_path / "data.ko",)
    assert together.verdict is not None
    total: Counter[str] = Counter()
    findings = []
    for verdict in alone:
        assert verdict is not None
        total.update(verdict.counts)
        findings += verdict.findings
    assert together.verdict.counts == total
    assert findings
    assert [*together.verdict.findings] == [*number(findings)]


ONE = (bytes.fromhex("ff1500000000"), [Replacement(b"\xfa", XENPV, flags=1)])
OTHER = (ONE[0], [Replacement(b"\xfa", XENPV)])
LONGER = (ONE[0] + b"\x31\xc0", ONE[1])
MACROS = (ONE, ONE, OTHER, LONGER)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(MACROS), min_size=1, max_size=5), max_size=4))
def test_no_module_is_a_witness_for_another(sites: list[list[Site]]) -> None:
    """Sites of one macro in many modules: the verdict on each is that on it alone."""
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for nth, some in enumerate([[ONE], *sites]):
            paths.append(Path(directory) / f"m{nth}.ko")
            paths[-1].write_bytes(sites_of(some).build())
        alone = [one for path in paths if (one := check_file(path).verdict)]

        (together,) = check_group(tuple(paths))

    assert together.verdict is not None
    total: Counter[str] = Counter()
    for verdict in alone:
        total.update(verdict.counts)
    findings = number(f for verdict in alone for f in verdict.findings)
    assert together.verdict.counts == total
    assert [*together.verdict.findings] == [*findings]


def test_the_kernel_is_asked_once(tmp_path: Path) -> None:
    """What it tells of its modules is kept, and counts for modules alone."""
    kernel, module = tmp_path / "vmlinux", tmp_path / "some.ko"
    kernel.write_bytes(sites_of([ONE] * 20).build())
    module.write_bytes(sites_of([OTHER]).build())
    rules = []
    for _ in range(2):
        of_module, of_kernel = check_many([kernel, module], kernel=kernel)
        assert of_module.verdict is not None
        assert of_kernel.verdict is not None
        assert of_kernel.verdict.counts["conditions witnessed"] == 20
        rules += [finding.rule for finding in of_module.verdict.findings]
    assert of_module.verdict.cached

    kernel.write_bytes(sites_of([ONE] * 2).build())
    of_module, _ = check_many([kernel, module], kernel=kernel)

    assert rules == ["alternative/condition"] * 2
    assert of_module.verdict is not None
    assert of_module.verdict.findings == ()


def test_a_bad_module_does_not_spoil_its_group(tmp_path: Path) -> None:
    """The others are validated as if it was not there."""
    paths = some_modules(tmp_path)
    paths[0].write_bytes(b"not an ELF file")

    results = check_many(paths)

    errors = {one.paths[0].name: one.error for one in results}
    assert isinstance(errors.pop("clean.ko"), FormatError)
    assert not any(errors.values())
    assert len(results) == len(paths)
    reasons = {one.verdict.alone for one in results if one.verdict}
    assert all("clean.ko: not an ELF file" in reason for reason in reasons)


def test_a_group_is_answered_from_the_archive(tmp_path: Path) -> None:
    """All of it, those that were alone in it too, until one of them changes."""
    paths = some_modules(tmp_path)

    first, second = check_many(paths), check_many(paths)
    paths[0].write_bytes(object_bytes(32))
    third = check_many(paths)

    assert [one.paths for one in first] == [one.paths for one in second]
    for results, cached in ((first, False), (second, True), (third, False)):
        assert {one.verdict and one.verdict.cached for one in results} == {cached}


def test_truncated_file(tmp_path: Path) -> None:
    """Half a file is an error, never a traceback, wherever it ends."""
    data = object_bytes()
    rng = random.Random(7)
    path = tmp_path / "half.o"
    for size in [0, 3, 63, *(rng.randrange(len(data)) for _ in range(40))]:
        path.write_bytes(data[:size])
        result = check_file(path)
        assert (result.error is None) != (result.verdict is None)


def stored(tmp_path: Path, **sections: bytes) -> Path:
    """Write a clean object with ``sections`` besides."""
    path = tmp_path / "core.ko"
    path.write_bytes(object_bytes(**sections))
    return path


def test_what_is_unchanged_is_answered_from_the_archive(tmp_path: Path) -> None:
    """The second verdict is the first one, and says where it is from."""
    path = stored(tmp_path)

    (first,), (second,) = check_many([path]), check_many([path])

    assert first.verdict is not None
    assert not first.verdict.cached
    assert second == Checked((path,), replace(first.verdict, cached=True))


def changed_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    data = path.read_bytes()
    at = data.index(b"\xc3")
    path.write_bytes(data[:at] + b"\xcc" + data[at + 1 :])
    return Given()


def changed_annotation(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    stored(path.parent, **{".discard.hints": b"2"})
    return Given()


def changed_features(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(Features({1: "SOME"}, 20, "test"))


def changed_kernel(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(kernel=Kernel(conditions=((1, 2, 3),)))


def changed_decoder(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    monkeypatch.setenv("ORC_HARNESS_DECODER", "capstone")
    return Given()


def changed_us(path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    monkeypatch.setattr(archive, "code_version", lambda: "another")
    return Given()


@pytest.mark.parametrize(
    "change",
    [
        changed_code,
        changed_annotation,
        changed_features,
        changed_decoder,
        changed_kernel,
        changed_us,
    ],
)
def test_what_a_verdict_depends_on_is_in_its_key(
    tmp_path: Path, change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bytes, other knowledge or another program of ours: a verdict anew."""
    path = stored(tmp_path, **{".discard.hints": b"1"})
    check_many([path])

    (again,) = check_many([path], given=change(path, monkeypatch))

    assert again.verdict is not None
    assert not again.verdict.cached


def test_a_file_of_another_name_has_a_verdict_of_its_own(tmp_path: Path) -> None:
    """Its findings say that name."""
    path = stored(tmp_path)
    check_many([path])
    other = path.rename(tmp_path / "other.ko")

    (checked,) = check_many([other])

    assert checked.verdict is not None
    assert not checked.verdict.cached


def test_debug_information_is_not_in_the_key(tmp_path: Path) -> None:
    """It is most of a production kernel, and no verdict reads it."""
    check_many([stored(tmp_path, **{".debug_info": b"one"})])

    (again,) = check_many([stored(tmp_path, **{".debug_info": b"two"})])

    assert again.verdict is not None
    assert again.verdict.cached


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"cut", b"flip"])
def test_a_damaged_entry_is_recomputed(
    tmp_path: Path, cache: Path, damage: bytes
) -> None:
    """A file cut short, zeroed or flipped by a bad disk is as good as none."""
    path = stored(tmp_path)
    check_many([path])
    (entry,) = (file for file in cache.rglob("*") if file.is_file())
    data = entry.read_bytes()
    damages = {b"cut": data[:-9], b"flip": data[:-9] + b"\xff" + data[-8:]}
    entry.write_bytes(damages.get(damage, damage))

    (again,), (healed,) = check_many([path]), check_many([path])

    assert again.verdict is not None
    assert not again.verdict.cached
    assert healed.verdict is not None
    assert healed.verdict.cached


def test_without_the_archive_nothing_is_kept(tmp_path: Path, cache: Path) -> None:
    """--no-cache neither reads nor writes."""
    path = stored(tmp_path)

    for _ in range(2):
        (checked,) = check_many([path], archived=False)
        assert checked.verdict is not None
        assert not checked.verdict.cached
    assert not any(cache.iterdir())


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, cache: Path) -> None:
    """Verdicts are given, and not kept."""
    (cache / "verdicts").write_text("in the way")

    (checked,) = check_many([stored(tmp_path)])

    assert checked.error is None


def test_old_versions_are_forgotten(tmp_path: Path, cache: Path, monkeypatch) -> None:
    """The archive does not grow with every change of ours."""
    path = stored(tmp_path)
    for version in range(archive.KEPT_VERSIONS + 2):
        monkeypatch.setattr(archive, "code_version", lambda v=version: f"v{v}")
        check_many([path])

    assert len(list((cache / "verdicts").iterdir())) == archive.KEPT_VERSIONS

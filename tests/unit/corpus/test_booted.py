"""Boots of other versions and mitigations: which they are, and what each has to say."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.container.image import Image
from harness.corpus import booted
from harness.corpus.booted import Boot, build_of, chosen, judge
from harness.errors import FormatError
from harness.progress import silent
from harness.result import Status
from harness.stages import runtime
from harness.variant import Platform
from tests.builders.machines import ScriptedEngine
from tests.builders.results import stage
from tests.unit.stages.test_shadow import BOOTED

FINEIBT = Boot("mine", "6.12-clang-kcfi", append="cfi=fineibt", says="FineIBT CFI")


def test_the_boots_that_are_listed() -> None:
    """Three series on bare metal and on Xen; mitigations and CFI at night."""
    boots = chosen("", nightly=True)

    always = {(one.build, one.platform) for one in boots if not one.nightly}
    assert always == {
        (build, platform)
        for build in ("5.10-gcc10", "6.1-gcc12", "7.2-sid")
        for platform in (Platform.NATIVE, Platform.XEN)
    }
    assert {one.build for one in boots if one.nightly} >= {
        "6.12-clang-kcfi",
        "6.12-gcc12-full",
    }
    for build in ("5.10-gcc10", "6.1-gcc12", "6.12-clang-kcfi", "6.12-gcc12-full"):
        everywhere = {one.platform for one in boots if one.build == build}
        assert everywhere == set(Platform)
    assert {one.cpu for one in boots} >= {"EPYC", "Skylake-Client"}


@pytest.mark.parametrize("boot", chosen("", nightly=True), ids=lambda one: one.name)
def test_every_boot_has_a_build(boot: Boot) -> None:
    """Made for a platform that boots where it does."""
    build = build_of(boot)

    assert build.name == boot.name
    assert build.variant.platform in (boot.platform, Platform.XEN)
    assert (boot.config.cpu, boot.config.append) == (boot.cpu, boot.append)


def test_a_build_that_is_not_there() -> None:
    """The error names both."""
    with pytest.raises(FormatError, match="mine boots nothing, which no build"):
        build_of(Boot("mine", "nothing"))


def test_what_the_kernel_became() -> None:
    """It says so; where it says something else, that is told."""
    became = replace(BOOTED, console="SMP alternatives: Using paranoid FineIBT CFI\n")
    stayed = replace(BOOTED, console="SMP alternatives: Using kCFI\nSMP: 1 CPU\n")

    assert FINEIBT.objection(became) == ""
    assert "SMP alternatives: Using kCFI" in FINEIBT.objection(stayed)
    assert "SMP: 1 CPU" not in FINEIBT.objection(stayed)
    assert "nothing of the kind" in FINEIBT.objection(BOOTED)
    assert Boot("mine", "6.1-gcc12").objection(BOOTED) == ""


def test_a_kernel_that_does_not_build_is_not_booted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its build is the ERROR."""

    def ensure(*_: object) -> Image:
        return Image("machine", {}, created=False)

    def fails(*_: object) -> object:
        return stage(status=Status.ERROR, reason="no such header"), None

    monkeypatch.setattr(booted.image, "ensure", ensure)
    monkeypatch.setattr(booted.built, "make", fails)

    first, *rest = judge(ScriptedEngine(), FINEIBT, 1, 0, silent)

    assert first.status is Status.ERROR
    assert tuple(one.stage for one in rest) == runtime.STAGES
    assert {one.status for one in rest} == {Status.SKIP}

"""The plugin is compiled in the image, and QEMU is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot.initramfs import Toolbox
from harness.boot.machine import Plan
from harness.boot.shadow.equip import SOURCE, equip
from harness.container.job import Exit, Job
from harness.variant import Platform
from tests.builders.machines import ScriptedEngine


@pytest.mark.parametrize(
    ("platform", "more"),
    [(Platform.NATIVE, ""), (Platform.XEN, ",bounce=16"), (Platform.KVM, ",nested=on")],
)
def test_a_plan_gets_the_plugin(
    platform: Platform, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are beside the kernel, and its deadline is further away."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))
    sources: list[str] = []

    def compiler(job: Job) -> Exit:
        at = job.argv.index("-o")
        Path(job.argv[at + 1]).write_bytes(b"plugin")
        sources.extend(Path(source).name for source in job.argv[at + 2 :])
        return Exit(0)

    toolbox = Toolbox(ScriptedEngine(compiler), "machine")
    plain = Plan(("qemu", "-S"), {"bzImage": b"k"}, "nonce", 256, 10.0)
    plan = equip(toolbox, b"table", platform)(plain, "/m")

    words = f"/m/shadow.so,table=/m/shadow.table,out=/m/shadow{more}"
    assert plan.argv == ("qemu", "-S", "-plugin", words)
    added = {"shadow.so": b"plugin", "shadow.table": b"table"}
    assert plan.files == {"bzImage": b"k", **added}
    assert plan.timeout_s > plain.timeout_s
    assert sources == sorted(path.name for path in SOURCE.glob("*.c"))
    assert {"plugin.c", "check.c"} < set(sources)

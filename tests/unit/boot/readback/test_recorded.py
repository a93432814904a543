"""Kernels of other versions, whose memory was recorded: every byte is predicted.

``python -m tests.record`` made them, of kernels that were built and booted; what the
model does not look at is zeros.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from harness.elf.alternative import parse_alternatives
from harness.elf.core import parse_core
from harness.elf.file import map_file
from harness.elf.load import load
from harness.progress import silent
from harness.result import StageResult, Status
from harness.stages.readback import stage_dump
from harness.text.patch.edits import Step

RECORDED = sorted(Path("tests/data/memory").glob("*/memory.xz"))
# What every era patches, and what only some do, or do in their own way.
_ALL = {
    Step.ALTERNATIVE,
    Step.RETURN,
    Step.SMP_LOCK,
    Step.MCOUNT,
    Step.JUMP_LABEL,
    Step.STATIC_CALL,
    Step.STATIC_TRAMP,
}
STEPS = {
    "5.10": {*_ALL, Step.PARAVIRT},
    "6.1": {*_ALL, Step.PARAVIRT, Step.ENDBR},
    "7.2": {*_ALL, Step.ENDBR, Step.RUNTIME_CONST},
}


@pytest.fixture(params=RECORDED, ids=lambda path: path.parent.name)
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with vmlinux and memory."""
    for name in ("vmlinux", "memory"):
        packed = request.param.with_name(f"{name}.xz").read_bytes()
        (tmp_path / name).write_bytes(lzma.decompress(packed))
    return tmp_path


def read(recorded: Path) -> StageResult:
    return stage_dump(recorded / "memory", recorded / "vmlinux", silent)


def test_every_byte_is_predicted(recorded: Path) -> None:
    """Tens of thousands of them are not as linked."""
    result = read(recorded)

    assert [finding.message for finding in result.findings] == []
    assert result.status is Status.PASS
    assert result.counts["text_bytes"] > 3_000_000
    assert result.counts["text_differing"] > 10_000


def test_its_own_steps_are_taken(
    recorded: Path, request: pytest.FixtureRequest
) -> None:
    """Each explains bytes; what a version has not explains none."""
    version = request.node.callspec.params["recorded"].parent.name.partition("-")[0]
    result = read(recorded)

    taken = {step for step in Step if result.counts.get(f"readback {step}")}
    assert taken == STEPS[version]


def test_a_wrong_byte_is_seen(recorded: Path) -> None:
    """In a site of an alternative, which is patched as predicted otherwise."""
    alternatives = parse_alternatives(load(recorded / "vmlinux"))
    assert alternatives is not None
    site = alternatives.site_address[len(alternatives.site_address) // 2]
    core = parse_core(map_file(recorded / "memory"), "memory")
    (row,) = np.flatnonzero((core.virtual <= site) & (site < core.virtual + core.size))
    wrong = bytearray(core.data.tobytes())
    wrong[int(core.offset[row] + site - core.virtual[row])] ^= 0xFF
    (recorded / "memory").write_bytes(wrong)

    result = read(recorded)

    assert result.status is Status.FAIL
    (finding,) = result.findings
    assert result.counts["text_unexplained"] == 1
    assert finding.rule == "readback/byte"

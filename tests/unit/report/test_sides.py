"""What readbacks came to, platforms side by side."""

from __future__ import annotations

import io

from rich.console import Console

from harness.report import sides
from harness.result import Stage, StageResult, Status


def drawn(read: list[StageResult], *, whole: bool) -> list[list[str]]:
    """Return the cells of the table's rows."""
    out = io.StringIO()
    Console(file=out, width=100).print(sides.table(read, whole=whole))
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in out.getvalue().splitlines()
        if line.startswith("│")
    ]


def test_beside_other_stages_only_what_differs_is_shown() -> None:
    """Sites that all platforms patch alike are left out; bytes are not."""
    same = {"text_bytes": 40, "readback alternative": 7, "won alternative: POPCNT": 5}
    stages = [
        StageResult(Stage.READBACK, "native", Status.PASS, counts=same),
        StageResult(Stage.READBACK, "xen", Status.PASS, counts={**same, "won x": 1}),
    ]
    names = [row[0] for row in drawn(stages, whole=False)]
    assert "alternative: POPCNT" not in names
    assert "x" in names
    assert "alternative" in names


def test_platforms_are_columns_and_variants_rows() -> None:
    """What one has and another has not is a dash; a readback that failed has none."""
    common = {"text_bytes": 4000, "text_differing": 300, "text_unexplained": 0}
    native = {**common, "readback alternative": 1200, "won alternative: !XENPV": 900}
    xen = {**common, "readback xen iret": 4, "won xen iret: xen": 1}
    stages = [
        StageResult(Stage.BOOT, "native", Status.PASS),
        StageResult(Stage.READBACK, "native", Status.PASS, counts=native),
        StageResult(Stage.READBACK, "kvm", Status.MISS, reason="nested"),
        StageResult(Stage.READBACK, "xen", Status.PASS, counts=xen),
    ]
    read = sides.read_back(stages)
    assert [stage.variant for stage in read] == ["native", "xen"]
    rows = drawn(read, whole=True)
    assert ["not as linked", "300", "300"] in rows
    assert ["alternative", "1,200", "-"] in rows
    assert ["xen iret", "-", "4"] in rows
    assert ["alternative: !XENPV", "900", "-"] in rows
    assert ["xen iret: xen", "-", "1"] in rows

"""Cells: which the matrix has, as products of what is listed elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot.machine import MachineConfig
from harness.cells.cell import Cell, choose, read
from harness.errors import FormatError, UserError
from harness.kconfig import read_fragments
from harness.variant import Platform

FILE = """\
[option.off]
append = "mitigations=off"
xen_args = "spec-ctrl=no"
kaslr = true
[set.a]
builds = ["6.12-gcc12"]
platforms = ["native", "xen"]
options = ["default", "off"]
[set.b]
boots = ["5.10-[nx]*"]
nightly = true
"""


def matrix(directory: Path, text: str) -> Path:
    """Return a file that has ``text``."""
    path = directory / "mine.toml"
    path.write_text(text)
    return path


def test_ours() -> None:
    """By day what `run` does; at night each version, toolchain and option, too."""
    cells = read()

    assert [cell.name for cell in choose(cells, (), nightly=False)] == [
        f"6.12-gcc12-{platform}" for platform in Platform
    ]
    night = choose(cells, (), nightly=True)
    assert {cell.build.toolchain for cell in night} == {
        "bullseye",
        "bookworm",
        "sid",
        "clang",
    }
    assert {cell.build.package.removeprefix("linux-source-") for cell in night} >= {
        "5.10",
        "6.1",
        "6.12",
        "7.2",
    }
    assert any(cell.kaslr for cell in night)
    assert any(cell.boot.cpu for cell in night)
    assert any(cell.boot.says for cell in night)


@pytest.mark.parametrize("cell", read(), ids=lambda cell: cell.name)
def test_every_cell_of_ours_can_be_made(cell: Cell) -> None:
    """What it boots is built for the platform that it boots on."""
    assert read_fragments(cell.build.variant.fragments)
    assert cell.build.name == cell.name
    assert cell.build.platform is cell.boot.platform


def test_a_product_and_boots(tmp_path: Path) -> None:
    """Each build on each platform with each option; and boots as they are listed."""
    cells = read(matrix(tmp_path, FILE))

    assert [cell.name for cell in cells] == [
        "6.12-gcc12-native",
        "6.12-gcc12-native-off",
        "6.12-gcc12-xen",
        "6.12-gcc12-xen-off",
        "5.10-native",
        "5.10-xen",
    ]
    assert cells[3].config == MachineConfig(
        append="mitigations=off", xen_args="spec-ctrl=no", kaslr=True
    )
    assert [cell.boot.nightly for cell in cells] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[set.a]\nbuilds = ["2.4"]', "names the build 2.4"),
        ('[set.a]\nboots = ["2.4"]', "names the boot 2.4"),
        ('[set.a]\nbuilds = ["6.12-gcc12"]\noptions = ["x"]', "no option x"),
        ('[set.a]\nbuilds = ["6.12-gcc12"]\nplatfroms = ["xen"]', "platfroms"),
        ('[set.a]\nbuilds = ["6.12-gcc12", "6.12-gcc12"]', "gcc12-native twice"),
        ("[set.a", "holds no matrix"),
        ("", "set"),
    ],
)
def test_what_is_no_matrix(tmp_path: Path, text: str, said: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(FormatError, match=said):
        read(matrix(tmp_path, text))


def test_cells_by_name(tmp_path: Path) -> None:
    """A name asks for the nightly, too; no cell comes twice; a typo is an error."""
    cells = read(matrix(tmp_path, FILE))

    chosen = choose(cells, ("*-xen*", "5.10-xen"), nightly=False)
    assert [cell.name for cell in chosen] == [
        "6.12-gcc12-xen",
        "6.12-gcc12-xen-off",
        "5.10-xen",
    ]
    with pytest.raises(UserError, match="no cell is called hurd"):
        choose(cells, ("hurd",), nightly=True)


def test_a_matrix_for_the_night(tmp_path: Path) -> None:
    """Without --nightly it has no cell, which is told with what to do."""
    cells = read(matrix(tmp_path, '[set.a]\nbuilds = ["6.12-gcc12"]\nnightly = true'))

    assert len(choose(cells, (), nightly=True)) == 1
    with pytest.raises(UserError, match="1 for the night") as caught:
        choose(cells, (), nightly=False)
    assert "--nightly" in str(caught.value.hint)

"""What a worker is asked for: it arrives as it was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cells import remote
from harness.cells.cell import read
from harness.cells.work import Terms


@pytest.mark.parametrize("tree", [None, Path("/src/linux")])
def test_an_order_arrives_as_it_was_sent(tree: Path | None, tmp_path: Path) -> None:
    """The cells, and the tree that they are built of."""
    cells = read()[:2]
    asked = remote.order(cells, Terms("night", tree), tmp_path.as_uri())

    wanted, _, opened = remote._opened(asked)

    assert opened == cells
    assert wanted.terms == Terms("night", tree)

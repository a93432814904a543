"""Time what reading a kernel costs: python -m bench.elf FILE..."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.elf.alternative import parse_alternatives
from harness.elf.load import load
from harness.elf.orc import parse_orc

ROUNDS = 5


def main(paths: list[str]) -> None:
    """Print the best of :data:`ROUNDS` for each of ``paths``."""
    for path in map(Path, paths):
        best = min(_seconds(path) for _ in range(ROUNDS))
        program = load(path)
        table, alternatives = parse_orc(program), parse_alternatives(program)
        print(
            f"{best * 1000:7.1f} ms  {len(program.symbols):7} symbols  "
            f"{len(table) if table else 0:7} orc  "
            f"{len(alternatives) if alternatives else 0:5} alternatives  {path}"
        )


def _seconds(path: Path) -> float:
    start = time.perf_counter()
    program = load(path)
    parse_orc(program)
    parse_alternatives(program)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(sys.argv[1:])

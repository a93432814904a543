"""Time us beside objtool: python -m bench.validate OUT... [--json FILE].

OUT is an output directory of a kernel's build with its objects still in it (make O=,
or ``python -m bench.kernel``). In each round everything is run once, one after the
other, so that a machine that is busy is busy for all; printed are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.measure import Cost, measure, median
from bench.objtool import relink

ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Row:
    """One way to validate one kernel, beside objtool's on the same."""

    kernel: str
    way: str
    cost: Cost
    instructions: int
    wall_ratio: float
    cpu_ratio: float

    @property
    def speed(self) -> float:
        """Million instructions per second of wall clock."""
        return self.instructions / self.cost.wall_s / 1e6


def bench(out: Path, rounds: int) -> list[Row]:
    """Measure every way on the kernel in ``out``."""
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as scratch:
        objtool = relink(out, Path(scratch))
        vmlinux, cache = out / "vmlinux", Path(scratch, "cache")
        ways: dict[str, Callable[[], Cost]] = {
            "objtool": objtool.run,
            "ours, 1 core": lambda: _ours(vmlinux, cache, 1, "--no-cache")[0],
            "ours, 2 cores": lambda: _ours(vmlinux, cache, 2, "--no-cache")[0],
            "from the cache": lambda: _ours(vmlinux, cache, 1)[0],
            "--help": lambda: measure(_command("--help"), cores=1)[0],
        }
        _, instructions = _ours(vmlinux, cache, 2)  # warms the disk and our cache
        costs: dict[str, list[Cost]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                costs[way].append(run())
    medians = {way: median(each) for way, each in costs.items()}
    theirs = medians["objtool"]
    return [
        Row(
            out.name,
            way,
            cost,
            instructions,
            cost.wall_s / theirs.wall_s,
            cost.cpu_s / theirs.cpu_s,
        )
        for way, cost in medians.items()
    ]


def _command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "harness", *arguments]


def _ours(vmlinux: Path, cache: Path, cores: int, *more: str) -> tuple[Cost, int]:
    """Validate ``vmlinux``; return the cost, and how many instructions it has."""
    argv = _command("validate", vmlinux, f"--jobs={cores}", "--format=json", *more)
    cost, text = measure(argv, cores=cores, env={"ORC_HARNESS_CACHE": str(cache)})
    (stage,) = json.loads(text)["stages"]
    if stage["status"] not in ("PASS", "FAIL"):
        raise SystemExit(f"{vmlinux}: {stage['status']}: {stage['reason']}")
    return cost, stage["counts"]["instructions"]


def _print(rows: list[Row]) -> None:
    print(
        f"{'kernel':<12} {'':<15} {'wall s':>7} {'x':>5} {'CPU s':>7} {'x':>5} "
        f"{'peak MB':>8} {'M insn/s':>9}"
    )
    for row in rows:
        print(
            f"{row.kernel:<12} {row.way:<15} {row.cost.wall_s:7.3f} "
            f"{row.wall_ratio:5.2f} {row.cost.cpu_s:7.3f} {row.cpu_ratio:5.2f} "
            f"{row.cost.rss_mb:8.0f} {row.speed:9.2f}"
        )


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="+", type=Path, help="make O= directories")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="where the table goes as JSON")
    arguments = parser.parse_args()
    rows = [row for out in arguments.out for row in bench(out, arguments.rounds)]
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

"""Time us beside objtool: python -m bench.validate OUT... [--also PATH...] [--json FILE].

OUT is an output directory of a kernel's build with its objects still in it (make O=,
or ``python -m bench.kernel``). In each round everything is run once, one after the
other, so that a machine that is busy is busy for all; printed are medians.

PATH is what nobody else can be timed on: a kernel as it is shipped, or a directory of
modules, packed or not.
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
            "ours, 1 core": lambda: _ours(vmlinux, cache, 1, "--no-cache"),
            "ours, 2 cores": lambda: _ours(vmlinux, cache, 2, "--no-cache"),
            "capstone": lambda: _ours(
                vmlinux, cache, 2, "--no-cache", decoder="capstone"
            ),
            "from the cache": lambda: _ours(vmlinux, cache, 1),
            "--help": lambda: measure(_command("--help"), cores=1)[0],
        }
        instructions = _instructions(vmlinux, cache)
        medians = _medians(ways, rounds)
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


def bench_shipped(path: Path, rounds: int) -> list[Row]:
    """Measure ours alone on ``path``, on one core and on two."""
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as scratch:
        cache = Path(scratch, "cache")
        instructions = _instructions(path, cache)
        ways: dict[str, Callable[[], Cost]] = {
            "ours, 1 core": lambda: _ours(path, cache, 1, "--no-cache"),
            "ours, 2 cores": lambda: _ours(path, cache, 2, "--no-cache"),
            "from the cache": lambda: _ours(path, cache, 1),
        }
        medians = _medians(ways, rounds)
    nan = float("nan")
    return [
        Row(path.name, way, cost, instructions, nan, nan)
        for way, cost in medians.items()
    ]


def _medians(ways: dict[str, Callable[[], Cost]], rounds: int) -> dict[str, Cost]:
    """Run each way once in every round, one after the other."""
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            costs[way].append(run())
    return {way: median(each) for way, each in costs.items()}


def _command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "harness", *arguments]


def _ours(path: Path, cache: Path, cores: int, *more: str, decoder: str = "") -> Cost:
    """Validate ``path`` as people do; return the cost."""
    argv = _command("validate", path, f"--jobs={cores}", *more)
    cost, _ = measure(argv, cores=cores, env=_variables(cache, decoder))
    return cost


def _variables(cache: Path, decoder: str = "") -> dict[str, str]:
    return {"ORC_HARNESS_CACHE": str(cache), "ORC_HARNESS_DECODER": decoder}


def _instructions(path: Path, cache: Path) -> int:
    """Validate ``path`` once, which warms the disk and our cache; return its size."""
    argv = _command("validate", path, "--format=json")
    _, text = measure(argv, cores=2, env=_variables(cache))
    (stage,) = json.loads(text)["stages"]
    if stage["status"] not in ("PASS", "FAIL"):
        raise SystemExit(f"{path}: {stage['status']}: {stage['reason']}")
    instructions: int = stage["counts"]["instructions"]
    return instructions


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines())
    parser.add_argument("out", nargs="*", type=Path, help="make O= directories")
    parser.add_argument(
        "--also", nargs="*", type=Path, default=[], help="kernels, modules"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="where the table goes as JSON")
    arguments = parser.parse_args()
    rows = [row for out in arguments.out for row in bench(out, arguments.rounds)]
    rows += [
        row for path in arguments.also for row in bench_shipped(path, arguments.rounds)
    ]
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

"""Time what decoding a kernel costs: python -m bench.decode FILE..."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.elf.load import load
from harness.text.decode import Decoder, decode_program

ROUNDS = 5


def main(paths: list[str]) -> None:
    """Print the best of :data:`ROUNDS` for each of ``paths``, engine and threads."""
    for path in map(Path, paths):
        program = load(path)
        for decoder in Decoder:
            for threads in (1, 2):
                best, insns = float("inf"), 0
                for _ in range(ROUNDS):
                    start = time.perf_counter()
                    insns = len(decode_program(program, threads, decoder))
                    best = min(best, time.perf_counter() - start)
                print(
                    f"{best * 1000:7.1f} ms  {insns / best / 1e6:5.1f} M insn/s  "
                    f"{insns:8} insns  {decoder.value:8}  {threads} threads  {path}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])

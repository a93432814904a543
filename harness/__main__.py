"""``orc-harness``, also as ``python -m harness``: what comes before all imports."""

from __future__ import annotations

import importlib
import os
import sys

from harness import forerunner, memory

# What a validation and its command line import, and then what only it does, in the
# order in which it is needed.
_BOTH = "harness.verify.many"
_JUDGES = (
    "harness.elf.digest",
    "harness.elf.load",
    "harness.text.decode",
    "harness.verify.check",
)


def main() -> None:
    """Run the command line."""
    memory.few_cycles()
    # numpy's BLAS, of which we call nothing, would start threads that spin
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.argv[1:2] == ["validate"]:
        importlib.import_module(_BOTH)
        forerunner.start(_JUDGES)
    try:
        from harness.cli.app import main as command

        command()
    finally:
        forerunner.end()
        memory.no_more_cycles()


if __name__ == "__main__":
    main()

"""``orc-harness``, also as ``python -m harness``: what comes before all imports."""

from __future__ import annotations

import sys

from harness import forerunner, memory

# What a validation imports, in the order in which it is needed.
_JUDGES = (
    "harness.elf.digest",
    "harness.verify.many",
    "harness.elf.program",
    "harness.text.decode",
    "harness.verify.check",
)


def main() -> None:
    """Run the command line."""
    memory.few_cycles()
    if sys.argv[1:2] == ["validate"]:
        forerunner.start(_JUDGES)
    try:
        from harness.cli.app import main as command

        command()
    finally:
        forerunner.end()
        memory.no_more_cycles()


if __name__ == "__main__":
    main()

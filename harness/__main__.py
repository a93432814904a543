"""``orc-harness``, also as ``python -m harness``: what comes before all imports."""

from __future__ import annotations

from harness import memory


def main() -> None:
    """Run the command line."""
    memory.few_cycles()
    from harness.cli.app import main as command

    command()


if __name__ == "__main__":
    main()

"""``python -m harness`` is ``orc-harness``."""

from __future__ import annotations

from harness.cli.app import main

main()

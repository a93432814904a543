"""Data: what comes with us and is no code: ``configs/``, and the page of rules.

In a clone it lies beside the package; where we are installed, below the environment's
``share/orc-harness`` (pyproject.toml, ``data-files``).
"""

from __future__ import annotations

from pathlib import Path


def _root() -> Path:
    clone = Path(__file__).resolve().parent.parent
    if (clone / "configs" / "known").is_dir():
        return clone
    import sysconfig  # not for a clone

    return Path(sysconfig.get_path("data")) / "share" / "orc-harness"


ROOT = _root()
CONFIGS = ROOT / "configs"
FINDINGS = ROOT / "docs" / "findings.md"

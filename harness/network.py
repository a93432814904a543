"""Network: whether anything may be fetched (``--offline``, ``ORC_HARNESS_OFFLINE``)."""

from __future__ import annotations

import os

from harness.errors import InfraError

OFFLINE = "ORC_HARNESS_OFFLINE"


def forbid() -> None:
    """Fetch nothing from now on, in processes that are started either."""
    os.environ[OFFLINE] = "1"


def require(what: str) -> None:
    """Say that ``what`` is to be fetched now.

    Raises:
        InfraError: nothing may be.
    """
    if os.environ.get(OFFLINE, "") not in ("", "0"):
        raise InfraError(
            f"{what} is not in the cache, and nothing is fetched (--offline)",
            hint=f"once without --offline, and without {OFFLINE}, puts it there",
        )

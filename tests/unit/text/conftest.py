"""Fixtures: every engine behind the decoder's door."""

from __future__ import annotations

import pytest

from harness.text import engine_zydis
from harness.text.decode import Decoder


@pytest.fixture(params=list(Decoder), ids=lambda decoder: decoder.value)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Each engine in turn; one that could not be built says why it is skipped."""
    found: Decoder = request.param
    if found is Decoder.ZYDIS and (reason := engine_zydis.missing()):
        pytest.skip(reason)
    return found

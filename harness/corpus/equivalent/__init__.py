"""Equivalent: rules that prove a mutant to be no defect.

A mutant that nothing reports is a miss, unless one of these rules proves that the
mutated kernel unwinds exactly as the clean one does. The rules look at the two
programs, never at findings.
"""

from __future__ import annotations

from harness.corpus.equivalent.clean import Clean
from harness.corpus.equivalent.code import places
from harness.corpus.equivalent.rule import RULES, proof

__all__ = ["RULES", "Clean", "places", "proof"]

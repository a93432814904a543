"""Verdict: what reading a kernel back came to.

The machine's values are taken from the memory that was read, the text is predicted by
them, and the two are compared; then the same with the control's wrong byte, which must
be the one thing more that is not as predicted.
"""

from __future__ import annotations

import time

from msgspec import Struct
from msgspec.structs import replace

from harness.boot.readback.difference import Difference, difference, findings
from harness.boot.readback.selected import unselected
from harness.boot.readback.taken import Taken
from harness.elf.alternative import parse_alternatives
from harness.elf.feature import Features
from harness.errors import FormatError
from harness.finding import Finding
from harness.text.patch.capability import find_capability
from harness.text.patch.predict import Prediction, predict
from harness.text.patch.said import said_by


class Verdict(Struct, frozen=True):
    """The verdict on one kernel's text.

    Attributes:
        difference: what was compared.
        findings: what is not as predicted.
        reason: why this is no verdict (control not seen), or empty.
        seconds: how long it took.
        later: what was compared when the kernel had run for a while, if it was.
        unselected: features of its platform that the kernel has not set.
    """

    difference: Difference
    findings: tuple[Finding, ...]
    reason: str
    seconds: float
    later: Difference | None = None
    unselected: tuple[Finding, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """What was done, by name."""
        counts = self.difference.counts | {"text_control": int(not self.reason)}
        if self.later is not None:
            counts["text_later_bytes"] = self.later.read
            counts["text_later_unexplained"] = self.later.wrong
        return counts

    def with_later(self, verdict: Verdict) -> Verdict:
        """Return this verdict with another one, on the same kernel later, in it."""
        return replace(
            self,
            findings=(*self.findings, *verdict.findings),
            reason=self.reason or verdict.reason,
            seconds=self.seconds + verdict.seconds,
            later=verdict.difference,
        )


def judge(taken: Taken, names: Features, platform: str) -> Verdict:
    """Judge the text that was ``taken`` of a machine on ``platform``.

    ``names`` are those of the kernel's features.

    Raises:
        FormatError: the kernel lacks what the model reads of it.
    """
    started = time.monotonic()
    alternatives = parse_alternatives(taken.linked)
    if alternatives is None:
        raise FormatError(f"{taken.linked.name} has no alternatives to predict")
    capability = find_capability(taken.linked, alternatives)
    said = said_by(taken.image, capability, names)
    prediction = predict(taken.linked, said)
    different = difference(prediction, taken.code)
    return Verdict(
        different,
        tuple(findings(prediction, different, platform)),
        _unseen(taken, prediction, different),
        time.monotonic() - started,
        unselected=unselected(said, platform),
    )


def _unseen(taken: Taken, prediction: Prediction, different: Difference) -> str:
    """Return why the control does not prove that a wrong byte is seen, or ""."""
    if not taken.mended:
        return f"control: the byte at {taken.changed:#x} was put back, yet it differs"
    section = taken.control
    wrong = {at for at in different.addresses if section.address <= at < section.end}
    wrong.add(taken.changed)
    if set(difference(prediction, taken.controlled).addresses) != wrong:
        return f"control did not fail: a wrong byte at {taken.changed:#x} went unseen"
    return ""

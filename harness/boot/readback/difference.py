"""Difference: a running kernel's text beside the text that is predicted for it.

A byte is explained if it is the predicted one. There is no other way: that it lies in
a site, or that its kernel may change it, explains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from msgspec import Struct

from harness.elf.program import Program, Section
from harness.finding import Finding
from harness.text.decode import format_insn
from harness.text.insn import I64, U8
from harness.text.patch.edits import Step
from harness.text.patch.predict import Prediction

RULE = "readback/byte"
LINKED = "as linked"
_APART = 8  # bytes between two runs that are told apart
_SHOWN = 16  # bytes of a run in its evidence


class Run(Struct, frozen=True):
    """Bytes that are not as predicted, one behind the other or nearly so.

    Attributes:
        address: of the first.
        linked: what the image has there.
        expected: what was predicted.
        seen: what the memory has.
        owner: the edits that they are in, or -1.
    """

    address: int
    linked: bytes
    expected: bytes
    seen: bytes
    owner: int

    @property
    def wrong(self) -> int:
        """How many of the bytes are not as predicted."""
        return sum(a != b for a, b in zip(self.expected, self.seen, strict=True))


class Difference(Struct, frozen=True):
    """What reading a kernel's text back came to.

    Attributes:
        read: bytes of text.
        differing: of them, how many are not as linked.
        explained: step -> how many of the differing ones it predicts.
        unexplained: what is not as predicted.
        variants: step -> variant -> at how many sites it won.
    """

    read: int
    differing: int
    explained: Mapping[Step, int]
    unexplained: tuple[Run, ...]
    variants: Mapping[Step, Mapping[str, int]]

    @property
    def wrong(self) -> int:
        """How many bytes are not as predicted."""
        return sum(run.wrong for run in self.unexplained)

    @property
    def addresses(self) -> Iterator[int]:
        """The address of each byte that is not as predicted."""
        for run in self.unexplained:
            pairs = enumerate(zip(run.expected, run.seen, strict=True))
            yield from (run.address + at for at, (a, b) in pairs if a != b)

    @property
    def counts(self) -> dict[str, int]:
        """The same as a stage's counts."""
        steps = {f"readback {step}": n for step, n in self.explained.items()}
        won = {
            f"won {step}: {name}": count
            for step, variants in self.variants.items()
            for name, count in sorted(variants.items())
        }
        return {
            "text_bytes": self.read,
            "text_differing": self.differing,
            "text_unexplained": self.wrong,
            **steps,
            **won,
        }


def difference(prediction: Prediction, seen: Program) -> Difference:
    """Compare the text of ``seen``, what the memory has, with its prediction.

    ``seen`` has the code sections that were read, each whole, and no others.
    """
    read = differing = 0
    explained: dict[Step, int] = {}
    runs: list[Run] = []
    for section in seen.executable:
        expected = _data(prediction.program, section)
        linked = _data(prediction.linked, section)
        owner = prediction.owners(section)
        read += section.size
        changed = section.data != linked
        differing += int(changed.sum())
        good = owner[changed & (section.data == expected)]
        for number, count in enumerate(np.bincount(good[good >= 0]).tolist()):
            if count:
                step = prediction.step(number)
                explained[step] = explained.get(step, 0) + count
        wrong = np.flatnonzero(section.data != expected)
        runs += _runs(section, linked, expected, owner, wrong)
    return Difference(read, differing, explained, tuple(runs), _variants(prediction))


def _variants(prediction: Prediction) -> dict[Step, dict[str, int]]:
    """Return at how many sites each variant of each step won."""
    won: dict[Step, dict[str, int]] = {}
    for edits in prediction.edits:
        step = won.setdefault(edits.step, {})
        for name, count in edits.counts().items():
            step[name] = step.get(name, 0) + count
    return won


def _data(program: Program, like: Section) -> U8:
    """Return the bytes that ``program`` has in the section ``like``."""
    return program.read(like.address, like.size)


def _runs(
    section: Section, linked: U8, expected: U8, owner: I64, wrong: I64
) -> Iterator[Run]:
    """Yield the runs of bytes at the offsets ``wrong``, cut where the owner changes."""
    if not len(wrong):
        return
    cut = (np.diff(wrong) > _APART) | (np.diff(owner[wrong]) != 0)
    for offsets in np.split(wrong, np.flatnonzero(cut) + 1):
        first, last = int(offsets[0]), int(offsets[-1]) + 1
        yield Run(
            section.address + first,
            linked[first:last].tobytes(),
            expected[first:last].tobytes(),
            section.data[first:last].tobytes(),
            int(owner[first]),
        )


def findings(
    prediction: Prediction, different: Difference, platform: str
) -> list[Finding]:
    """Return what is not as predicted, as findings: those of one cause share a key."""
    return [_finding(prediction, run, platform) for run in different.unexplained]


def _finding(prediction: Prediction, run: Run, platform: str) -> Finding:
    location = prediction.linked.location(run.address)
    what, variant = LINKED, ""
    cause = f"{LINKED}, {location.symbol}"
    if run.owner >= 0:
        what = prediction.step(run.owner).value
        variant = _variant(prediction, run)
        cause = f"{what}, {variant}"
    return Finding(
        rule=RULE,
        location=location,
        message=f"the running kernel has {_hex(run.seen)} here, {_hex(run.expected)} "
        f"is predicted ({what})",
        variant=variant,
        platforms=(platform,) if platform else (),
        cause=cause,
        window=(
            f"at {run.address:#x} ({location}), {run.wrong} bytes",
            _line("linked", run.linked, run.address),
            _line("predicted", run.expected, run.address),
            _line("seen", run.seen, run.address),
        ),
    )


def _variant(prediction: Prediction, run: Run) -> str:
    """Return the variant of the site that ``run`` begins in."""
    edits = prediction.edits[run.owner]
    start = edits.address.astype(np.int64)
    at = np.int64(run.address - (1 << 64))
    inside = np.flatnonzero((start <= at) & (at < start + edits.size))
    return edits.variants[int(edits.variant[inside[-1]])] if len(inside) else ""


def _line(what: str, code: bytes, address: int) -> str:
    return f"{what:9} {_hex(code):{3 * _SHOWN}} {format_insn(code, address)}"[:100]


def _hex(code: bytes) -> str:
    more = ".." if len(code) > _SHOWN else ""
    return code[:_SHOWN].hex(" ") + more

"""Many: the files of a kernel, each validated once, in processes where that pays.

What the archive knows is answered from it. This module imports nothing that judges
before something is to be judged.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from harness.elf.feature import Features
from harness.errors import HarnessError
from harness.verify import archive
from harness.verify.verdict import Checked

WORTH_PROCESSES = 4 << 20  # bytes from which starting processes pays


@dataclass(frozen=True, slots=True)
class Given:
    """All that the caller knows besides the file; verdicts depend on it.

    Attributes:
        features: names of the feature bits; without it those that an image holds.
        offers: other files are validated too, and may rely on the file's exports.
    """

    features: Features | None = None
    offers: bool = False


NOTHING = Given()


def check_many(
    paths: Iterable[Path],
    *,
    jobs: int | None = None,
    given: Given = NOTHING,
    archived: bool = True,
    beside: Iterable[Path] = (),
) -> list[Checked]:
    """Validate many files, in ``jobs`` processes; results are in the order of path.

    Unless ``archived``, verdicts that were given before neither count nor are kept.
    What they rely on in each other is answered from all of them and from the files
    ``beside``, whose own verdicts are not asked for.
    """
    asked = set(paths)
    ordered = sorted(asked.union(beside))
    given = replace(given, offers=len(ordered) > 1)
    keys = {path: archive.key(path, [given]) if archived else None for path in ordered}
    old = {path: archive.recall(key) for path, key in keys.items()}
    known = [Checked(path, verdict) for path, verdict in old.items() if verdict]
    fresh = []
    for checked in _check([path for path in ordered if not old[path]], jobs, given):
        fresh.append(checked)
        if checked.verdict is not None:
            archive.remember(keys[checked.path], checked.verdict)
    results = _answered([*known, *fresh])
    wanted = [one for one in results if one.path in asked or one.error]
    return sorted(wanted, key=lambda checked: checked.path)


def _answered(results: Sequence[Checked]) -> list[Checked]:
    """Settle what the files rely on in each other."""
    verdicts = [one.verdict for one in results if one.verdict]
    exports = [verdict.exports for verdict in verdicts if verdict.exports]
    return [
        replace(one, verdict=one.verdict.answered(exports))
        if one.verdict and one.verdict.reliances
        else one
        for one in results
    ]


def check_file(
    path: Path, given: Given = NOTHING, threads: int | None = None
) -> Checked:
    """Load and validate ``path``; its errors become the result."""
    from harness.elf.program import load
    from harness.verify.check import check

    try:
        program = load(path)
        verdict = check(
            program, features=given.features, threads=threads, offers=given.offers
        )
        return Checked(path, verdict)
    except HarnessError as exc:
        return Checked(path, None, exc)


def _check(paths: Sequence[Path], jobs: int | None, given: Given) -> Iterator[Checked]:
    size = {path: path.stat().st_size if path.exists() else 0 for path in paths}
    workers = min(jobs or os.cpu_count() or 1, len(paths))
    if workers <= 1 or sum(size.values()) < WORTH_PROCESSES:
        threads = jobs if len(paths) == 1 else None
        yield from (check_file(path, given, threads) for path in paths)
        return
    # big files first, or the last one is waited for alone
    by_size = sorted(paths, key=lambda path: -size[path])
    # no fork: whoever calls may draw its progress from a thread
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.verify.check"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        one = functools.partial(check_file, given=given, threads=1)
        yield from pool.map(one, by_size)

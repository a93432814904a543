"""Many: the files of a kernel, each validated once, in processes where that pays.

Small modules are validated in groups, as one program each: most of what it takes to
validate one does not depend on its size.

What the archive knows is answered from it. This module imports nothing that judges
before something is to be judged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from harness import allowance, forerunner, memory
from harness.elf.feature import Features
from harness.errors import HarnessError
from harness.kernel_build import MODULE_SUFFIXES
from harness.verify import archive
from harness.verify.kernel import Kernel
from harness.verify.verdict import Checked, Verdict

if TYPE_CHECKING:
    from harness.elf.debug_frame import FrameRows

WORTH_PROCESSES = 4 << 20  # bytes from which starting processes pays
GROUP_BYTES = 1 << 21  # of files in a group, as they are, packed or not

# What judges is imported when it is called, by processes of a pool and a forerunner ahead.
JUDGES = [
    f"harness.verify.{name}"
    for name in (
        "check",
        "edges.flow",
        "lints.condition",
        "lints.entry",
        "lints.fault",
        "lints.order",
        "lints.patch_site",
        "texts.paravirt",
        "texts.sites",
        "texts.view",
    )
]

Group = tuple[Path, ...]


class Given(Struct, frozen=True):
    """All that the caller knows besides the file; verdicts depend on it.

    Attributes:
        features: names of the feature bits; without it those that an image holds.
        offers: other files are validated too, and may rely on the file's exports.
        dwarf: the table is compared with .debug_frame, too.
        kernel: what the kernel of modules tells of them; nothing else depends on it.
    """

    features: Features | None = None
    offers: bool = False
    dwarf: bool = False
    kernel: Kernel | None = None

    def of(self, paths: Group) -> Given:
        """Return what counts for ``paths``, all of which are modules or none is."""
        return self if _is_module(paths[0]) else replace(self, kernel=None)


NOTHING = Given()


def check_many(
    paths: Iterable[Path],
    *,
    jobs: int | None = None,
    given: Given = NOTHING,
    archived: bool = True,
    beside: Iterable[Path] = (),
    kernel: Path | None = None,
) -> list[Checked]:
    """Do what :func:`ask_many` asks for."""
    return ask_many(
        paths, jobs=jobs, given=given, archived=archived, beside=beside, kernel=kernel
    )()


def ask_many(
    paths: Iterable[Path],
    *,
    jobs: int | None = None,
    given: Given = NOTHING,
    archived: bool = True,
    beside: Iterable[Path] = (),
    kernel: Path | None = None,
) -> Callable[[], list[Checked]]:
    """Return what validates many files, in ``jobs`` processes, in the order of path.

    A forerunner that waits has begun when this returns.

    Unless ``archived``, verdicts that were given before neither count nor are kept.
    What they rely on in each other is answered from all of them and from the files
    ``beside``, whose own verdicts are not asked for. ``kernel`` is that of the modules
    among them.
    """
    asked = frozenset(paths)
    others = frozenset(beside) - asked
    groups = [*group(asked), *group(others)]
    work = functools.partial(
        _check_all, asked, others, groups, jobs, given, archived, kernel
    )
    return work if _pooled(groups, jobs) else forerunner.ask(work)


def _check_all(
    asked: frozenset[Path],
    others: frozenset[Path],
    groups: list[Group],
    jobs: int | None,
    given: Given,
    archived: bool,
    kernel: Path | None,
) -> list[Checked]:
    given = replace(given, offers=len(asked) + len(others) > 1)
    if kernel is not None and any(map(_is_module, asked)):
        given = replace(given, kernel=ask_kernel(kernel, archived=archived))
    keys = {
        some: archive.key(some, given.of(some)) if archived else None for some in groups
    }
    old = {some: archive.recall(key, some) for some, key in keys.items()}
    new = _check([some for some in groups if not old[some]], jobs, given)
    results = [one for known in old.values() for one in known]
    for some, checked in new:
        archive.remember(keys[some], some, checked)
        results += checked
    wanted = [
        one for one in _answered(results) if one.error or not others & set(one.paths)
    ]
    return sorted(wanted, key=lambda checked: checked.paths)


def group(paths: Iterable[Path]) -> list[Group]:
    """Put small modules together, each name once; all others are alone."""
    groups: list[Group] = []
    some: dict[str, Path] = {}
    size = 0
    for path in sorted(paths, key=lambda path: (_is_module(path), path)):
        bytes_ = path.stat().st_size if path.exists() else 0
        if bytes_ > GROUP_BYTES or not path.name.endswith((*MODULE_SUFFIXES, ".o")):
            groups.append((path,))
            continue
        full = size + bytes_ > GROUP_BYTES or path.name in some
        if some and (full or _is_module(path) != _is_module(next(iter(some.values())))):
            groups.append(tuple(some.values()))
            some, size = {}, 0
        some[path.name] = path
        size += bytes_
    return [*groups, tuple(some.values())] if some else groups


def _is_module(path: Path) -> bool:
    return path.name.endswith(MODULE_SUFFIXES)


def ask_kernel(path: Path, *, archived: bool = True) -> Kernel | None:
    """Read what the kernel ``path`` tells of its modules; None if it cannot be read."""
    name = archive.key((path,), "kernel") if archived else None
    for known in archive.recall(name, (path,)):
        return known.verdict.kernel if known.verdict else None
    from harness.elf.load import load
    from harness.verify.witness import kernel_of

    try:
        found = kernel_of(load(path))
    except HarnessError:
        return None  # its own verdict says why
    verdict = Verdict((), {}, (), 0.0, kernel=found)
    archive.remember(name, (path,), [Checked((path,), verdict)])
    return found


def check_file(
    path: Path, given: Given = NOTHING, threads: int | None = None
) -> Checked:
    """Load and validate ``path``; its errors become the result."""
    from harness.elf.load import load
    from harness.text.decode import decoding

    try:
        program = load(path)
        with decoding(program, threads) as ahead:
            # while it is decoded what judges it is imported
            from harness.verify.check import check

            verdict = check(
                program,
                features=given.features,
                threads=threads,
                offers=given.offers,
                frames=_frames(path) if given.dwarf else None,
                kernel=given.of((path,)).kernel,
                ahead=ahead,
            )
        return Checked((path,), verdict)
    except HarnessError as exc:
        return Checked((path,), None, exc)


def _frames(path: Path) -> FrameRows | None:
    from harness.elf.debug_frame import read_debug_frame

    return read_debug_frame(path)


def check_group(
    paths: Group, given: Given = NOTHING, threads: int | None = None
) -> list[Checked]:
    """Validate ``paths`` as one program, and alone what cannot be part of it.

    If they do not go together each is alone, and its verdict says why.
    """
    memory.keep()
    if len(paths) == 1:
        return [check_file(paths[0], given, threads)]
    from harness.elf.load import load_together
    from harness.verify.check import check
    from harness.verify.edges.wholesale import RULE as WHOLESALE

    try:
        program, others = load_together(paths, ".orc_unwind")
        verdict = check(
            program,
            features=given.features,
            threads=threads,
            offers=given.offers,
            kernel=given.of(paths).kernel,
        )
    except HarnessError as exc:  # of one of them, or they do not go together
        return _one_by_one(paths, given, threads, exc.message)
    if broken := [f for f in verdict.findings if f.rule == WHOLESALE]:
        # the others' doubtful edges were not followed either
        reason = f"{broken[0].location.object}: {broken[0].message}"
        return _one_by_one(paths, given, threads, reason)
    together = tuple(path for path in paths if path not in others)
    alone = [check_file(path, given, threads) for path in others]
    return [Checked(together, verdict), *alone]


def _one_by_one(
    paths: Group, given: Given, threads: int | None, reason: str
) -> list[Checked]:
    checked = [check_file(path, given, threads) for path in paths]
    return [
        replace(one, verdict=replace(one.verdict, alone=reason)) if one.verdict else one
        for one in checked
    ]


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


def _size(some: Group) -> int:
    return sum(path.stat().st_size for path in some if path.exists())


def _cores(jobs: int | None) -> int:
    return jobs or allowance.jobs()


def _pooled(groups: Sequence[Group], jobs: int | None) -> bool:
    """Whether starting processes pays: for several groups on several cores."""
    several = min(_cores(jobs), len(groups)) > 1
    return several and sum(map(_size, groups)) >= WORTH_PROCESSES


def _check(
    groups: Sequence[Group], jobs: int | None, given: Given
) -> Iterator[tuple[Group, list[Checked]]]:
    if not _pooled(groups, jobs):
        for some in groups:
            yield some, check_group(some, given, jobs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # big ones first, or the last one is waited for alone
    by_size = sorted(groups, key=lambda some: -_size(some))
    # no fork: whoever calls may draw its progress from a thread
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(JUDGES)
    workers = min(_cores(jobs), len(groups))
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        one = functools.partial(check_group, given=given, threads=1)
        yield from zip(by_size, pool.map(one, by_size), strict=True)

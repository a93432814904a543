"""Validate: every file of a build, and what the build's own tools said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from harness import baseline
from harness.build import log
from harness.elf.feature import Features, parse_cpufeatures
from harness.finding import KERNEL, Finding, object_name
from harness.kernel_build import KernelBuild
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages.guard import guard, judged
from harness.verify.many import Given, ask_many
from harness.verify.verdict import Checked, Verdict

UNREADABLE_SHOWN = 5
FEW = 300  # findings, which nobody folds
LOG = "build.log"
WITNESS = "dwarf/"  # rules by which others testify, as objtool does


def stage(
    found: KernelBuild,
    name: str,
    jobs: int,
    progress: Progress,
    *,
    known_in: Sequence[Path] = (),
    archived: bool = True,
    vmlinux: Path | None = None,
    dwarf: bool = False,
) -> StageResult:
    """Validate what was ``found``; a file that cannot be read is an ERROR.

    ``vmlinux`` is the kernel that modules are for, where it is not among them.

    ``known_in`` are directories of baseline entries, beside those always read.
    Unless ``archived``, every file is validated anew. With ``dwarf`` the table is
    compared with .debug_frame, too.
    """

    def work() -> StageResult:
        given = Given(_features(found), dwarf=dwarf)
        pending = ask_many(
            found.files,
            jobs=jobs,
            given=given,
            archived=archived,
            beside=[vmlinux] if vmlinux else [],
            kernel=next(iter(found.kernels), vmlinux),
        )
        # meanwhile
        progress(f"validating {len(found.files)} files", 0, len(found.files))
        entries = baseline.load_all(known_in)
        checked = pending()
        progress(f"validated {len(checked)} files", len(checked), len(checked))
        return _judged(found, name, checked, entries)

    return guard(Stage.VALIDATE, name, work)


def _features(found: KernelBuild) -> Features | None:
    header = found.cpufeatures
    return None if header is None else parse_cpufeatures(header.read_text())


def _judged(
    found: KernelBuild,
    name: str,
    checked: Sequence[Checked],
    entries: Sequence[baseline.Known],
) -> StageResult:
    verdicts = {c.paths: c.verdict for c in checked if c.verdict is not None}
    ours = [
        replace(finding, reproduce=f"orc-harness validate {_path(paths, finding)}")
        for paths, verdict in verdicts.items()
        for finding in verdict.findings
    ]
    told = [finding for finding in ours if finding.rule.startswith(WITNESS)]
    ours = [finding for finding in ours if not finding.rule.startswith(WITNESS)]
    theirs = [*log.findings(_log(found)), *told]
    ours = list(_without_repeats(ours, found))
    if len(ours) > FEW:
        from harness.verify.edges.wholesale import few  # numpy: for many findings only

        ours = list(few(ours, of_all=True))
    judgement = judged(
        Stage.VALIDATE,
        name,
        join(ours, theirs),
        _counts(found, verdicts),
        _notes(found, verdicts),
        entries=entries,
    )
    judgement = replace(judgement, objects=_objects(found, verdicts))
    if judgement.findings:
        from harness.stages.attribute import attribute  # numpy: for findings only

        looked_into = attribute(judgement.findings, found)
        judgement = replace(judgement, findings=looked_into)
    errors = [c.error for c in checked if c.error is not None]
    if not errors:
        return (
            judgement if any(v.counts for v in verdicts.values()) else _none(judgement)
        )
    shown = "; ".join(error.message for error in errors[:UNREADABLE_SHOWN])
    return replace(
        judgement,
        status=Status.ERROR,
        reason=f"{len(errors)} of {sum(len(c.paths) for c in checked)} files cannot be judged: {shown}",
        hint=errors[0].hint or "",
        exit_code=max(error.exit_code for error in errors),
    )


def _path(paths: tuple[Path, ...], finding: Finding) -> Path:
    """Return the file of ``paths`` that ``finding`` is in."""
    name = finding.location.object
    return next((path for path in paths if path.name.startswith(name)), paths[0])


def _none(judgement: StageResult) -> StageResult:
    """Nothing was looked at: that is no verdict, unless the build's tools found one."""
    if judgement.status is not Status.PASS:
        return judgement
    return replace(
        judgement, status=Status.SKIP, reason="no file carries ORC: nothing to validate"
    )


def _counts(
    found: KernelBuild, verdicts: Mapping[tuple[Path, ...], Verdict]
) -> dict[str, int]:
    """Sum what was looked at; vmlinux.o is vmlinux once more and is not added."""
    total: Counter[str] = Counter(files=sum(map(len, verdicts)))
    if cached := sum(len(paths) for paths in verdicts if verdicts[paths].cached):
        total["from cache"] = cached
    if apart := sum(bool(verdict.alone) for verdict in verdicts.values()):
        total["one by one"] = apart
    for paths, verdict in verdicts.items():
        if not (found.kernels and paths[0].name == "vmlinux.o"):
            total.update(verdict.counts)
    return dict(total)


def _notes(
    found: KernelBuild, verdicts: Mapping[tuple[Path, ...], Verdict]
) -> Iterable[str]:
    without = 0
    for paths, verdict in verdicts.items():
        without += not verdict.counts
        if paths[0] in found.kernels:
            yield from (f"{paths[0].name}: {note}" for note in verdict.notes)
    if without:
        yield f"{without} files carry no ORC: nothing to validate in them"
    if apart := [verdict.alone for verdict in verdicts.values() if verdict.alone]:
        yield f"{len(apart)} files were validated one by one: {apart[0]}"
    if found.config is None:
        yield "no .config beside it"
    slow = [verdict.slow for verdict in verdicts.values() if not verdict.cached]
    if any(slow):
        yield f"decoded by capstone, several times slower than Zydis: {max(slow)}"


def _objects(
    found: KernelBuild, verdicts: Mapping[tuple[Path, ...], Verdict]
) -> tuple[str, ...]:
    """Name what was looked at; the log stands for all that its tools looked at."""
    read = {
        KERNEL if path in found.kernels else object_name(path)
        for paths, verdict in verdicts.items()
        if verdict.counts
        for path in paths
    }
    return tuple(sorted(read | {LOG} if (found.root / LOG).is_file() else read))


def _log(found: KernelBuild) -> str:
    path = found.root / LOG
    return path.read_text(errors="replace") if path.is_file() else ""


def _without_repeats(
    findings: Iterable[Finding], found: KernelBuild
) -> Iterable[Finding]:
    """Drop what vmlinux.o or an object says again about the linked kernel."""
    if not found.kernels:
        return findings
    seen = {_place(f) for f in findings if f.location.object == KERNEL}
    relocatable = {path.name for path in found.relocatables}
    return [
        finding
        for finding in findings
        if finding.location.object not in relocatable or _place(finding) not in seen
    ]


def _place(finding: Finding) -> tuple[str, str, int, str]:
    where = finding.location
    return (finding.rule, where.symbol, where.offset, finding.variant)


def join(ours: Iterable[Finding], theirs: Iterable[Finding]) -> list[Finding]:
    """Join our findings with objtool's and modpost's at the same place.

    A place is a symbol and an offset. What both see is one finding, ours, with
    their words as evidence; what only they see stays a finding of its own.
    """
    said: dict[tuple[str, int], list[Finding]] = {}
    for their in theirs:
        place = (their.location.symbol, their.location.offset)
        said.setdefault(place, []).append(their)
    joined: list[Finding] = []
    for finding in ours:
        place = (finding.location.symbol, finding.location.offset)
        if words := [f"{t.rule}: {t.message}" for t in said.get(place, ())]:
            finding = replace(finding, window=(*finding.window, *words))
        joined.append(finding)
    seen = {(f.location.symbol, f.location.offset) for f in joined}
    rest = (
        their for place, there in said.items() if place not in seen for their in there
    )
    return [*joined, *rest]

"""Explain: all that there is to say about one finding; and its reproducer."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from harness import baseline, kernel_build, result
from harness.elf.load import load
from harness.errors import ExitCode, InfraError, UserError
from harness.finding import Finding, group_by_cause
from harness.progress import Progress
from harness.report.rules import Rule, find_rule
from harness.result import Status
from harness.stages import validate
from harness.stages.inspect import features_of, findings_of
from harness.verify.columns import read_columns
from harness.verify.reproducer import Reproducer, reproduce

KEYS_SHOWN = 5
_TOOLS = ("orc-harness", "capstone", "numpy")


class Explanation(Struct, frozen=True):
    """What ``orc-harness explain`` prints.

    Attributes:
        key: as it was asked for; ``*`` and a rule's bare name stand for many.
        rule: what the documentation says.
        known: baseline entries about it, expired ones too.
        findings: those that were found in what was looked at.
    """

    key: str
    rule: Rule
    known: tuple[baseline.Known, ...]
    findings: tuple[Finding, ...]


def explain(
    key: str, where: Sequence[Path], known_in: Sequence[Path], progress: Progress
) -> Explanation:
    """Explain ``key``, with its evidence from ``where``: builds or saved results.

    Raises:
        UserError: there is no such rule, or nothing at ``where`` to look at.
        HarnessError: what is there cannot be judged.
    """
    pattern = "*" in key.partition(":")[0]
    rule = None if pattern else find_rule(key)
    found = [f for path in where for f in _findings(path, progress) if names(key, f)]
    entries = baseline.load_all(known_in)
    # a pattern explains what it matches
    keys = {key, *(finding.key for finding in found)}
    known = tuple(e for e in entries if any(e.names(k) or names(key, e) for k in keys))
    if rule is None:
        if not (matched := [*(f.key for f in found), *(e.key for e in known)]):
            raise UserError(f"no finding that was looked at has the key {key}")
        rule = find_rule(matched[0])
    return Explanation(key, rule, known, tuple(found))


def names(pattern: str, keyed: Finding | baseline.Known) -> bool:
    """Tell whether ``pattern`` (a key, a rule, with ``*`` or without) means this."""
    whole = pattern if ":" in pattern else f"{pattern}:*"
    return fnmatch.fnmatchcase(keyed.key, whole.replace("[", "[[]"))


def cut_out(key: str, path: Path) -> Reproducer:
    """Return a reproducer of the finding ``key`` of the file ``path``.

    Raises:
        UserError: the file has no such finding, or it cannot be cut out.
        FormatError: it cannot be read.
    """
    found = kernel_build.find(path)
    grouped = group_by_cause(findings_of(found, path))
    program = load(path)
    columns = read_columns(program, features_of(found, program))
    wanted = next((f for f in grouped if names(key, f)), None)
    if columns is None or wanted is None:
        raise UserError(f"{path} has no finding {key}", hint=_hint(grouped))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    return reproduce(columns, wanted, digest, versions)


def _hint(findings: Sequence[Finding]) -> str:
    keys = [finding.key for finding in findings[:KEYS_SHOWN]]
    return f"it has {'; '.join(keys)}" if keys else "it has no finding at all"


def _findings(path: Path, progress: Progress) -> Iterable[Finding]:
    """Return the findings of a saved result, or of a build that is validated now."""
    saved = path / "result.json" if path.is_dir() else path
    if saved.suffix == ".json" and saved.is_file():
        stages = result.load(saved).stages
        return [f for stage in stages for f in (*stage.findings, *stage.known)]
    stage = validate.stage(kernel_build.find(path), path.name, 1, progress)
    if stage.status is Status.ERROR:
        raise (UserError if stage.exit_code == ExitCode.USAGE else InfraError)(
            stage.reason, hint=stage.hint or None
        )
    return (*stage.findings, *stage.known)

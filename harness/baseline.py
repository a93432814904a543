"""Baseline: the reviewed findings of kernels that are wrong and known to be.

A directory holds one .toml file per cause. An entry states why, links the proof and
expires; after its date its findings are new again. ``configs/known/`` is ours, for
what is wrong upstream. Who builds kernels keeps their own beside it: every directory
of ``$ORC_HARNESS_KNOWN`` (separated by colons), else
``$XDG_CONFIG_HOME/orc-harness/known`` (``~/.config`` if that is not set).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness.data import CONFIGS
from harness.errors import FormatError, InfraError, UserError
from harness.finding import Finding

KNOWN = CONFIGS / "known"
NAME_LENGTH = 100


class Known(Struct, frozen=True):
    """One cause that a person has looked into.

    Attributes:
        key: :attr:`Finding.key`; ``*`` stands for what a rebuild may change.
        reason: what is wrong, and why it is the kernel and not us.
        evidence: kernel files and lines that prove it.
        link: where it is discussed or fixed.
        affected: the kernels that have it.
        expires: the last day on which it is known.
        also: further keys of the same cause.
    """

    key: str
    reason: str
    evidence: tuple[str, ...]
    link: str
    affected: str
    expires: datetime.date
    also: tuple[str, ...] = ()

    def names(self, key: str) -> bool:
        """Tell whether this is about ``key``, expired or not."""
        return any(_matches(pattern, key) for pattern in (self.key, *self.also))

    def __str__(self) -> str:
        reason = " ".join(self.reason.split()).rstrip(".")
        return f"{self.expires}: {reason}, {self.link}"


def _matches(pattern: str, key: str) -> bool:
    """Tell whether ``key`` is ``pattern``, whose ``*`` stand for anything.

    By hand: to compile all patterns takes longer than to check a small kernel's sites.
    """
    first, *parts = pattern.split("*")
    if not parts:
        return key == pattern
    last = parts.pop()
    if not (key.startswith(first) and key[len(first) :].endswith(last)):
        return False
    at, end = len(first), len(key) - len(last)
    for part in parts:
        found = key.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def own_directories(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the directories of whoever runs us; they may not exist."""
    if named := environ.get("ORC_HARNESS_KNOWN"):
        return tuple(Path(part) for part in named.split(os.pathsep) if part)
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config"
    return (Path(base) / "orc-harness" / "known",)


def load_all(extra: Sequence[Path] = ()) -> tuple[Known, ...]:
    """Read the entries of ours, of the user's own directories, and of ``extra``.

    Raises:
        FormatError: an entry cannot be read, lacks a field or is not TOML.
        UserError: one of ``extra`` is no directory.
    """
    for directory in extra:
        if not directory.is_dir():
            raise UserError(
                f"{directory} is no directory of baseline entries",
                hint="orc-harness baseline add --known DIR makes it",
            )
    directories = dict.fromkeys((KNOWN, *own_directories(), *extra))
    return tuple(entry for directory in directories for entry in load(directory))


def add(known: Known, directory: Path) -> Path:
    """Write ``known`` below ``directory``; return its file.

    Raises:
        UserError: the key is no finding's, or an entry of that name is there.
        InfraError: it cannot be written.
    """
    if not re.match(r"[a-z0-9-]+/[a-z0-9-]+:.", known.key):
        raise UserError(
            f"{known.key!r} is no finding's key",
            hint="copy it from the finding: rule, colon, cause or place",
        )
    name = re.sub(r"[^A-Za-z0-9]+", "_", known.key).strip("_")
    digest = hashlib.sha256(known.key.encode()).hexdigest()[:8]  # f.o is not f_o
    path = directory / f"{name[:NAME_LENGTH]}-{digest}.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(_toml(known))
    except OSError as exc:
        if isinstance(exc, FileExistsError) and path.exists():
            raise UserError(
                f"{path} is there already", hint="edit it, or delete it first"
            ) from exc
        raise InfraError(
            f"cannot write {path}: {exc.strerror}",
            hint="name another directory with --known",
        ) from exc
    return path


def _toml(known: Known) -> str:
    evidence = "".join(f"    {_string(text)},\n" for text in known.evidence)
    return (
        f"key = {_string(known.key)}\n"
        f"reason = {_string(known.reason)}\n"
        f"evidence = [\n{evidence}]\n"
        f"link = {_string(known.link)}\n"
        f"affected = {_string(known.affected)}\n"
        f"expires = {known.expires.isoformat()}\n"
    )


def _string(text: str) -> str:
    """Quote as TOML, whose basic strings are JSON's but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(directory: Path = KNOWN) -> tuple[Known, ...]:
    """Read every entry below ``directory``, sorted by file name.

    Raises:
        FormatError: an entry cannot be read, lacks a field or is not TOML.
    """
    return tuple(_read(path) for path in sorted(directory.glob("*.toml")))


def _read(path: Path) -> Known:
    try:
        # TOML has dates: a text is none, whatever it looks like
        return msgspec.convert(
            tomllib.loads(path.read_text()), Known, builtin_types=(datetime.date,)
        )
    except OSError as exc:
        raise FormatError(
            f"cannot read {path}: {exc.strerror}",
            hint="each *.toml of that directory is to be a baseline entry",
        ) from exc
    except ValueError as exc:
        raise FormatError(
            f"{path} is not a baseline entry: {exc}",
            hint="key, reason, evidence, link, affected and expires are all needed; "
            "a date has no quotes: expires = 2027-01-31",
        ) from exc


def split(
    findings: Iterable[Finding], known: Sequence[Known], today: datetime.date
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings that are new, and those that ``known`` covers.

    New ones tell which entries about them have expired.
    """
    new: list[Finding] = []
    old: list[Finding] = []
    for finding in findings:
        about = [entry for entry in known if entry.names(finding.key)]
        covered = any(today <= entry.expires for entry in about)
        expired = () if covered else tuple(map(str, about))
        (old if covered else new).append(replace(finding, expired=expired))
    return tuple(new), tuple(old)

"""Log: what objtool and modpost said during a build, as findings.

objtool's warnings do not fail a build, and neither do most of modpost's. Their
wording changed with the kernels; both eras of each are read here:

    kernel/fork.o: warning: objtool: copy_process()+0x1c: stack state mismatch: ...
    vmlinux.o: warning: objtool: copy_process+0x1c: stack state mismatch: ...
    WARNING: vmlinux.o(.text+0x12): Section mismatch in reference from the function ...
    WARNING: modpost: vmlinux: section mismatch in reference: a+0x1 (section: .text) ...

An object that was not compiled in a build is not warned about again by an objtool
that runs per object: judge the tables too, not this alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from harness.finding import Finding, Location, number

_OBJTOOL = re.compile(
    r"^(?P<object>\S+?): (?P<level>warning|error): objtool: (?P<text>\S.*)$"
)
_STEP = re.compile(r"^  [A-Z]+ +(?:\[M\] +)?(\S+)", re.MULTILINE)
_MODPOST = re.compile(r"^(?:WARNING|ERROR): (?P<new>modpost: )?(?P<text>.+)$")
_PLACE = re.compile(r"^(?P<symbol>[\w.$]+)(?:\(\))?(?:\+(?P<offset>0x[0-9a-f]+))?: ")
_OLD_MISMATCH = re.compile(
    r"^(?P<object>\S+)\((?P<section>[^+)]+)\+(?P<offset>0x[0-9a-f]+)\): "
    r"(?P<text>Section mismatch in reference from the \w+ (?P<symbol>[\w.$]+).*)$"
)
_NEW_MISMATCH = re.compile(
    r"^(?P<object>\S+): (?P<text>section mismatch in reference: "
    r"(?P<symbol>[\w.$]+)\+(?P<offset>0x[0-9a-f]+) .*)$"
)
_IN_OBJECT = re.compile(r"(?:^(?P<first>[\w./-]+\.k?o): | in (?P<last>\S+\.k?o)$)")
# Kinds that hold names; the others are made of their own words (``_slug``).
_KINDS = (
    (re.compile(r"call to .* leaves .*section"), "call-leaves-noinstr"),
    (re.compile(r"falls through to next function"), "falls-through"),
    (re.compile(r"^(?:data )?relocation to !ENDBR"), "relocation-to-no-endbr"),
    (re.compile(r"'?naked'? return found"), "naked-return"),
    (re.compile(r"^call to .* with UACCESS enabled"), "call-with-uaccess"),
    (re.compile(r"stack layout conflict in alternatives"), "alternative-conflict"),
    (re.compile(r"section mismatch in reference", re.IGNORECASE), "section-mismatch"),
    (re.compile(r"^missing MODULE_DESCRIPTION"), "missing-module-description"),
    (re.compile(r"^missing MODULE_LICENSE"), "missing-module-license"),
)
# How objtool got to the place it warned about (--backtrace): not warnings.
_TRACE = re.compile(r": \((?:branch|alt|call|hint|.*<=== \(sym\))\)?$|<=== \(sym\)$")


def findings(log: str) -> list[Finding]:
    """Return the findings of a build's log, numbered and in order."""
    lines = dict.fromkeys(log.splitlines())  # make may print a warning twice
    return number(_read(lines))


def untouched(before: str, now: str) -> Iterator[tuple[str, str]]:
    """Yield what objtool said in the log ``before`` and was not asked again ``now``.

    Yields (object, line). ``now`` is the log of a build in the same directory; what
    it made is in its steps (``  CC [M]  fs/a.o``).
    """
    made = set(_STEP.findall(now))
    for line in dict.fromkeys(before.splitlines()):
        match = _OBJTOOL.match(line)
        if match and match["object"] not in made:
            yield match["object"], line


def _read(lines: Iterable[str]) -> Iterator[Finding]:
    for line in lines:
        if match := _OBJTOOL.match(line):
            if not _TRACE.search(match["text"]):
                yield _objtool(match["object"], match["text"])
        elif (match := _MODPOST.match(line)) and (
            match["new"] or _OLD_MISMATCH.match(match["text"])
        ):
            yield _modpost(match["text"])


def _objtool(name: str, text: str) -> Finding:
    symbol, offset, message = "", 0, text
    if place := _PLACE.match(text):
        symbol, offset = place["symbol"], int(place["offset"] or "0", 16)
        message = text[place.end() :]
    elif named := re.match(r"([\w.$]+)\(\) ", text):
        symbol = named[1]
    return Finding(
        rule=f"objtool/{_slug(message)}",
        location=Location(name, symbol or "(no symbol)", offset),
        message=message,
    )


def _modpost(text: str) -> Finding:
    for pattern in (_OLD_MISMATCH, _NEW_MISMATCH):
        if match := pattern.match(text):
            # The old form counts from the section, which says nothing about the symbol.
            offset = int(match["offset"], 16) if pattern is _NEW_MISMATCH else 0
            location = Location(match["object"], match["symbol"], offset)
            return Finding("modpost/section-mismatch", location, match["text"])
    found = _IN_OBJECT.search(text)
    name = (found["first"] or found["last"]) if found else "(no object)"
    return Finding(f"modpost/{_slug(text)}", Location(name, "(no symbol)", 0), text)


def _slug(message: str) -> str:
    """Name the kind of a message: its words without names, numbers and details."""
    for pattern, slug in _KINDS:
        if pattern.search(message):
            return slug
    words = message.partition(":")[0].lower().split()
    plain = [
        word.strip("',.!")
        for word in words
        if re.fullmatch(r"['!a-z][a-z'!,.-]*", word)
    ]
    return (
        "-".join(re.sub(r"[^a-z]+", "-", word).strip("-") for word in plain) or "other"
    )

"""Mirror guest: streams a kernel and its modules out of packages, inside an image.

    python3 -c PROGRAM OUT SERIES FLAVOUR HAVE

HAVE is the package that is there already: if it is the newest nothing is fetched.

Nothing of the packages is kept: each is unpacked as it comes, and its hash checked
at the end. Prints what it took, in lines that begin with ``@``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

BLOCK = 1 << 16
TRIES = 8  # packages that the index names and the mirror has no more
SYMBOLS = ["*/vmlinux-*", "*/vmlinux"]
CONFIG = ["*/boot/config-*", "*/lib/modules/*/config"]
MODULES = ["*.ko", "*.ko.xz", "*.ko.zst", "*.ko.gz", *CONFIG]


def apt(lists: str, command: str, *arguments: str) -> str:
    """Run apt without privileges, all of its state in a scratch directory."""
    argv = [
        f"apt-{command}",
        "-q",
        "-o",
        f"Dir::State::lists={lists}/lists",
        "-o",
        f"Dir::Cache={lists}/cache",
        "-o",
        "Debug::NoLocking=1",
    ]
    return subprocess.run(
        argv + list(arguments), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


class Gone(Exception):
    """The mirror has a package no more, as far as its index or its answer tells."""


def version_key(text: str) -> list[tuple[int, str]]:
    """Sort versions as people count: 6.9 before 6.12."""
    parts = re.findall(r"\d+|[^\d]+", text)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def choose(names: list[str], series: str, flavour: str) -> tuple[list[str], str]:
    """Return the images of ``series`` that have a -dbg package, newest first; a note.

    ``names`` are those of all packages. Release candidates and kernels for real time
    do not count. Without one of the series it is the newest that there is.
    """
    image = re.compile(rf"linux-image-(\d+\.\d+\.[\w.+~-]*?)-{flavour}-dbg")
    found = [n for n in names if (m := image.fullmatch(n)) and not _is_other(m[1])]
    found.sort(key=version_key, reverse=True)
    of_series = [n for n in found if n.startswith(f"linux-image-{series}")]
    if not found:
        return [], f"no kernel with symbols for {flavour}: is there a mirror?"
    chosen = [name[: -len("-dbg")] for name in of_series or found]
    if of_series:
        return chosen, ""
    return chosen, f"no {series}x {flavour} any more: took {chosen[0]}"


def parts(package: str, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the packages that make up the kernel ``package``, and what of them to keep.

    Its modules and its configuration are in packages of their own since 2026.
    """
    yield f"{package}-dbg", SYMBOLS
    version = package.removeprefix("linux-image-")
    split = [f"linux-modules-{version}", f"linux-base-{version}"]
    for name in (package, *(name for name in split if name in names)):
        yield name, MODULES


def _is_other(version: str) -> bool:
    return bool(re.search(r"rc\d|-rt$|-cloud$", version))


def stream(lists: str, package: str, out: str, patterns: list[str]) -> None:
    """Unpack what matches ``patterns`` of ``package`` into ``out``."""
    try:
        line = apt(lists, "get", "download", "--print-uris", package).splitlines()[-1]
    except subprocess.CalledProcessError as exc:
        # others depend on it, and it is not there, or not yet
        raise Gone(f"{package}: the index has no candidate") from exc
    uri, name, size, digest = line.replace("'", "").split()
    print(f"@package {package} {name} {size}", flush=True)
    kind, _, wanted = digest.partition(":")
    check = hashlib.new(kind.lower())
    with urllib.request.urlopen(uri, timeout=120) as source:
        if read(source, check, 8) != b"!<arch>\n":
            sys.exit(f"{name} is no Debian package")
        while header := read(source, check, 60):
            member, length = header[:16].decode().strip(), int(header[48:58])
            if member.startswith("data.tar"):
                unpack(source, check, member, length, out, patterns)
            else:
                read(source, check, length)
            read(source, check, length % 2)
    if check.hexdigest() != wanted:
        sys.exit(f"{name} has another hash than the mirror's index says")


def clear(out: str) -> None:
    """Forget what was unpacked of a kernel that is not whole."""
    for path in Path(out).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def read(source: IO[bytes], check: Any, length: int) -> bytes:
    """Read ``length`` bytes and count them into the hash."""
    data = source.read(length)
    check.update(data)
    return data


def unpack(
    source: IO[bytes],
    check: Any,
    member: str,
    length: int,
    out: str,
    patterns: list[str],
) -> None:
    """Hand a member of the package to tar as it comes."""
    packing = {"xz": ["--xz"], "zst": ["--zstd"], "gz": ["--gzip"]}
    argv = ["tar", "-x", "-C", out, "--no-same-owner", "--wildcards"]
    argv += packing.get(member.rpartition(".")[2].rstrip("/"), []) + patterns
    # its status is 2 where a pattern matched nothing, which is usual
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as tar:
        assert tar.stdin is not None
        while length:
            if not (block := read(source, check, min(BLOCK, length))):
                sys.exit(f"the mirror closed the line {length} bytes early")
            length -= len(block)
            try:
                tar.stdin.write(block)
            except BrokenPipeError:
                sys.exit(f"tar cannot unpack {member}: is the disk full?")


def main(out: str, series: str, flavour: str, have: str) -> None:
    """Stream the newest kernel of ``series`` into ``out``, unless it is ``have``."""
    with tempfile.TemporaryDirectory() as lists:
        for name in ("lists/partial", "cache/archives/partial"):
            Path(lists, name).mkdir(parents=True)
        apt(lists, "get", "update")
        names = apt(lists, "cache", "pkgnames", "linux-").split()
        packages, note = choose(names, series, flavour)
        if not packages:
            sys.exit(note)
        for package in packages[:TRIES]:
            if package == have:
                print(f"@same {package}")
                break
            try:
                for part, patterns in parts(package, names):
                    stream(lists, part, out, patterns)
            except urllib.error.HTTPError as exc:  # the index names what is gone
                note = f"{package} is gone from the mirror ({exc.code}): took an older"
            except Gone as exc:
                note = f"{package} is not whole on the mirror ({exc}): took an older"
            else:
                print(f"@done {package}")
                break
            clear(out)
        else:
            sys.exit(note)
    if note:
        print(f"@fallback {note}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

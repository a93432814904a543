"""Kbuild: make a kernel of a tree and a variant, and put it into the store.

What goes in is hashed first: what is in the store is not built again. Otherwise a
fresh output directory (``workplace.py``) is configured, built, checked and collected.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from harness.artifacts import Artifacts, Store
from harness.build import collect, diagnose
from harness.build.symbols import read_symbols
from harness.build.tree import Tree
from harness.build.workplace import (
    TARGETS,
    Limit,
    Workplace,
    environment,
    kept_log,
    read_order,
    workplace,
)
from harness.cache import cache_dir, locked, try_locked
from harness.container.image import Image
from harness.container.job import Engine, Limits, own
from harness.errors import InfraError
from harness.kconfig import parse_config, render, require
from harness.progress import Progress, silent
from harness.variant import Variant

TYPICAL_STEPS = 900  # before the first build of a variant; only progress depends on it
CONFIGURE_TIMEOUT_S = 600.0
MEMORY_MB = 6144
# ``  CC      init/main.o``; a module's steps have [M] behind the word.
_STEP = re.compile(r"^  ([A-Z]+) +(?:\[M\] +)?\S", re.MULTILINE)
_COMPILED = ("CC", "AS")
_WRITTEN = ("request", "replaced", ".config")  # by us, not by make

_SMOKE = """\
set -e
echo 'int main(void) { return 0; }' > /tmp/smoke.$$.c
# What ccache has it answers, also where it may not write: compile it anyway.
CCACHE_RECACHE=1 gcc -O2 -c -o /tmp/smoke.$$.o /tmp/smoke.$$.c
rm -f /tmp/smoke.$$.c /tmp/smoke.$$.o
"""
_CONFIGURE = """\
set -e
src=$1 out=$2 target=$3
test "$target" = . || make -s -C "$src" O="$out" "$target"
grep -v -x -E -f "$out/replaced" "$out/.config" > "$out/merged" || true
cat "$out/merged" "$out/request" > "$out/.config"
make -s -C "$src" O="$out" olddefconfig
make -s -C "$src" O="$out" kernelrelease > "$out/release"
"""


def build(
    engine: Engine,
    tree: Tree,
    variant: Variant,
    image: Image,
    store: Store,
    *,
    progress: Progress = silent,
    jobs: int = 2,
    timeout_s: float = 3600.0,
) -> Artifacts:
    """Return the kernel ``variant`` of ``tree``, building it unless it is stored.

    Raises:
        UserError: the tree cannot have what the fragments ask for.
        BuildError: the tree does not configure or compile; the log is kept.
        InfraError: memory, disk, time or the engine failed.
    """
    wanted = read_order(tree, variant, image, Limit(jobs, timeout_s))
    key = wanted.key
    if found := store.find(key):
        return found
    lock = cache_dir() / "build" / f"{key}.lock"
    with try_locked(lock) as free:
        if not free:
            progress(f"waiting for another build of {variant.name}")
    with locked(lock):
        if found := store.find(key):
            return found
        with workplace(engine, wanted, progress) as place:
            configure(place)
            make(place, targets(place, TARGETS))
            return collect.collect(place, store)


def stored(
    tree: Tree, variant: Variant, image: Image, store: Store
) -> Artifacts | None:
    """Return the kernel ``variant`` of ``tree`` if it was built; its digest will do."""
    return store.find(read_order(tree, variant, image, Limit()).key)


def configure(place: Workplace) -> None:
    """Smoke-test the compiler, make the .config and check it against the request."""
    order = place.order
    place.progress(f"configuring {order.variant.name}")
    if _run(place, ["sh", "-c", _SMOKE], CONFIGURE_TIMEOUT_S):
        tail = "\n".join(place.log.read_text(errors="replace").splitlines()[-5:])
        raise InfraError(
            f"the compiler of {order.image.tag} does not compile:\n{tail}",
            hint=f"delete {place.mounts[2].source}, or make the image again",
        )
    symbols = read_symbols(order.tree.source)
    request = render(order.requests, symbols.names)
    (place.out / "request").write_text(request)
    (place.out / "replaced").write_text(_replaced(request))
    target = "."
    if isinstance(order.variant.base, Path):
        (place.out / ".config").write_text(order.base)
    else:
        target = order.base
    for name in _WRITTEN:  # of a kept directory the rest is its user's already
        if (place.out / name).exists():
            own(place.out / name, place.engine.user)
    argv = ["sh", "-c", _CONFIGURE, "configure", *place.paths(), target]
    if _run(place, argv, CONFIGURE_TIMEOUT_S):
        raise diagnose.build_error(place.log, kept_log(order), "does not configure")
    place.config = parse_config((place.out / ".config").read_text())
    place.release = (place.out / "release").read_text().strip()
    require(order.requests, place.config, symbols.why)


def _replaced(request: str) -> str:
    """Return patterns of the .config lines that ``request`` replaces."""
    symbols = parse_config(request)
    return "".join(
        f"CONFIG_{symbol}=.*\n# CONFIG_{symbol} is not set\n" for symbol in symbols
    )


def targets(place: Workplace, names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that the configuration has."""
    return [t for t in names if t != "modules" or place.config.get("MODULES") == "y"]


def make(
    place: Workplace,
    targets: Sequence[str],
    options: Sequence[str] = (),
    *,
    jobs: int | None = None,
) -> None:
    """Run make, and check that it built what was configured.

    ``jobs`` are those of the order unless told.

    Raises:
        BuildError: it failed; the log tells why.
        InfraError: the machine did, or what was built is not what was configured.
    """
    order = place.order
    src, out = place.paths()
    parallel = f"-j{jobs or order.limit.jobs}"
    argv = ["make", "-C", src, f"O={out}", parallel, *options, *targets]
    counter = _Steps(place, targets)
    if _run(place, argv, order.limit.timeout_s, counter):
        raise diagnose.build_error(place.log, kept_log(order), "does not build")
    counter.remember()
    place.compiled = counter.compiled
    diagnose.require_intact(place.out, place.config)


def _run(
    place: Workplace,
    argv: list[str],
    timeout_s: float,
    counter: _Steps | None = None,
) -> int:
    """Run one command of the build; return its status unless the machine failed."""
    mark = place.log.stat().st_size if place.log.exists() else 0
    with place.log.open("a", buffering=1) as log:

        def on_text(text: str) -> None:
            log.write(text)
            if counter is not None:
                counter(text)

        jobs = place.order.limit.jobs
        ended = place.engine.run(
            place.order.image.tag,
            argv,
            mounts=place.mounts,
            limits=Limits(MEMORY_MB, 4096, float(jobs), timeout_s),
            env=environment(place.engine.path(place.mounts[2])),
            on_text=on_text,
        )
    with place.log.open(errors="replace") as log:
        log.seek(mark)
        diagnose.require_machine(ended, log.read(), kept_log(place.order), timeout_s)
    return ended.returncode


class _Steps:
    """Counts make's lines; the total is that of the last build of the same."""

    def __init__(self, place: Workplace, targets: Sequence[str]) -> None:
        self._place = place
        part = "" if "bzImage" in targets else f" {' '.join(targets)}"
        self._name = f"{place.order.variant.name} {place.order.tree.name}{part}"
        self._file = cache_dir() / "build" / "steps.json"
        self._total = self._known().get(self._name, TYPICAL_STEPS)
        self._rest = ""
        self._done = 0
        self.compiled = 0

    def __call__(self, text: str) -> None:
        text = self._rest + text
        whole, newline, self._rest = text.rpartition("\n")
        words = _STEP.findall(whole + newline)
        self._done += len(words)
        self.compiled += sum(word in _COMPILED for word in words)
        if words:
            what = f"building {self._place.order.variant.name}"
            self._place.progress(what, self._done, max(self._total, self._done))

    def _known(self) -> dict[str, int]:
        try:
            return {k: int(v) for k, v in json.loads(self._file.read_text()).items()}
        except (OSError, ValueError):
            return {}

    def remember(self) -> None:
        """Keep the count for the next time."""
        known = {**self._known(), self._name: self._done}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(f".{uuid.uuid4().hex}")
        fresh.write_text(json.dumps(known))
        fresh.replace(self._file)

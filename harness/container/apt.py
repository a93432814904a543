"""Apt: what Debian's mirror has, asked in a container of an image of ours.

Unprivileged and in /tmp: apt needs no more to fetch what it can verify.
"""

from __future__ import annotations

import re

from harness import network
from harness.container.image import Recipe
from harness.container.job import Engine, Limits
from harness.errors import InfraError

# Defines ``apt``, which does not lock, and leaves its lists behind in $work.
PRELUDE = r"""
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apt() {
    command=$1; shift
    "apt-$command" -q -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" \
        -o Debug::NoLocking=1 "$@"
}
apt get update >&2
"""
_SIMULATE = PRELUDE + "apt get --simulate dist-upgrade\n"
_INSTALL = re.compile(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+)", re.MULTILINE)
_LIMITS = Limits(timeout_s=300)


def newer(engine: Engine, recipe: Recipe) -> tuple[str, ...]:
    """Return the packages of ``recipe``'s image of which the mirror has a newer version.

    ``gcc-12 12.2.0-14 -> 12.2.0-14+deb12u1``, each; sorted.

    Raises:
        InfraError: nothing may be fetched, or the mirror does not answer.
    """
    network.require(f"what is newer than the image {recipe.name}")
    said: list[str] = []
    ended = engine.run(
        recipe.tag,
        ["sh", "-c", _SIMULATE],
        limits=_LIMITS,
        network=True,
        on_text=said.append,
    )
    text = "".join(said)
    if ended.returncode:
        tail = "\n".join(text.splitlines()[-10:])
        raise InfraError(
            f"cannot ask what is newer than the image {recipe.name} "
            f"(status {ended.returncode})\n{tail}",
            hint="does apt-get update work on this host?",
        )
    return upgrades(text)


def upgrades(text: str) -> tuple[str, ...]:
    """Return what a simulated upgrade, which printed ``text``, would install; sorted."""
    found = {
        f"{name} {before or 'none'} -> {after}"
        for name, before, after in _INSTALL.findall(text)
    }
    return tuple(sorted(found))

"""Part: a kernel or one file of it, made in an output directory that may be kept.

For many commits of one tree. The whole kernel is neither built nor stored: one object
takes a second. What is kept is what make can be trusted with; what it would take for
up to date and is not (the stale-object hazard) is deleted first. objtool depends on
its own source only where it runs on vmlinux.o, and a line like
``OBJECT_FILES_NON_STANDARD_x.o := y`` changes no command: in v5.10 neither rebuilds x.o.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.build import kbuild
from harness.build.workplace import TARGETS, Order, Workplace, furnish, keep_log
from harness.cache import require_space
from harness.container.job import Engine
from harness.errors import BuildError
from harness.kconfig import parse_config
from harness.progress import Progress

LINKED = "vmlinux"
_LINKED = (LINKED, "vmlinux.unstripped")  # since 6.16 the first is made of the second
SPACE = 2 << 30
_BUSY = "busy"  # is there while something is made: whoever finds it finds poison
_CONFIGURED = "configured"
_RESOLVED = "resolved"  # the .config that `resolve` left
# Without IBT and LTO objtool runs on each object, with them only on vmlinux.o, as
# `delay-objtool` says (scripts/Makefile.lib of v6.1 and v6.12): a single object
# has no table then. It is given one: `--ibt requires --link`, and no other option
# depends on it. Before, neither variable means anything.
_OBJTOOL = (
    "delay-objtool=",
    "objtool-args=$(objtool-args-y) $(if $(part-of-module),--module) "
    "$(if $(CONFIG_LTO_CLANG)$(CONFIG_X86_KERNEL_IBT),--link)",
)
# `make arch/x86/lib/x.o` makes it twice: as arch/x86's, which it is not and without
# objtool, and as arch/x86/lib's. One after the other, the right one is the last.
_IN_TURN = 1


@contextlib.contextmanager
def opened(
    engine: Engine, order: Order, directory: Path, progress: Progress
) -> Iterator[Workplace]:
    """Yield the place to build in that ``directory`` keeps; new if it is poison.

    Poison is what is left by a kill, or by anything that failed and was not the
    source. It is deleted whole.
    """
    require_space(directory.parent, SPACE, f"building {order.variant.name}")
    if (directory / _BUSY).exists():
        shutil.rmtree(directory)
    place = furnish(engine, order, directory, progress)
    place.log.unlink(missing_ok=True)
    busy = directory / _BUSY
    busy.touch()
    try:
        yield place
    except BuildError:
        keep_log(place)
        busy.unlink()
        raise
    except BaseException:
        keep_log(place)
        shutil.rmtree(directory, ignore_errors=True)
        raise
    busy.unlink()


def make(
    place: Workplace, target: str, more: Sequence[str] = (), *, reconfigure: bool
) -> Path:
    """Make ``target`` (``vmlinux``, or one object) and return its path.

    ``more`` is made with ``vmlinux``: what it takes to boot it.
    What is configured already is configured anew only where ``reconfigure`` asks.

    Raises:
        UserError: the tree cannot have what the variant asks for.
        BuildError: it does not configure or compile; the log is kept.
        InfraError: the machine failed.
    """
    _configure(place, reconfigure=reconfigure)
    made = place.out / target
    for stale in (made, place.out / "vmlinux.o"):
        stale.unlink(missing_ok=True)
    if target == LINKED:
        kbuild.make(place, kbuild.targets(place, [target, *more]))
    else:
        kbuild.make(place, [target], _OBJTOOL, jobs=_IN_TURN)
    if not made.exists():
        raise BuildError(f"make succeeded and left no {target}")
    return made


def resolve(place: Workplace) -> Path:
    """Make the .config that the order comes to, build nothing, and return its path.

    Raises:
        UserError: the tree cannot have what the variant asks for.
        BuildError: the tree does not configure.
        InfraError: the machine failed.
    """
    for marker in (_CONFIGURED, _RESOLVED):
        (place.scratch / marker).unlink(missing_ok=True)
    kbuild.configure(place)
    config = place.out / ".config"
    shutil.copyfile(config, place.scratch / _RESOLVED)
    return config


def make_whole(place: Workplace, *, reconfigure: bool) -> None:
    """Make the kernel, its image and its modules: what changed, as make sees it.

    Raises: as :func:`make` does.
    """
    _configure(place, reconfigure=reconfigure)
    for linked in _LINKED:  # anew, or what only the link runs would not count
        (place.out / linked).unlink(missing_ok=True)
    kbuild.make(place, kbuild.targets(place, TARGETS))


def _configure(place: Workplace, *, reconfigure: bool) -> None:
    config, before = place.out / ".config", place.scratch / _CONFIGURED
    if (
        not reconfigure
        and before.exists()
        and before.read_bytes() == config.read_bytes()
    ):
        place.config = parse_config(config.read_text())
        place.release = (place.out / "release").read_text().strip()
        return
    before.unlink(missing_ok=True)
    if _is_resolved(place, config):
        place.config = parse_config(config.read_text())
        place.release = (place.out / "release").read_text().strip()
    else:
        (place.scratch / _RESOLVED).unlink(missing_ok=True)
        kbuild.configure(place)
    kbuild.make(place, ["prepare"])  # on all cores: a single object takes one
    shutil.copyfile(config, before)


def _is_resolved(place: Workplace, config: Path) -> bool:
    """Tell whether ``resolve`` has just made the very .config that is ordered."""
    resolved = place.scratch / _RESOLVED
    if not resolved.exists() or place.order.requests:
        return False
    text = config.read_text()
    return text == resolved.read_text() == place.order.base

"""Equip: the plugin, compiled in the machine image, and a machine that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from harness.boot.compiler import compiled
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Plan
from harness.variant import Platform

SOURCE = Path(__file__).resolve().parent / "plugin"
# The flags are where the compiler is: in the image.
_COMPILE = (
    *("sh", "-ec", 'exec "$@" $(pkg-config --cflags glib-2.0)', "cc"),
    *("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-flto"),
    *("-shared", "-fPIC", "-fvisibility=hidden"),
)
SLOWER = 8.0  # at most, on a busy machine
PREFIX = "shadow"
_PLUGIN = "shadow.so"
_TABLE = "shadow.table"
# Xen's create_bounce_frame pushes rcx and r11 below the frame (arch/x86/x86_64/entry.S).
_ARGUMENTS = {Platform.XEN: ("bounce=16",), Platform.KVM: ("nested=on",)}

Equip = Callable[[Plan, str], Plan]


def plugin(toolbox: Toolbox) -> bytes:
    """Return the plugin, compiled once.

    Raises:
        InfraError: the image's compiler does not compile it.
    """
    sources = sorted(path.name for path in SOURCE.glob("*.c"))
    return compiled(toolbox.engine, toolbox.image, _PLUGIN, _COMPILE, SOURCE, sources)


def equip(toolbox: Toolbox, table: bytes, platform: Platform, *more: str) -> Equip:
    """Return what adds the plugin with ``table`` to a machine's plan.

    ``more`` are arguments of the plugin beside the platform's.

    Raises:
        InfraError: the plugin cannot be compiled.
    """
    code = plugin(toolbox)

    def equipped(plan: Plan, directory: str) -> Plan:
        words = [
            f"{directory}/{_PLUGIN}",
            f"table={directory}/{_TABLE}",
            f"out={directory}/{PREFIX}",
            *_ARGUMENTS.get(platform, ()),
            *more,
        ]
        return replace(
            plan,
            argv=(*plan.argv, "-plugin", ",".join(words)),
            files={**plan.files, _PLUGIN: code, _TABLE: table},
            timeout_s=plan.timeout_s * SLOWER,
        )

    return equipped

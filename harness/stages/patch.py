"""Patch: a kernel's file as a platform runs it, and what checking that came to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from harness.elf.alternative import MAX_WORDS, parse_alternatives
from harness.elf.feature import Features, image_features
from harness.elf.load import load
from harness.elf.program import Program
from harness.elf.rewrite import rewritten
from harness.errors import UserError
from harness.finding import Finding
from harness.text.patch import NopTable, build_streams
from harness.text.patch.choice import Machine, decided
from harness.text.patch.view import View, patcher_of
from harness.variant import Platform
from harness.verify.columns import read_columns
from harness.verify.texts.view import verify_view

LINKED = (
    "return thunks, retpolines, static calls, jump labels and endbr are as linked: the "
    "kernel decides on them at boot"
)


class Patched(Struct, frozen=True):
    """One kernel file as a platform runs it.

    Attributes:
        name: of the file that was read.
        platform: what it runs on.
        era: how the kernel patches.
        sites: how many have other bytes than the file.
        bytes: how many bytes that are.
        guessed: direct calls whose target only the running kernel knows for sure.
        notes: what was assumed.
        findings: what a check of the patched program found that one of the linked
            did not; none if it was not asked for.
    """

    name: str
    platform: str
    era: str
    sites: int
    bytes: int
    guessed: int
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def patch(
    path: Path,
    machine: Machine,
    target: Path | None,
    *,
    table: NopTable = NopTable.P6,
    check: bool = False,
) -> Patched:
    """Patch ``path`` for ``machine``; write it to ``target``, check it, if asked.

    Raises:
        UserError: it is not a linked kernel.
        FormatError: it cannot be read.
    """
    program = load(path)
    if program.relocatable:
        rewritten(path, program)  # which says why not
    alternatives = parse_alternatives(program)
    streams = None if alternatives is None else build_streams(program, alternatives)
    view = patcher_of(program, alternatives, streams, table=table).view(machine)
    if target is not None:
        rewritten(path, view.program).tofile(target)
    return Patched(
        program.name,
        machine.platform.value,
        "none" if streams is None else streams.era.value,
        view.sites,
        view.changed,
        view.guessed,
        _notes(machine, image_features(program), view),
        _check(program, machine) if check else (),
    )


def _check(program: Program, machine: Machine) -> tuple[Finding, ...]:
    columns = read_columns(program, image_features(program))
    if columns is None:
        raise UserError(
            f"{program.name} carries no ORC: there is nothing to check",
            hint="leave --check out",
        )
    return verify_view(columns, machine).findings


def machine_of(
    path: Path,
    platform: Platform,
    asked: Mapping[str, bool],
    *,
    others: bool,
    features: Features | None = None,
) -> Machine:
    """Return the machine with the features that are ``asked`` for by name.

    Raises:
        UserError: the kernel has no feature of that name.
    """
    if not asked:
        return Machine(platform, others)
    names = features or image_features(load(path))
    return Machine(
        platform, others, {_number(names, name): has for name, has in asked.items()}
    )


def _number(names: Features, name: str) -> int:
    number = names.number(name.upper().removeprefix("X86_FEATURE_"))
    word, times, bit = name.partition("*32+")
    if number is None and times and word.isdigit() and bit.isdigit():
        number = int(word) * 32 + int(bit)
    if number is None or number >= 32 * MAX_WORDS:
        raise UserError(
            f"this kernel has no feature {name} (names from: {names.source})",
            hint="names are those of asm/cpufeatures.h, without X86_FEATURE_; give a "
            "build directory that has cpufeatures.h, or the number of a bit as 9*32+20",
        )
    return number


def _notes(machine: Machine, features: Features, view: View) -> tuple[str, ...]:
    fixed = decided(machine.platform) | dict(machine.features)
    named = [
        features.name(number) if has else f"not {features.name(number)}"
        for number, has in sorted(fixed.items())
    ]
    rest = "all" if machine.others else "none"
    notes = [f"{', '.join(named)}; the CPU has {rest} of the other features", LINKED]
    if view.guessed:
        notes.append(
            f"{view.guessed} calls through pv_ops are as the image has the pointer, "
            f"which {machine.platform} may change before it patches"
        )
    return tuple(notes)

"""Selected: the features that a platform's kernel has to have found, or it is not its.

A guest that runs on a platform and does not select what that platform has replacements
for runs natively patched text there: nothing that is seen of it is about the platform.
"""

from __future__ import annotations

from harness.boot.outcome import Rule
from harness.elf.feature import Features
from harness.finding import Finding, Location
from harness.text.patch.said import Said
from harness.variant import Platform

# Set from what pv_ops holds (paravirt_set_cap() of arch/x86/kernel/paravirt-spinlocks.c
# since 5.13, alternative.c later): by kvm_spinlock_init() and kvm_guest_init().
SELECTED = {Platform.KVM: ("PVUNLOCK", "VCPUPREEMPT"), Platform.XEN: ("XENPV",)}


def unselected(said: Said, platform: str) -> tuple[Finding, ...]:
    """Return what the machine on ``platform`` should have selected, and has not.

    Of a kernel that knows no feature of that name nothing is asked.
    """
    wanted = SELECTED.get(Platform(platform), ()) if platform else ()
    return tuple(
        _finding(name, platform)
        for name in wanted
        if _known(said.names, name) and not said.has(name)
    )


def _known(names: Features, name: str) -> bool:
    return names.number(name) is not None


def _finding(name: str, platform: str) -> Finding:
    return Finding(
        rule=Rule.PLATFORM.value,
        location=Location("vmlinux", platform, 0),
        message=f"{name} was not selected: the kernel has not set it in boot_cpu_data",
        declared="what its replacements for this platform wait for",
        actual="patched as if it ran elsewhere",
        platforms=(platform,),
        cause=name,
    )

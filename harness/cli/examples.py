"""Examples: what each command's --help shows it with."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "doctor": ("orc-harness doctor", "orc-harness doctor --runtime podman"),
    "build": ("orc-harness build --tree ~/linux --variant xen",),
    "extract": ("orc-harness extract vmlinux",),
    "validate": (
        "orc-harness validate ~/linux",
        "orc-harness validate /boot/vmlinuz-* /lib/modules/*",
    ),
    "patch": ("orc-harness patch vmlinux --platform xen --output vmlinux.xen",),
    "show": ("orc-harness show vfs_read+0x1c --of vmlinux",),
    "explain": (
        "orc-harness explain text/ret-1",
        "orc-harness explain 'alternative/state:callee foo' vmlinux",
    ),
    "report-fp": ("orc-harness report-fp KEY vmlinux --output r.json",),
    "baseline": (
        "orc-harness baseline list",
        "orc-harness baseline add KEY --reason WHY --link URL --expires 2027-06-30",
    ),
    "boot": ("orc-harness boot ~/linux --platform xen --compare",),
    "readback": ("orc-harness readback ~/linux --cpu EPYC",),
    "run": ("orc-harness run --tree ~/linux --variant xen",),
    "matrix": ("orc-harness matrix --plan", "orc-harness matrix '6.12-*' --nightly"),
    "bisect": (
        "orc-harness bisect --tree ~/linux --good v6.11 --bad v6.12",
        "orc-harness bisect --tree ~/linux --good v6.11 --target mm/util.o",
    ),
    "bisect-step": ("git bisect run orc-harness bisect-step --finding KEY",),
    "config-bisect": (
        "orc-harness config-bisect --good native --bad native+debug.config",
        "orc-harness config-bisect --tree ~/linux --good a.config --bad b.config",
    ),
    "config-bisect-step": (
        "orc-harness config-bisect-step --config FILE --finding KEY "
        "--target arch/x86/lib/hweight.o",
    ),
    "report": ("orc-harness report report/ --format markdown",),
    "history": ("orc-harness history --trend",),
    "diff": ("orc-harness diff old/result.json report/",),
    "corpus": ("orc-harness corpus --of vmlinux",),
    "cache": (
        "orc-harness cache",
        "orc-harness cache prune --older-than 30 --to 20G",
        "orc-harness cache update",
    ),
}


def epilog(command: str) -> str:
    """Return the examples of ``command`` as the end of its help."""
    return "\n\n".join(f"$ {example}" for example in EXAMPLES[command])

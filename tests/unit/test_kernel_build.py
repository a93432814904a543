"""What there is to validate is found in any kind of build."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kernel_build
from harness.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_build_in_place(tmp_path: Path) -> None:
    """The kernel, vmlinux.o, modules, .config and cpufeatures.h are found."""
    header = "arch/x86/include/asm/cpufeatures.h"
    touch(tmp_path, "vmlinux", "vmlinux.o", "lib/b.ko", "fs/a.ko.xz", ".config", header)

    found = kernel_build.find(tmp_path)

    names = [path.relative_to(tmp_path).as_posix() for path in found.files]
    assert names == ["vmlinux", "vmlinux.o", "fs/a.ko.xz", "lib/b.ko"]
    assert found.config == tmp_path / ".config"
    assert found.cpufeatures == tmp_path / header


def test_bzimage_stands_in_for_a_missing_vmlinux(tmp_path: Path) -> None:
    """A build that was stripped to its image still has a kernel."""
    touch(tmp_path, "arch/x86/boot/bzImage")

    assert kernel_build.find(tmp_path).kernels[0].name == "bzImage"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.ko", "modules"), ("fork.o", "relocatables"), ("vmlinuz-6.12", "kernels")],
)
def test_a_single_file(tmp_path: Path, name: str, kind: str) -> None:
    """Its name tells what it is."""
    touch(tmp_path, name)

    assert getattr(kernel_build.find(tmp_path / name), kind) == (tmp_path / name,)


def test_nothing_to_validate_is_a_usage_error(tmp_path: Path) -> None:
    """An empty directory and a missing path say what was expected."""
    with pytest.raises(UserError, match="has no vmlinux"):
        kernel_build.find(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        kernel_build.find(tmp_path / "no")


def test_an_image_finds_its_modules_by_release(tmp_path: Path) -> None:
    """/boot/vmlinuz-REL and /lib/modules/REL are one kernel, others stay apart."""
    touch(tmp_path, "boot/vmlinuz-6.1-a", "boot/vmlinuz-6.1-b", "boot/config-6.1-a")
    touch(tmp_path, "lib/modules/6.1-a/kernel/x.ko", "lib/modules/6.1-c/kernel/y.ko")
    paths = sorted([*tmp_path.glob("boot/vml*"), *tmp_path.glob("lib/modules/*")])

    builds = kernel_build.pair([kernel_build.find(path) for path in paths])

    assert [build.root.name for build in builds] == ["vmlinuz-6.1-b", "6.1-a", "6.1-c"]
    joined = builds[1]
    assert [path.name for path in joined.files] == ["vmlinuz-6.1-a", "x.ko"]
    assert joined.config == tmp_path / "boot/config-6.1-a"


def test_an_image_among_its_modules(tmp_path: Path) -> None:
    """Some distributions keep the image in /lib/modules/REL."""
    touch(tmp_path, "vmlinuz", "kernel/x.ko.zst")

    names = [path.name for path in kernel_build.find(tmp_path).files]

    assert names == ["vmlinuz", "x.ko.zst"]

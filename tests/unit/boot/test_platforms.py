"""The plans of the platforms: pure data, checked word by word where it matters."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from msgspec.structs import replace

from harness.boot import kvm_probe, nested
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig, MissingMachine, Plan
from harness.boot.platforms import kvm, native, vsmp, xen
from harness.boot.platforms.request import Request
from harness.container.job import Exit, Job
from harness.elf import bzimage
from harness.elf.bzimage import BzImage
from tests.builders.machines import ScriptedEngine


def fills(job: Job) -> Exit:
    """Act as every command that machines need files of."""
    if "-o" in job.argv:
        Path(job.argv[job.argv.index("-o") + 1]).write_bytes(b"program")
        return Exit(0)
    out = Path(job.argv[4])
    (out / "xen").write_bytes(gzip.compress(b"hypervisor"))
    (out / "vmlinuz").write_bytes(b"outer kernel" + bytes(0x400))
    (out / "root" / "usr" / "bin").mkdir(parents=True)
    (out / "root" / "usr" / "bin" / "qemu").write_bytes(b"inner qemu")
    (out / "modules").mkdir()
    (out / "modules" / "kvm-amd.ko").write_bytes(b"kvm-amd")
    return Exit(0)


def request(
    tmp_path: Path, config: MachineConfig | None = None, engine: object = None
) -> Request:
    """Return a request whose image has everything, unless ``engine`` is told."""
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    toolbox = Toolbox(engine or ScriptedEngine(fills), "image")  # type: ignore[arg-type]
    return Request(
        toolbox, tmp_path / "bzImage", b"cpio", config or MachineConfig(), "42", "/m"
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))


def after(plan: Plan, option: str) -> str:
    """Return the argument of ``option``."""
    return plan.argv[plan.argv.index(option) + 1]


def test_native(tmp_path: Path) -> None:
    """A PC of QEMU's; the kernel's command line has the nonce and ends at a panic."""
    plan = native.plan(request(tmp_path))
    assert after(plan, "-append") == (
        "console=ttyS0 nokaslr panic=-1 oops=panic orc.nmi=1 orc.nonce=42"
    )
    assert (after(plan, "-cpu"), after(plan, "-accel")) == ("max", "tcg")
    assert plan.nmi
    assert plan.nonce == "42"
    assert set(plan.files) == {"bzImage", "initrd"}


def test_choices_of_people(tmp_path: Path) -> None:
    """What is chosen goes before what is usual; hold lengthens the deadline."""
    config = MachineConfig(
        qemu="my-qemu",
        cpu="Skylake-Client",
        memory_mb=512,
        timeout_s=10,
        append="mitigations=off",
        hold_s=5,
    )
    plan = native.plan(request(tmp_path, config))
    assert plan.argv[0] == "my-qemu"
    assert (after(plan, "-cpu"), after(plan, "-m")) == ("Skylake-Client", "512")
    assert after(plan, "-append").endswith("orc.nonce=42 orc.hold=5 mitigations=off")
    assert plan.timeout_s == 15


def test_vsmp_keeps_the_kernel_off_its_registers(tmp_path: Path) -> None:
    """The registers' memory is the machine's, and reserved."""
    plan = vsmp.plan(request(tmp_path))
    assert "memmap=0x10000$0xe000000" in after(plan, "-append").split()
    assert vsmp.REGISTERS + vsmp.REGISTERS_BYTES <= native.MEMORY_MB << 20


def test_a_kernel_chooses_its_address_if_that_is_asked_for(tmp_path: Path) -> None:
    """Everybody else needs the linked one."""
    plan = native.plan(request(tmp_path, MachineConfig(kaslr=True)))
    assert "nokaslr" not in after(plan, "-append")
    assert "panic=-1" in after(plan, "-append")


def test_several_cpus(tmp_path: Path) -> None:
    """Those of dom0 stay where they are, so that one can be told from another."""
    several = request(tmp_path, MachineConfig(smp=2))
    assert after(native.plan(several), "-smp") == "2"
    assert after(vsmp.plan(several), "-smp") == "2"
    plan = xen.plan(several)
    assert after(plan, "-smp") == "2"
    assert "dom0_vcpus_pin" in after(plan, "-append").split()
    assert "dom0_vcpus_pin" not in after(xen.plan(request(tmp_path)), "-append")


def test_xen(tmp_path: Path) -> None:
    """Xen is QEMU's kernel, unpacked; ours is its first module, init the second."""
    config = MachineConfig(append="module.option=1,2")
    plan = xen.plan(request(tmp_path, config))
    assert after(plan, "-kernel") == "/m/xen"
    assert plan.files["xen"] == b"hypervisor"
    modules = after(plan, "-initrd")
    assert modules.startswith("/m/bzImage console=hvc0 nokaslr panic=-1")
    assert modules.endswith(" orc.nonce=42 module.option=1,,2,/m/initrd")
    assert after(plan, "-cpu") == "qemu64"
    assert not plan.nmi


@pytest.mark.parametrize("platform", [native, vsmp])
def test_a_kernel_that_may_move(tmp_path: Path, platform: ModuleType) -> None:
    """Only what tells it not to is left out."""
    config = MachineConfig(kaslr=True)
    words = after(platform.plan(request(tmp_path, config)), "-append").split()
    assert "nokaslr" not in words
    assert "panic=-1" in words


def test_the_hypervisor_takes_arguments(tmp_path: Path) -> None:
    """They come last on its command line, where they win; dom0 does not get them."""
    plan = xen.plan(request(tmp_path, MachineConfig(xen_args="smt=0 spec-ctrl=no")))
    assert after(plan, "-append").endswith(" loglvl=all smt=0 spec-ctrl=no")
    assert "spec-ctrl" not in after(plan, "-initrd")


def test_xen_of_ones_own(tmp_path: Path) -> None:
    """A hypervisor on this host goes before the image's."""
    (tmp_path / "my-xen").write_bytes(b"mine")
    plan = xen.plan(request(tmp_path, MachineConfig(xen=str(tmp_path / "my-xen"))))
    assert plan.files["xen"] == b"mine"


@pytest.mark.parametrize("platform", [xen, kvm])
def test_image_without_the_files(platform: object, tmp_path: Path) -> None:
    """What the image has not makes a MISS that names the file."""
    engine = ScriptedEngine(lambda job: Exit(1))
    config = MachineConfig(xen="/none/xen", nested="/none/l1", host_kvm=False)
    with pytest.raises(MissingMachine, match="/none/") as caught:
        platform.plan(request(tmp_path, config, engine))  # type: ignore[attr-defined]
    assert caught.value.hint


def test_kvm_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the probe passes the host's KVM is taken, with two CPUs."""
    monkeypatch.setattr(kvm_probe, "reason_against", lambda *_: "")
    monkeypatch.setattr(kvm_probe, "device_user", lambda *_: "0:0")
    plan = kvm.plan(request(tmp_path))
    assert (after(plan, "-accel"), after(plan, "-smp")) == ("kvm", "2")
    assert (plan.devices, plan.user) == (("/dev/kvm",), "0:0")
    assert plan.facts["kvm"] == "host"


def test_kvm_nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not, a host of our own runs under TCG; the facts say why."""
    monkeypatch.setattr(kvm_probe, "reason_against", lambda *_: "no progress")
    plan = kvm.plan(request(tmp_path))
    assert plan.facts["kvm"] == "nested under TCG (no progress)"
    assert after(plan, "-accel") == "tcg"
    assert after(plan, "-cpu") == "max,+svm,-la57"
    assert plan.outer_nonce
    assert plan.outer_nonce != plan.nonce
    assert f"orc.nonce={plan.outer_nonce}" in after(plan, "-append")
    archive = plan.files["outer-initrd"]
    assert isinstance(archive, bytes)
    for content in (b"our kernel", b"inner qemu", b"kvm-amd", b"orc.nonce=42"):
        assert content in archive


def test_a_nested_guest_that_is_debugged(tmp_path: Path) -> None:
    """Its stub is at a port of its host's, which drops nothing; it waits at reset."""
    config = MachineConfig(host_kvm=False, debugged=True)
    plan = kvm.plan(request(tmp_path, config))
    assert (plan.stub, plan.spins) == ("inner-gdb", True)
    assert "virtserialport,chardev=stub" in plan.argv
    assert "socket,id=stub,path=/m/inner-gdb,server=on,wait=off" in plan.argv
    assert after(plan, "-append").endswith(" orc.debugged=1")
    archive = plan.files["outer-initrd"]
    assert isinstance(archive, bytes)
    assert b"\n-gdb\nunix:/guest/gdb,server=on,wait=off\n-S\n" in archive
    usual = kvm.plan(request(tmp_path, replace(config, debugged=False)))
    archive = usual.files["outer-initrd"]
    assert isinstance(archive, bytes)
    assert b"\n-gdb\n" not in archive
    assert "virtio-serial-pci" not in usual.argv


def test_nested_archive_is_kept(tmp_path: Path) -> None:
    """The archive that does not change is made once per image."""
    engine = ScriptedEngine(fills)
    first = nested.host(Toolbox(engine, "image"), "/opt/l1")
    jobs = len(engine.jobs)
    assert nested.host(Toolbox(engine, "image"), "/opt/l1") == first
    assert len(engine.jobs) == jobs


@pytest.mark.parametrize("size", [4, 8])
def test_host_kernel_that_qemu_can_enter(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vmlinux with a PVH entry is taken out of its bzImage; others stay packed."""
    note = struct.pack("<III4s", 4, size, 18, b"Xen")
    packed = bytearray(0x400)
    packed[0x1FE:0x206] = b"\x55\xaa\0\0HdrS"
    for vmlinux in (b"\x7fELF" + note, b"\x7fELF"):
        unpacked = BzImage(np.frombuffer(vmlinux, np.uint8), "6.12", "gzip")
        monkeypatch.setattr(bzimage, "parse_bzimage", lambda *_, u=unpacked: u)
        expected = vmlinux if note in vmlinux else bytes(packed)
        assert nested.direct_kernel(bytes(packed)) == expected
    assert nested.direct_kernel(bytes(0x400)) == bytes(0x400)


def test_inner_machine() -> None:
    """The inner guest has two CPUs, so that PV spinlocks are patched in."""
    words = nested.inner_argv("console=ttyS0 orc.nonce=42")
    assert words[words.index("-smp") + 1] == "2"
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-append") + 1] == "console=ttyS0 orc.nonce=42"
    assert not any("\n" in word for word in words)

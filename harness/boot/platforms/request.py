"""Request: what every platform is given to make its plan of."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig


class Request(Struct, frozen=True):
    """A kernel to boot, and where.

    Attributes:
        bzimage: the kernel.
        initrd: our guest's archive.
        nonce: fresh for this boot.
        directory: the machine's directory, as QEMU sees it.
    """

    toolbox: Toolbox
    bzimage: Path
    initrd: bytes
    config: MachineConfig
    nonce: str
    directory: str

    @property
    def files(self) -> dict[str, bytes | Path]:
        """The kernel and its initramfs, by their names in the directory."""
        return {"bzImage": self.bzimage, "initrd": self.initrd}

    def append(self, console: str, *more: str) -> str:
        """Return the kernel command line: ends the boot at once where it fails."""
        where = [] if self.config.kaslr else ["nokaslr"]
        words = [f"console={console}", *where, "panic=-1", "oops=panic", *more]
        words.append(f"orc.nonce={self.nonce}")
        if self.config.hold_s:
            words.append(f"orc.hold={self.config.hold_s}")
        if self.config.append:
            words.append(self.config.append)
        return " ".join(words)

    def timeout_s(self, usual_s: float) -> float:
        """Return the boot's deadline: the one asked for, else the usual; plus hold."""
        return (self.config.timeout_s or usual_s) + self.config.hold_s

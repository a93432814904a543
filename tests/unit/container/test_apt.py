"""What a simulated upgrade says."""

from __future__ import annotations

from harness.container.apt import upgrades

SAID = """\
Reading package lists...
Calculating upgrade...
The following NEW packages will be installed:
  libnew
Inst libc6 [2.36-9+deb12u1] (2.36-9+deb12u2 Debian:12.1/stable [amd64]) []
Inst libnew (1.0-1 Debian:12.1/stable [amd64])
Inst gcc-12 [12.2.0-14] (12.2.0-14+deb12u1 Debian:12.1/stable [amd64])
Conf libc6 (2.36-9+deb12u2 Debian:12.1/stable [amd64])
"""


def test_what_is_newer() -> None:
    """Each package once, with both versions; what is new to the image has one."""
    assert upgrades(SAID) == (
        "gcc-12 12.2.0-14 -> 12.2.0-14+deb12u1",
        "libc6 2.36-9+deb12u1 -> 2.36-9+deb12u2",
        "libnew none -> 1.0-1",
    )
    assert upgrades("Calculating upgrade...\n0 upgraded, 0 newly installed\n") == ()

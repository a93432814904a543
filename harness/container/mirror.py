"""Mirror: where Debian's packages come from on this machine.

No mirror is written anywhere in this project: it is the one that apt on the host
uses, else mmdebstrap's own default.
"""

from __future__ import annotations

from msgspec import Struct

from harness import run

APT_TIMEOUT_S = 60
NO_SECURITY = ("sid", "unstable", "experimental")
_TARGETS = ("$(REPO_URI)", "$(RELEASE)", "$(COMPONENT)", "$(ORIGIN)")


class Mirror(Struct, frozen=True):
    """URLs of Debian's archive and its security archive; empty if unknown."""

    main: str = ""
    security: str = ""

    def sources(self, suite: str, *, check_valid_until: bool = True) -> list[str]:
        """Return sources.list lines for ``suite``; none if the mirror is unknown."""
        if not self.main:
            return []
        option = "" if check_valid_until else " [check-valid-until=no]"
        lines = [f"deb{option} {self.main} {suite} main"]
        if suite in NO_SECURITY:
            return lines
        lines.append(f"deb{option} {self.main} {suite}-updates main")
        if self.security:
            lines.append(f"deb{option} {self.security} {suite}-security main")
        return lines


def host_mirror() -> Mirror:
    """Ask apt on this host; an unknown Mirror if there is no apt, or not Debian's."""
    apt_get = run.which("apt-get")
    if apt_get is None:
        return Mirror()
    argv = [apt_get, "indextargets", "--format", "\t".join(_TARGETS)]
    done = run.run([*argv, "Identifier: Packages"], timeout_s=APT_TIMEOUT_S)
    return parse_targets(done.output) if done.returncode == 0 else Mirror()


def parse_targets(text: str) -> Mirror:
    """Find the mirror in ``apt-get indextargets`` lines.

    Each line is URI, suite, component and origin, divided by tabs. The origin is
    empty before the first ``apt-get update``; then the path has to tell.
    """
    main = security = ""
    for line in text.splitlines():
        uri, suite, component, origin = (*line.split("\t"), "", "", "")[:4]
        path = uri.rstrip("/").rpartition("/")[2]
        if component != "main" or origin not in ("Debian", ""):
            continue
        if suite.endswith(("-security", "/updates")):
            security = security or (uri if origin or "security" in path else "")
        elif not suite.endswith("-backports"):
            main = main or (uri if origin or path == "debian" else "")
    return Mirror(main, security)

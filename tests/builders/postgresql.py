"""PostgreSQL: a server of our own, from Debian's package, for as long as a test."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
OWNER = "postgres"  # who runs it if we are root, whom it refuses
TIMEOUT_S = 300
_ROLE = "orc"


def programs() -> Path | None:
    """Return the directory of the newest server's programs, if one is installed."""
    found = DEBIAN.glob("*/bin/initdb")
    newest = sorted(found, key=lambda path: float(path.parts[-3]))
    return newest[-1].parent if newest else None


@contextlib.contextmanager
def server(bin_dir: Path) -> Iterator[str]:
    """Start a server on the loopback device; yield its URL, without a database."""
    root = os.getuid() == 0
    directory = Path(tempfile.mkdtemp(prefix="orc-harness-postgresql-"))
    if root:
        owner = pwd.getpwnam(OWNER)
        os.chown(directory, owner.pw_uid, owner.pw_gid)

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [bin_dir / program, f"--pgdata={directory}/data", *arguments],
            cwd=directory,
            user=OWNER if root else None,
            group=OWNER if root else None,
            extra_groups=[] if root else None,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=True,
        )

    password = secrets.token_hex(16)
    secret = directory / "password"
    secret.write_text(password)
    secret.chmod(0o644)  # the directory is its owner's alone
    port = _free_port()
    settings = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off "
        f"-c unix_socket_directories={directory}"
    )
    try:
        call(
            "initdb",
            f"--username={_ROLE}",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "--encoding=UTF8",
            "--locale=C",
        )
        call(
            "pg_ctl",
            "start",
            "--wait",
            f"--timeout={TIMEOUT_S}",
            f"--log={directory}/log",
            f"--options={settings}",
        )
        try:
            yield f"postgresql://{_ROLE}:{password}@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

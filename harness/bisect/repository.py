"""Repository: the user's history, which is only read, and a checkout of our own.

The checkout borrows the repository's objects (``objects/info/alternates``) and has its
own index; nothing is written to what is the user's. Its ``.git`` lies beside the files,
since kbuild would look for the commit's name in it, and every kernel would differ.
Commits are checked out in place: git touches only files that differ, and make rebuilds
only what was touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from harness import run
from harness.bisect.dag import Dag
from harness.build.tree import LANDMARKS
from harness.errors import InfraError, UserError

GIT_TIMEOUT_S = 600.0
NOBODY = "orc-harness <orc-harness@localhost>"
_HASH = re.compile(r"[0-9a-f]{40,64}")
# A container's user reads the checkout, whatever our umask is.
_UMASK = ("sh", "-c", 'umask 022; exec "$@"', "umask")


class Commit(Struct, frozen=True):
    """What people call a commit."""

    hash: str
    author: str
    date: str
    subject: str

    def __str__(self) -> str:
        return f'{self.hash[:12]} ("{self.subject}")'


class Repository(Struct, frozen=True):
    """Somebody's repository; every method only reads it."""

    root: Path

    def git(self, *argv: str) -> run.Completed:
        """Run git in it, whatever comes of it."""
        return run.run(
            ["git", "-c", "safe.directory=*", "-C", str(self.root), *argv],
            timeout_s=GIT_TIMEOUT_S,
            env=_environment(),
        )

    def read(self, *argv: str) -> str:
        """Return what git prints.

        Raises:
            InfraError: it fails.
        """
        done = self.git(*argv)
        if done.returncode:
            raise InfraError(f"git {' '.join(argv)} in {self.root}: {done.tail}")
        return done.output

    @property
    def bare(self) -> bool:
        """Whether it has no files beside the history."""
        return self.read("rev-parse", "--is-bare-repository").strip() == "true"

    def resolve(self, revision: str) -> str:
        """Return the hash of the commit that ``revision`` names.

        Raises:
            UserError: there is no such commit.
        """
        done = self.git(
            "rev-parse", "--verify", "-q", "--end-of-options", f"{revision}^{{commit}}"
        )
        hashes = _hashes(done.output)
        if done.returncode or not hashes:
            raise UserError(
                f"{self.root} has no commit {revision!r}",
                hint="a tag, branch or hash; a shallow or single-branch clone lacks some",
            )
        return hashes[-1]

    def dirty(self) -> tuple[str, ...]:
        """Return the tracked files that are not as they were committed."""
        if self.bare:
            return ()
        lines = self.read("status", "--porcelain", "--untracked-files=no").splitlines()
        return tuple(line[3:] for line in lines)

    def between(self, good: str, bad: str) -> Dag:
        """Return the commits that ``bad`` is made on and ``good`` is not.

        Raises:
            UserError: ``bad`` is not made on ``good``, or one is no kernel for x86.
        """
        for commit in (bad, good):
            self.require_kernel(commit)
        if bad == good:
            raise UserError(f"the good and the bad end are the same commit {bad[:12]}")
        if not self.git("merge-base", "--is-ancestor", bad, good).returncode:
            raise UserError(
                f"the good end {good[:12]} is made on the bad end {bad[:12]}",
                hint="are they swapped? what took a finding away is not searched",
            )
        if self.git("merge-base", "--is-ancestor", good, bad).returncode:
            bases = _hashes(self.git("merge-base", good, bad).output)
            raise UserError(
                f"the bad end {bad[:12]} is not made on the good end {good[:12]}",
                hint=f"is {bases[0][:12]} good, on which both are made?"
                if bases
                else "they have no history in common",
            )
        rows = self.read("rev-list", "--topo-order", "--parents", bad, f"^{good}")
        parents = {}
        for line in rows.splitlines():
            commit, *made_on = line.split()
            parents[commit] = tuple(made_on)
        return Dag(parents)

    def require_kernel(self, commit: str) -> None:
        """Raise UserError unless ``commit`` is a kernel for x86."""
        listed = self.read("ls-tree", "--name-only", commit, "--", *LANDMARKS)
        if missing := sorted(set(LANDMARKS) - set(listed.splitlines())):
            raise UserError(
                f"{self.root} is no kernel tree for x86: {commit[:12]} has no "
                f"{missing[0]}",
                hint="--tree takes a repository with the history of Linux",
            )

    def touches(self, paths: Sequence[str], pattern: str = "") -> bool:
        """Tell whether any commit changes one of ``paths``, in a line with ``pattern``."""
        lines = [f"-G{pattern}"] if pattern else []
        found = self.read(
            "log", "-1", "--format=%H", *lines, "--all", "HEAD", "--", *paths
        )
        return bool(_hashes(found))

    def about(self, commit: str) -> Commit:
        """Return what people call ``commit``."""
        pattern = "--format=%H%x00%an <%ae>%x00%ad%x00%s"
        text = self.read("show", "-s", "--date=iso", pattern, commit)
        hash_, author, date, subject = text.strip().splitlines()[-1].split("\0")
        return Commit(hash_, author, date, subject)


def open_repository(root: Path) -> Repository:
    """Return the repository that ``root`` is the top of.

    Raises:
        UserError: it is none, or its history is cut off.
    """
    if not root.is_dir():
        raise UserError(f"{root} does not exist, or is no directory")
    found = Repository(root.resolve())  # one room, by whatever way it is named
    if found.git("rev-parse", "--git-dir").returncode:
        raise UserError(
            f"{root} is in no git repository: there is no history to bisect",
            hint="clone the kernel with git, and name the clone with --tree",
        )
    if not found.bare and found.read("rev-parse", "--show-prefix").strip():
        raise UserError(
            f"{root} is no top of a repository", hint="--tree takes the top directory"
        )
    if found.read("rev-parse", "--is-shallow-repository").strip() == "true":
        raise UserError(
            f"{root} is a shallow clone: its history is cut off",
            hint=f"git -C {root} fetch --unshallow",
        )
    return found


class Checkout(Struct, frozen=True):
    """Our own worktree of a repository.

    Attributes:
        source: where the files are.
        git_dir: its index, and what it commits.
    """

    repository: Repository
    source: Path
    git_dir: Path

    def git(self, *argv: str) -> run.Completed:
        """Run git in it, whatever comes of it."""
        where = (f"--git-dir={self.git_dir}", f"--work-tree={self.source}")
        quiet = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0")
        return run.run(
            [*_UMASK, "git", *where, *quiet, *argv],
            cwd=self.source,
            timeout_s=GIT_TIMEOUT_S,
            env=_environment(),
        )

    def _do(self, *argv: str) -> str:
        done = self.git(*argv)
        if done.returncode:
            raise InfraError(
                f"git {' '.join(argv)} in {self.source}: {done.tail}",
                hint=f"is {self.repository.root} whole? (git fsck; a clone with a "
                "--filter is not)",
            )
        return done.output

    def switch(self, commit: str) -> None:
        """Check ``commit`` out; what was changed in place is lost.

        A git that was killed leaves files that no index knows: they go, too.
        """
        lock = self.git_dir / "index.lock"
        killed = lock.exists() or self._busy.exists()
        self._busy.touch()
        lock.unlink(missing_ok=True)
        self._do("checkout", "-q", "--force", "--detach", commit)
        if killed:
            self._do("clean", "-ffdxq")
        self._busy.unlink()

    @property
    def _busy(self) -> Path:
        """Is there while files are changed: whoever finds it finds any state."""
        return self.git_dir / "busy"

    def changed(self, before: str, after: str) -> tuple[str, ...]:
        """Return the paths that differ between two commits."""
        text = self._do("diff", "--name-only", "--no-renames", "-z", before, after)
        return tuple(path for path in text.split("\0") if path)

    def knows(self, commit: str) -> bool:
        """Tell whether it has ``commit``: the user may have thrown it away."""
        return not self.git("cat-file", "-e", f"{commit}^{{commit}}").returncode

    def revert(self, commit: str, onto: str, mainline: bool) -> str | None:
        """Return a commit of ours: ``onto`` less what ``commit`` changed.

        None if it does not revert cleanly. Of a merge (``mainline``) the side that was
        merged is reverted.
        """
        self.switch(onto)
        self._busy.touch()
        parent = ("-m", "1") if mainline else ()
        if self.git("revert", "--no-commit", *parent, commit).returncode:
            self.git("revert", "--abort")
            self.switch(onto)
            return None
        tree = self._do("write-tree").strip()
        message = f"Revert {commit}"
        made = self._do("commit-tree", tree, "-p", onto, "-m", message)
        self.switch(onto)  # what the revert left in the index
        return _hashes(made)[-1]


def check_out(repository: Repository, directory: Path) -> Checkout:
    """Return the checkout below ``directory``, made if it is not there."""
    objects = Path(
        repository.read(
            "rev-parse", "--path-format=absolute", "--git-path", "objects"
        ).strip()
    )
    checkout = Checkout(repository, directory / "src", directory / "git")
    checkout.source.mkdir(parents=True, exist_ok=True)
    run.check(["git", "init", "-q", "--bare", str(checkout.git_dir)], timeout_s=60)
    alternates = checkout.git_dir / "objects" / "info" / "alternates"
    alternates.write_text(f"{objects}\n")
    return checkout


def _environment() -> dict[str, str]:
    """Return what git sees: nothing that points it elsewhere, and our own name."""
    name, _, mail = NOBODY.partition(" <")
    mine = {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    for who in ("AUTHOR", "COMMITTER"):
        mine[f"GIT_{who}_NAME"], mine[f"GIT_{who}_EMAIL"] = name, mail.rstrip(">")
        mine[f"GIT_{who}_DATE"] = "1970-01-01T00:00:00Z"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return {**kept, **mine}


def _hashes(text: str) -> list[str]:
    return [match[0] for match in _HASH.finditer(text)]

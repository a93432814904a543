"""Request: a search for options as people ask for it, and what it takes to do one."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from harness import allowance
from harness.bisect import journal
from harness.bisect.answer import Answer
from harness.bisect.asking import Asking, answered
from harness.bisect.config.bisection import ConfigBisection
from harness.bisect.config.hunt import ConfigHunt
from harness.bisect.config.probe import ConfigProber
from harness.bisect.oracle import VALIDATOR, Oracle
from harness.bisect.question import LINKED, Question
from harness.bisect.request import Board, equipped, require_key, resumable
from harness.bisect.sight import Wanted
from harness.bisect.workbench import Workbench
from harness.build.tree import PACKAGE, open_tree, require_kernel
from harness.cache import cache_dir
from harness.container import image
from harness.errors import UserError
from harness.result import Stage
from harness.variant import Platform, Variant, from_config, variant


class ConfigRequest(Struct, frozen=True):
    """What is looked for, and how it is built.

    Attributes:
        tree: kernel source, or None for Debian's ``package``.
        profile: of ends that are variants.
        platform: what a whole .config is for.
        finding: a key; empty: what the bad end has and the good end has not.
        target: ``vmlinux``, or an object: the least that shows the finding.
        oracle: who says whether a configuration has it.
    """

    tree: Path | None = None
    package: str = PACKAGE
    profile: str = "small"
    platform: Platform = Platform.NATIVE
    finding: str = ""
    target: str = LINKED
    oracle: Oracle = VALIDATOR
    toolchain: str = image.DEFAULT_TOOLCHAIN
    runtime: str = "auto"
    jobs: int = field(default_factory=allowance.jobs)


def end(text: str, request: ConfigRequest) -> Variant:
    """Return the configuration that ``text`` names.

    That is a .config, or a variant, behind which fragments may stand: ``xen``,
    ``native+debug.config``.

    Raises:
        UserError: it is none of these.
    """
    if Path(text).is_file():
        return from_config(Path(text), request.platform)
    name, *fragments = text.split("+")
    if name not in list(Platform):
        raise UserError(
            f"{text!r} is neither a file nor a variant",
            hint="a .config; or one of "
            f"{', '.join(Platform)}, and fragments: native+debug.config",
        )
    paths = [Path(fragment) for fragment in fragments]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"the fragment {missing[0]} of {text!r} does not exist")
    return variant(Platform(name), request.profile, paths)


def bisect(
    request: ConfigRequest, good: str, bad: str, board: Board, *, resume: bool = False
) -> ConfigBisection:
    """Find the options of the configuration ``bad`` that make the finding.

    Raises:
        UserError: the ends or the tree are not what they should be.
        InfraError: the machine failed; it can be resumed.
    """
    ends = [end(good, request), end(bad, request)]
    platform = _platform(ends, request.oracle)
    with _prober(request, platform, board) as (prober, directory):
        board("bisect")("configuring both ends")
        names = [prober.end(variant) for variant in ends]
        if names[0] == names[1]:
            raise UserError(
                f"{good} and {bad} come to the same configuration",
                hint="olddefconfig drops what has no dependencies; see their values "
                f"in {prober.configs / names[0]}.config",
            )
        question = Question(
            tree=f"{prober.tree.name} {prober.tree.digest[:16]}",
            good=names[0],
            bad=names[1],
            variant=platform.value,
            target=request.target,
            toolchains=(request.toolchain,),
            finding=request.finding,
            oracle=str(request.oracle),
        )
        state = directory / f"{_hash(repr(question))}.jsonl"
        opening = journal.resume if resume else journal.begin
        with opening(state, question) as kept, resumable():
            asking = Asking(
                question, prober, kept, board("bisect"), request.oracle.quorum
            )
            return ConfigHunt(asking, prober).run()


def step(request: ConfigRequest, config: str, board: Board) -> Answer:
    """Say of one configuration whether the finding occurs.

    Raises:
        UserError: no finding is named, it is no configuration, or the tree cannot
            have it.
        InfraError: the machine failed: that is no answer.
    """
    require_key(request.finding)
    wanted = end(config, request)
    with _prober(request, wanted.platform, board) as (prober, _):
        runs = request.oracle.quorum.looks
        sight = prober.look(prober.end(wanted), Wanted(request.finding, runs))
    return answered(sight, request.finding)


def _platform(ends: Sequence[Variant], oracle: Oracle) -> Platform:
    """Return the platform of the bad end, on which all are booted."""
    good, bad = (variant.platform for variant in ends)
    if good is not bad and oracle.stage is not Stage.VALIDATE:
        raise UserError(
            f"the good end is for {good}, the bad one for {bad}: --oracle "
            f"{oracle.stage} boots all on one platform",
            hint="name variants of one platform; --platform is for a whole .config",
        )
    return bad


@contextlib.contextmanager
def _prober(
    request: ConfigRequest, platform: Platform, board: Board
) -> Iterator[tuple[ConfigProber, Path]]:
    """Yield a prober with all that it takes, and its directory, ours meanwhile."""
    if request.tree is not None:
        require_kernel(request.tree.absolute())
    what = str(request.tree.resolve() if request.tree else request.package)
    directory = cache_dir() / "bisect" / f"config-{_hash(what)}"
    toolchains: Sequence[str] = (request.toolchain,)
    with equipped(directory, what, request.runtime, toolchains, board) as found:
        engine, images = found
        tree = open_tree(
            engine,
            images[request.toolchain],
            request.tree,
            board("tree"),
            package=request.package,
        )
        configs = directory / "configs"
        configs.mkdir(exist_ok=True)
        kind = LINKED if request.target == LINKED else "objects"
        workbench = Workbench(
            engine,
            images,
            request.oracle.judge(
                request.target, platform, engine, directory / "files", board
            ),
            directory / f"{kind}-{tree.digest[:16]}",
            request.jobs,
            board("probe"),
        )
        yield ConfigProber(tree, platform, workbench, configs), directory


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Image: the file system that commands run in, made from a recipe when missing.

Recipes are data (``configs/images.toml``). An image is pulled where a registry
answers, else bootstrapped from Debian's mirror; either way it has to pass its smoke
test before it gets its tag, so that a tag always means an image that works.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

from harness import network, run
from harness.cache import cache_dir, locked, require_space
from harness.container.host import HOST_IMAGE
from harness.container.job import Engine, Limits
from harness.container.mirror import Mirror, host_mirror
from harness.data import CONFIGS
from harness.errors import FormatError, InfraError, UserError
from harness.progress import Progress, silent

DEFAULT_TOOLCHAIN = "bookworm"
RECIPE_VERSION = "1"  # change it when what we do with a recipe changes
BOOTSTRAP_TIMEOUT_S = 1200.0
SMOKE = Limits(timeout_s=60)
SPACE = 2 << 30
SHARED_PLACE = Path("/var/tmp")
MMDEBSTRAP_STEPS = 17  # lines that it prints; only progress depends on it
RECIPE_LABEL = "org.orc-harness.recipe"
_EXCLUDED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


class Recipe(Struct, frozen=True):
    """How to make one image; the fields are those of ``configs/images.toml``."""

    name: str
    suite: str
    packages: tuple[str, ...]
    smoke: str
    identity: dict[str, str]
    env: dict[str, str]
    steps: str = ""
    check_valid_until: bool = True

    @property
    def tag(self) -> str:
        """Name and content: another recipe is another image."""
        text = json.dumps(msgspec.to_builtins(self), sort_keys=True)
        digest = hashlib.sha256(f"{RECIPE_VERSION}{text}".encode()).hexdigest()
        return f"orc-harness/{self.name}:{digest[:12]}"


class Image(Struct, frozen=True):
    """An image that is there.

    Attributes:
        tag: what to give to the engine.
        identity: program -> the line that says which one it is (``gcc``: ``gcc
            (Debian 12.2.0-14) 12.2.0``). Part of every build's key, unlike the
            image's id, which differs each time it is made.
        created: it was made just now.
    """

    tag: str
    identity: dict[str, str]
    created: bool


class _Kind(Struct, frozen=True):
    packages: tuple[str, ...]
    smoke: str
    identity: dict[str, str]
    env: dict[str, str]
    steps: str = ""


class _Entry(Struct, frozen=True):
    kind: str
    suite: str
    packages: tuple[str, ...] = ()
    check_valid_until: bool = True


class _File(Struct, frozen=True):
    kind: dict[str, _Kind]
    image: dict[str, _Entry] = field(default_factory=dict)


def recipes(path: Path = CONFIGS / "images.toml") -> dict[str, Recipe]:
    """Read every recipe of ``path``, by name.

    Raises:
        FormatError: the file is not TOML of that shape.
    """
    try:
        data = msgspec.convert(tomllib.loads(path.read_text()), _File)
        return {
            name: _recipe(name, e, data.kind[e.kind]) for name, e in data.image.items()
        }
    except (OSError, ValueError, KeyError) as exc:
        raise FormatError(f"{path} holds no image recipes: {exc}") from exc


def _recipe(name: str, entry: _Entry, kind: _Kind) -> Recipe:
    return Recipe(
        name=name,
        suite=entry.suite,
        packages=tuple(sorted({*kind.packages, *entry.packages})),
        smoke=kind.smoke,
        identity=kind.identity,
        env=kind.env,
        steps=kind.steps,
        check_valid_until=entry.check_valid_until,
    )


def toolchain(suite: str = DEFAULT_TOOLCHAIN) -> Recipe:
    """Return the recipe of the toolchain of Debian ``suite``.

    Raises:
        UserError: there is none.
    """
    known = recipes()
    if recipe := known.get(f"toolchain-{suite}"):
        return recipe
    suites = sorted(n.removeprefix("toolchain-") for n in known if n != "machine")
    raise UserError(f"no toolchain {suite}", hint=f"there are {', '.join(suites)}")


def machine() -> Recipe:
    """Return the recipe of the image that has QEMU and Xen."""
    return recipes()["machine"]


def is_present(engine: Engine, recipe: Recipe) -> bool:
    """Tell whether :func:`ensure` would find the image of ``recipe`` made."""
    return engine.has_image(HOST_IMAGE) or engine.has_image(recipe.tag)


def ensure(
    engine: Engine,
    recipe: Recipe,
    progress: Progress = silent,
    *,
    rebuild: bool = False,
    mirror: Mirror | None = None,
) -> Image:
    """Return the image of ``recipe``, making it if it is missing (or ``rebuild``).

    ``mirror`` is Debian's, by default the host's. On the host runtime the image is
    the host itself, which has to pass the smoke test too.

    Raises:
        InfraError: it can neither be pulled nor bootstrapped, or does not work;
            then no tag is left.
    """
    if engine.runtime == "host":
        _smoke(engine, recipe, HOST_IMAGE)
        return Image(HOST_IMAGE, _identify(engine, recipe, HOST_IMAGE), created=False)
    with locked(cache_dir() / "images" / f"{recipe.name}.lock"):
        created = rebuild or not engine.has_image(recipe.tag)
        if created:
            network.require(f"the image {recipe.name}")
            _make(engine, recipe, progress, mirror)
        return Image(recipe.tag, _identity(engine, recipe), created)


def _make(
    engine: Engine, recipe: Recipe, progress: Progress, mirror: Mirror | None
) -> None:
    name, _, version = recipe.tag.partition(":")
    trial = f"{name}:trial-{version}-{uuid.uuid4().hex[:8]}"
    base = f"{trial}-base"
    require_space(cache_dir(), SPACE, f"the image {recipe.name}")
    try:
        _make_base(engine, recipe, base, progress, mirror)
        if recipe.steps:
            files = {"Dockerfile": _STEPS_DOCKERFILE.format(base=base)}
            files["steps.sh"] = _STEPS_PRELUDE + recipe.steps + _STEPS_END
            _build(engine, recipe, files, trial, progress)
        else:
            engine.tag_image(base, trial)
        progress(f"testing image {recipe.name}")
        _smoke(engine, recipe, trial)
        before = engine.image_id(recipe.tag)
        engine.tag_image(trial, recipe.tag)
        if before and before != engine.image_id(recipe.tag):
            with contextlib.suppress(InfraError):  # a container may be using it
                engine.remove_image(before)
    finally:
        engine.remove_image(trial)
        engine.remove_image(base)


def _make_base(
    engine: Engine,
    recipe: Recipe,
    tag: str,
    progress: Progress,
    mirror: Mirror | None,
) -> None:
    """Make the image without its steps: from a registry, else from nothing."""
    official = f"debian:{recipe.suite}-slim"
    progress(f"asking a registry for {official}")
    try:
        engine.pull(official)
        files = {"Dockerfile": _dockerfile(official, recipe)}
        _build(engine, recipe, files, tag, progress)
    except InfraError as refusal:
        progress(f"no {official}: bootstrapping {recipe.name} from a Debian mirror")
        try:
            _bootstrap(engine, recipe, tag, progress, mirror or host_mirror())
        except InfraError as exc:
            raise InfraError(
                f"cannot make the image {recipe.name}: {exc.message}\n"
                f"  and from a registry: {refusal.message}",
                hint=exc.hint,
            ) from exc


def _build(
    engine: Engine,
    recipe: Recipe,
    files: Mapping[str, str],
    tag: str,
    progress: Progress,
) -> None:
    lines = _LineCounter(progress, f"installing into {recipe.name}")
    engine.build_image(files, tag, on_text=lines, timeout_s=BOOTSTRAP_TIMEOUT_S)


def _dockerfile(base: str, recipe: Recipe) -> str:
    packages = " ".join(recipe.packages)
    return "\n".join(
        [
            f"FROM {base}",
            f"RUN {_NO_DOCS}",
            "RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install"
            f" -q -y --no-install-recommends {packages}"
            " && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin",
            *_changes(recipe),
            "",
        ]
    )


_NO_DOCS = "printf 'path-exclude=%s\\n' {} > /etc/dpkg/dpkg.cfg.d/excludes".format(
    " ".join(f"'{path}'" for path in _EXCLUDED)
)
_STEPS_DOCKERFILE = """\
FROM {base}
COPY steps.sh /tmp/steps.sh
RUN ["/bin/sh", "/tmp/steps.sh"]
"""
_STEPS_PRELUDE = "set -eu\nexport DEBIAN_FRONTEND=noninteractive\napt-get update -q\n"
_STEPS_END = "\nrm -rf /tmp/* /var/lib/apt/lists/* /var/cache/apt/*.bin\n"


def _changes(recipe: Recipe) -> list[str]:
    env = [f"ENV {name}={value}" for name, value in sorted(recipe.env.items())]
    return [*env, f"LABEL {RECIPE_LABEL}={recipe.tag}"]


def _bootstrap(
    engine: Engine, recipe: Recipe, tag: str, progress: Progress, mirror: Mirror
) -> None:
    program = run.which("mmdebstrap")
    if program is None:
        raise InfraError(
            "there is no registry to pull from, and no mmdebstrap to do without",
            hint="./ci/matrix installs it; or: apt-get install mmdebstrap",
        )
    with _bootstrap_place() as scratch:
        tar = Path(scratch, "root.tar")
        argv = _mmdebstrap(program, recipe, mirror, tar)
        tail = _LineCounter(progress, f"bootstrapping {recipe.name}", MMDEBSTRAP_STEPS)
        # What it unpacks goes with our directory, even if it is killed.
        env = {**os.environ, "TMPDIR": scratch}
        returncode = run.stream(argv, tail, timeout_s=BOOTSTRAP_TIMEOUT_S, env=env)
        # Docker takes an empty file for an image: never import without looking.
        if returncode or not tar.exists() or tar.stat().st_size == 0:
            raise InfraError(
                f"mmdebstrap exited with {returncode}\n{tail.text}",
                hint="does apt-get update work on this host?",
            )
        progress(f"importing {recipe.name}")
        engine.import_tar(tar, tag, _changes(recipe))


@contextlib.contextmanager
def _bootstrap_place() -> Iterator[str]:
    """Yield a directory that what mmdebstrap runs can enter.

    For a caller who is not root that is another user, of the caller's subordinate
    ids: it may not pass a home of mode 0700. What it leaves if it is killed is its
    own, and the caller cannot remove it.
    """
    work = cache_dir() / "images" if os.geteuid() == 0 else SHARED_PLACE
    require_space(work, SPACE, "the bootstrap of an image")
    with tempfile.TemporaryDirectory(
        dir=work, prefix="orc-harness-bootstrap-", ignore_cleanup_errors=True
    ) as scratch:
        Path(scratch).chmod(0o755)
        yield scratch


def _mmdebstrap(program: str, recipe: Recipe, mirror: Mirror, tar: Path) -> list[str]:
    options = ["--variant=apt", f"--include={','.join(recipe.packages)}"]
    options.append('--aptopt=APT::Install-Recommends "false"')
    if not recipe.check_valid_until:
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    options += [f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED]
    sources = mirror.sources(recipe.suite)
    return [program, *options, recipe.suite, str(tar), *sources]


class _LineCounter:
    """Turns a program's output into progress, and keeps its tail for a message."""

    def __init__(self, progress: Progress, what: str, total: int | None = None) -> None:
        self._progress = progress
        self._what = what
        self._total = total
        self._done = 0
        self._lines: list[str] = []

    def __call__(self, text: str) -> None:
        for line in text.splitlines():
            self._lines = [*self._lines[-19:], line]
            if line.startswith(("I: ", "Step ", "Get:", "Setting up")):
                self._done += self._total is None or line.startswith("I: ")
                self._progress(self._what, self._done, self._total)

    @property
    def text(self) -> str:
        return "\n".join(self._lines)


def _smoke(engine: Engine, recipe: Recipe, tag: str) -> None:
    output: list[str] = []
    ended = engine.run(
        tag, ["sh", "-e", "-c", recipe.smoke], limits=SMOKE, on_text=output.append
    )
    if ended.returncode:
        hint = None
        if tag == HOST_IMAGE:
            hint = f"install {' '.join(recipe.packages)}, or use a container runtime"
        raise InfraError(
            f"image {recipe.name} fails its smoke test (status {ended.returncode}):\n"
            f"{''.join(output[-10:]).strip()}",
            hint=hint,
        )


def _identity(engine: Engine, recipe: Recipe) -> dict[str, str]:
    """Return the identity of the image that is there, asked for once."""
    image_id = str(engine.image_id(recipe.tag)).rpartition(":")[2]
    sidecar = cache_dir() / "images" / f"{recipe.name}-{image_id[:16]}.json"
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=dict[str, str])
    except (OSError, ValueError):
        identity = _identify(engine, recipe, recipe.tag)
    sidecar.write_bytes(msgspec.json.format(msgspec.json.encode(identity), indent=2))
    return identity


def _identify(engine: Engine, recipe: Recipe, tag: str) -> dict[str, str]:
    script = "\n".join(
        f'echo {shlex.quote(program)}="$({command} 2>&1 | head -n 1)"'
        for program, command in recipe.identity.items()
    )
    output: list[str] = []
    engine.run(tag, ["sh", "-c", script], limits=SMOKE, on_text=output.append)
    pairs = (line.partition("=") for line in "".join(output).splitlines())
    return {program: version.strip() for program, _, version in pairs}

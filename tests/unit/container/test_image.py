"""Images: recipes are data, and a tag always means an image that works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.container import image
from harness.container.job import Engine, Exit, Job
from harness.container.mirror import Mirror
from harness.errors import FormatError, InfraError, UserError


class RecordingEngine(Engine):
    """Keeps tags in memory; commands end as ``smoke`` says."""

    runtime = "docker"
    user = "1001:1001"

    def __init__(self, smoke: int = 0, registry: bool = True) -> None:
        self.tags: dict[str, str] = {}
        self.built: list[str] = []
        self.removed: list[str] = []
        self._smoke = smoke
        self._registry = registry

    def run(self, image, argv, **options):
        job = Job(image, argv, **options)
        assert self.has_image(image)
        if job.on_text is not None:
            job.on_text("gcc=gcc 12.2.0\n")
        return Exit(self._smoke)

    def start(self, image, argv, **options):
        return contextlib.nullcontext()

    def abort(self):
        return None

    def path(self, mount):
        return mount.target

    def reap(self):
        return 0

    def image_id(self, tag):
        return self.tags.get(tag)

    def pull(self, tag):
        if not self._registry:
            raise InfraError("no registry")

    def import_tar(self, tar: Path, tag, changes):
        self.tags[tag] = "sha256:imported"

    def build_image(self, files, tag, *, on_text: Callable[[str], object], timeout_s):
        self.built.append(files["Dockerfile"])
        self.tags[tag] = f"sha256:{len(self.built)}"

    def tag_image(self, source, tag):
        self.tags[tag] = self.tags[source]

    def remove_image(self, tag):
        self.removed.append(tag)
        self.tags.pop(tag, None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))


def test_every_shipped_recipe_is_read():
    """The default toolchain and the machine are among them, with distinct tags."""
    known = image.recipes()
    assert {"toolchain-bookworm", "machine"} <= set(known)
    assert len({recipe.tag for recipe in known.values()}) == len(known)


def test_unknown_toolchain_is_the_users_error():
    """The hint lists what there is."""
    with pytest.raises(UserError) as caught:
        image.toolchain("potato")
    assert "bookworm" in (caught.value.hint or "")


def test_damaged_recipe_file_is_named(tmp_path):
    """A typing error in the data is a clear error."""
    path = tmp_path / "images.toml"
    path.write_text("[image.x]\nkind = 'none'\nsuite = 'sid'\n")
    with pytest.raises(FormatError, match=r"images\.toml"):
        image.recipes(path)


def test_another_recipe_has_another_tag():
    """A changed package list or step makes a new image."""
    recipe = image.toolchain()
    assert replace(recipe, packages=(*recipe.packages, "vim")).tag != recipe.tag
    assert replace(recipe, steps="true").tag != recipe.tag


def test_ensure_makes_an_image_once():
    """The second call finds it, with the same identity."""
    engine, recipe = RecordingEngine(), image.toolchain()
    first = image.ensure(engine, recipe)
    second = image.ensure(engine, recipe)
    assert (first.created, second.created) == (True, False)
    assert first.identity == second.identity == {"gcc": "gcc 12.2.0"}
    assert set(engine.tags) == {recipe.tag}


def test_rebuild_ignores_what_exists():
    """A recipe's packages may have moved on."""
    engine, recipe = RecordingEngine(), image.toolchain()
    image.ensure(engine, recipe)
    before = engine.tags[recipe.tag]
    assert image.ensure(engine, recipe, rebuild=True).created
    assert len(engine.built) == 2
    assert before in engine.removed, "nobody finds it any more, and it is large"


def test_steps_run_on_top_of_the_packages():
    """The machine image is its packages, then its steps."""
    engine = RecordingEngine()
    image.ensure(engine, image.machine())
    assert ["FROM debian:trixie-slim" in text for text in engine.built] == [True, False]


def test_failed_smoke_test_leaves_no_tag():
    """An image that does not work is never found later."""
    engine = RecordingEngine(smoke=1)
    with pytest.raises(InfraError, match="smoke test"):
        image.ensure(engine, image.machine())
    assert engine.tags == {}


def test_without_registry_and_mmdebstrap_the_error_tells_both(monkeypatch):
    """Both ways are in the message, and the remedy in the hint."""
    monkeypatch.setattr("harness.run.which", lambda program: None)
    engine = RecordingEngine(registry=False)
    with pytest.raises(InfraError, match="no registry") as caught:
        image.ensure(engine, image.toolchain(), mirror=Mirror())
    assert "mmdebstrap" in (caught.value.hint or "")
    assert engine.tags == {}


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 25\n", "#!/bin/sh\nexit 0\n"])
def test_failed_or_empty_bootstrap_is_not_imported(program, monkeypatch, tmp_path):
    """The daemon takes an empty file for an image: status and size are looked at."""
    script = tmp_path / "mmdebstrap"
    script.write_text(program)
    script.chmod(0o755)
    monkeypatch.setattr("harness.run.which", lambda name: str(script))
    engine = RecordingEngine(registry=False)
    with pytest.raises(InfraError, match="mmdebstrap exited"):
        image.ensure(engine, image.toolchain(), mirror=Mirror())
    assert engine.tags == {}


@pytest.mark.parametrize("uid", [0, 1000])
def test_bootstrap_works_where_its_user_can_enter(uid, monkeypatch, tmp_path):
    """Without root that is another user, who may not pass the caller's home."""
    shared = tmp_path / "shared"
    script = tmp_path / "mmdebstrap"
    script.write_text(f"#!/bin/sh\nstat -c '%a %n' $TMPDIR > {tmp_path}/seen\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("harness.run.which", lambda name: str(script))
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(image, "SHARED_PLACE", shared)
    with pytest.raises(InfraError, match="mmdebstrap exited with 1"):
        image.ensure(
            RecordingEngine(registry=False), image.toolchain(), mirror=Mirror()
        )
    mode, _, place = (tmp_path / "seen").read_text().strip().partition(" ")
    assert mode == "755"
    assert Path(place).parent == (shared if uid else tmp_path / "images")
    assert not Path(place).exists()

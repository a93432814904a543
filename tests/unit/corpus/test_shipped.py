"""Kernels of the mirror: which one is taken, and what becomes of what it holds."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest
from msgspec.structs import replace

from harness.container.job import Exit, Mount
from harness.corpus import catalog, mirror_guest, shipped
from harness.corpus.mirror_guest import choose, parts
from harness.corpus.shipped import Kernel, chosen, fetch
from harness.errors import FormatError, InfraError, UserError
from harness.progress import silent

KERNEL = Kernel("k", "trixie", "6.12.", "cloud-amd64")
NAMES = [
    "linux-image-6.1.0-9-cloud-amd64-dbg",
    "linux-image-6.12.9+deb13-cloud-amd64-dbg",
    "linux-image-6.12.115+deb13.1-cloud-amd64-dbg",
    "linux-image-6.12.117+deb13-amd64-dbg",
    "linux-image-6.12.117+deb13-cloud-amd64",
    "linux-image-7.3-rc7-cloud-amd64-dbg",
    "linux-image-7.3~rc7-cloud-amd64-dbg",
    "linux-image-cloud-amd64-dbg",
    "linux-image-6.12.118+deb13-rt-amd64-dbg",
]


@pytest.mark.parametrize(
    ("series", "flavour", "newest"),
    [
        ("6.12.", "cloud-amd64", "linux-image-6.12.115+deb13.1-cloud-amd64"),
        ("6.12.", "amd64", "linux-image-6.12.117+deb13-amd64"),
        ("6.1.", "cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"),
        ("", "cloud-amd64", "linux-image-6.12.115+deb13.1-cloud-amd64"),
    ],
)
def test_the_newest_of_a_series_with_symbols(
    series: str, flavour: str, newest: str
) -> None:
    """Numbers count as numbers; candidates, real time and other flavours do not."""
    packages, note = choose(NAMES, series, flavour)

    assert (packages[0], note) == (newest, "")


def test_a_series_that_the_mirror_dropped() -> None:
    """It falls forward, and says so."""
    packages, note = choose(NAMES, "5.10.", "cloud-amd64")

    assert packages[0] == "linux-image-6.12.115+deb13.1-cloud-amd64"
    assert note == f"no 5.10.x cloud-amd64 any more: took {packages[0]}"


def test_a_mirror_without_kernels() -> None:
    """There is nothing to take, and the note says why."""
    packages, note = choose([], "6.12.", "cloud-amd64")

    assert packages == []
    assert "is there a mirror" in note


def test_a_package_that_the_index_names_and_the_mirror_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next older one is taken, and that is said."""
    taken: list[str] = []

    def stream(lists: str, package: str, out: str, patterns: list[str]) -> None:
        if "115" in package:
            raise HTTPError("uri", 404, "Not Found", Message(), None)
        taken.append(package)

    names = "\n".join(NAMES)
    monkeypatch.setattr(mirror_guest, "apt", lambda *arguments: names)
    monkeypatch.setattr(mirror_guest, "stream", stream)

    mirror_guest.main("out", "6.12.", "cloud-amd64", "")

    image = "linux-image-6.12.9+deb13-cloud-amd64"
    assert taken == [f"{image}-dbg", image]
    said = capsys.readouterr().out
    assert f"@done {image}\n" in said
    assert "@fallback" in said
    assert "is gone from the mirror (404)" in said


def test_a_kernel_of_which_the_index_has_a_part(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Symbols without their image: nothing of it stays, and an older one is taken."""

    def apt(lists: str, command: str, *arguments: str) -> str:
        if command != "get" or "download" not in arguments:
            return "\n".join(NAMES)
        if "115" in arguments[-1] and not arguments[-1].endswith("-dbg"):
            raise subprocess.CalledProcessError(100, ["apt-get"])
        return f"'uri' {arguments[-1]}.deb 8 SHA256:0"

    def opened(uri: str, timeout: float) -> io.BytesIO:
        (tmp_path / "vmlinux-115").write_bytes(b"half of it")
        return io.BytesIO(b"!<arch>\n")

    monkeypatch.setattr(mirror_guest, "apt", apt)
    monkeypatch.setattr(mirror_guest.urllib.request, "urlopen", opened)
    monkeypatch.setattr(mirror_guest.hashlib, "new", lambda kind: Unhashed())

    mirror_guest.main(
        str(tmp_path), "6.12.", "cloud-amd64", "linux-image-6.12.9+deb13-cloud-amd64"
    )

    said = capsys.readouterr().out
    assert "@same linux-image-6.12.9+deb13-cloud-amd64\n" in said
    assert "the index has no candidate): took an older" in said
    assert not list(tmp_path.iterdir())


class Unhashed:
    """A hash that is always the wanted one."""

    def update(self, data: bytes) -> None:
        """Take it."""

    def hexdigest(self) -> str:
        """As the index says."""
        return "0"


def test_a_kernel_whose_modules_are_in_another_package() -> None:
    """They are taken from there; nothing is asked for that there is not."""
    image, modules = "linux-image-7.2.13-amd64", "linux-modules-7.2.13-amd64"

    assert [name for name, _ in parts(image, [image])] == [f"{image}-dbg", image]
    assert dict(parts(image, [image, modules]))[modules] == mirror_guest.MODULES


def a_package(content: dict[str, bytes], where: Path) -> bytes:
    """Return a Debian package with these files, packed with xz."""
    for name, data in content.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(data)
    argv = ["tar", "--xz", "-c", "-C", str(where), "."]
    tar = subprocess.run(argv, check=True, capture_output=True).stdout
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar}
    body = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        body += header.encode() + data + b"\n" * (len(data) % 2)
    return body


def streamed(
    package: bytes, digest: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the guest's program stream ``package``, which the index gives ``digest``."""
    line = f"'http://mirror/p.deb' p.deb {len(package)} SHA256:{digest}\n"
    monkeypatch.setattr(mirror_guest, "apt", lambda *arguments: line)
    monkeypatch.setattr(
        mirror_guest.urllib.request,
        "urlopen",
        lambda uri, timeout: io.BytesIO(package),
    )
    mirror_guest.stream("lists", "p", str(out), ["*.ko", "*/vmlinux-*"])


@pytest.fixture
def package(tmp_path: Path) -> bytes:
    content = {"lib/modules/6/a.ko": b"module", "usr/share/doc/readme": b"words"}
    return a_package(content, tmp_path / "content")


def test_only_what_is_wanted_is_unpacked(
    package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No package is left, and nothing else of it."""
    out = tmp_path / "out"
    out.mkdir()

    streamed(package, hashlib.sha256(package).hexdigest(), out, monkeypatch)

    files = [path.relative_to(out).as_posix() for path in out.rglob("*.*")]
    assert files == ["lib/modules/6/a.ko"]


def test_a_package_that_is_not_the_index_s(
    package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash is wrong: the fetch fails."""
    with pytest.raises(SystemExit, match="another hash"):
        streamed(package, "0" * 64, tmp_path, monkeypatch)


def test_a_line_that_breaks(
    package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a package is no package."""
    with pytest.raises(SystemExit, match="closed the line"):
        streamed(package[:-200], "0" * 64, tmp_path, monkeypatch)


class FakeEngine:
    """An engine whose container has unpacked ``files`` and printed ``said``."""

    user = "0:0"
    runtime = "docker"

    def __init__(self, files: dict[str, bytes], said: str, returncode: int = 0) -> None:
        self.files, self.said, self.returncode = files, said, returncode
        self.argv: list[str] = []

    def path(self, mount: Mount) -> str:
        return str(mount.target)

    def run(
        self,
        tag: str,
        argv: list[str],
        *,
        mounts: list[Mount],
        on_text: Callable[[str], object],
        **options: object,
    ) -> Exit:
        self.argv = argv
        for name, data in self.files.items():
            path = mounts[0].source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        on_text(self.said)
        return Exit(self.returncode)


FILES = {
    "usr/lib/debug/boot/vmlinux-6.12.1": b"kernel",
    "boot/config-6.12.1": b"CONFIG_ORC=y\n",
    "lib/modules/6.12.1/kernel/a.ko.xz": b"module",
}


SPLIT = {
    "usr/lib/debug/lib/modules/7.2.1/vmlinux": b"kernel",
    "usr/lib/modules/7.2.1/config": b"CONFIG_ORC=y\n",
    "usr/lib/modules/7.2.1/kernel/a.ko.xz": b"module",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and an image that is there."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))
    made = shipped.image.Image("tag", {}, created=False)
    monkeypatch.setattr(shipped.image, "ensure", lambda *arguments: made)
    return tmp_path / "kernels" / "k"


def get(engine: FakeEngine, kernel: Kernel = KERNEL) -> shipped.Fetched:
    return fetch(engine, kernel, silent)  # type: ignore[arg-type]


@pytest.mark.parametrize("files", [FILES, SPLIT])
def test_what_is_fetched_lies_as_a_build_does(
    files: dict[str, bytes], home: Path
) -> None:
    """Kernel, configuration and modules, and the version on record."""
    fetched = get(FakeEngine(files, "@package a b 1\n@done linux-image-6.12.1\n"))

    assert fetched == shipped.Fetched(home, "linux-image-6.12.1", "")
    assert (home / "vmlinux").read_bytes() == b"kernel"
    assert (home / ".config").exists()
    assert (home / "modules" / "a.ko.xz").exists()
    assert (home / "version").read_text() == "linux-image-6.12.1\n"


def test_the_newest_is_fetched_once(home: Path) -> None:
    """The program is told what is there; if it is the newest, that is taken."""
    get(FakeEngine(FILES, "@done linux-image-6.12.1\n"))
    engine = FakeEngine({}, "@same linux-image-6.12.1\n")

    fetched = get(engine)

    assert engine.argv[-1] == "linux-image-6.12.1"
    assert fetched.package == "linux-image-6.12.1"
    assert (home / "vmlinux").exists()


def test_falling_forward_is_noted(home: Path) -> None:
    """What the program says about it is in the result."""
    note = "no 6.12.x cloud-amd64 any more: took linux-image-7.1"

    fetched = get(FakeEngine(FILES, f"@fallback {note}\n@done linux-image-7.1\n"))

    assert fetched.note == note


def test_a_mirror_that_fails(home: Path) -> None:
    """Its words are in the error, and nothing is left."""
    with pytest.raises(InfraError, match="no such mirror"):
        get(FakeEngine(FILES, "no such mirror\n", returncode=1))

    assert [path.name for path in home.parent.iterdir()] == ["k.lock"]


def test_versions_have_locks_of_their_own(home: Path) -> None:
    """What follows the dot of a name is no suffix: 6.1 does not wait for 6.12."""
    for name in ("debian-6.1", "debian-6.12"):
        with pytest.raises(InfraError):
            get(FakeEngine({}, "", 1), replace(KERNEL, name=name))

    locks = {path.name for path in home.parent.iterdir()}
    assert locks == {"debian-6.1.lock", "debian-6.12.lock"}


def test_symbols_without_a_kernel(home: Path) -> None:
    """A package that holds no vmlinux is not taken for one."""
    with pytest.raises(InfraError, match="holds no vmlinux"):
        get(FakeEngine({}, "@done linux-image-6.12.1\n"))


def test_the_kernels_that_are_listed() -> None:
    """5.10, 6.1, 6.12 and the newest, cloud always and standard at night."""
    kernels = chosen("", nightly=True)

    assert {k.series for k in kernels} == {"5.10.", "6.1.", "6.12.", ""}
    assert {k.flavour for k in kernels if not k.nightly} == {"cloud-amd64"}
    assert {k.series for k in kernels if k.flavour == "amd64"} == {
        k.series for k in kernels
    }


def test_large_ones_only_on_request() -> None:
    """By name each can be had."""
    assert all(not kernel.nightly for kernel in chosen("", nightly=False))
    assert any(kernel.nightly for kernel in chosen("", nightly=True))
    assert [k.name for k in chosen("debian-6.12", nightly=False)] == ["debian-6.12"]


def test_an_unknown_kernel() -> None:
    """The error lists them."""
    with pytest.raises(UserError, match="nothing is called debian-4"):
        chosen("debian-4", nightly=True)


def test_damaged_data(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "kernels.toml").write_text("[k]\nsuite = 1")

    with pytest.raises(FormatError, match="holds no kernels"):
        catalog.read(tmp_path / "kernels.toml", Kernel)

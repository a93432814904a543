"""Key: the hash of all that a cell's result depends on.

That is the kernel (whose own key has the tree, the request, the toolchain), the machine
and what it is told, the seed of what is sampled, what this host brings to a guest, our
own code and the decoder that it uses. The baseline is not: what is kept is judged by
today's. A key is of the host that judges the cell, whoever built its kernel.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

from msgspec.structs import asdict

import harness
from harness.boot.kvm_probe import DEVICE, is_offered
from harness.cells.cell import Cell
from harness.container.image import Image
from harness.text.decode import default_decoder

PACKAGE = Path(harness.__file__).parent
# Rooms and files that show results, keep them, or ask for them, and make none.
FACES = frozenset(
    {"bisect", "cli", "doctor.py", "history", "pytest_plugin.py", "report", "store"}
)
LIBRARIES = ("capstone", "numpy", "pyelftools")


def cell_key(cell: Cell, build: str, machine: Image, seed: int, engine: str) -> str:
    """Return the key of ``cell`` on this host; its kernel has the key ``build``.

    Raises:
        UserError: the decoder that is demanded is not there.
    """
    parts = {
        "build": build,
        "platform": cell.boot.platform.value,
        "says": cell.boot.says,
        "machine": asdict(cell.config),
        "image": [machine.tag, sorted(machine.identity.items())],
        "seed": seed,
        "host": [engine, *host_facts(engine)],
        "code": code_digest(),
        "decoder": default_decoder().value,
    }
    return _hash(parts)


def no_key(cell: Cell, night: str) -> str:
    """Return what a cell is kept by whose kernel was never known, for one night."""
    return _hash({"cell": repr(cell), "night": night})


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def host_facts(engine: str, device: Path = Path(DEVICE)) -> tuple[str, ...]:
    """Return what a guest can see of this host: with KVM, its CPU and its kernel."""
    if not is_offered(engine, device):
        return (platform.machine(), "no kvm")
    return (platform.machine(), "kvm", _cpu_model(), platform.release())


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """Return the hash of our code that makes results, and of the libraries it uses."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        # what is compiled is made of what we hash
        made = "__pycache__" in name.parts or path.suffix == ".so"
        if path.is_file() and not made and name.parts[0] not in FACES:
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\0".encode())
    return digest.hexdigest()

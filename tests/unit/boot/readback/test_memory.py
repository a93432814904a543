"""A stopped guest's kernel image, as its memory holds it."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from harness.boot.gdb import Gdb
from harness.boot.machine import Machine, Plan
from harness.boot.qmp import connect
from harness.boot.readback.memory import GuestMemory, image_sections, read_image
from harness.errors import FormatError, InfraError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter
from tests.builders.machines import QMP_GREETING, Process
from tests.builders.memory import FakeMemory
from tests.builders.running import INIT, TEXT, Kernel

KERNEL = Kernel({0: b"\x90"}, init=b"\x90" * 4, variables={"value": (1, 2)})


def test_sections_are_as_in_memory() -> None:
    """Code and variables, each where it is linked."""
    image = read_image(KERNEL.linked(), FakeMemory(KERNEL.said().image), init=True)
    at = KERNEL.address("value")
    assert image.read(at, 1).tobytes() == b"\x02"
    assert [s.name for s in image.executable] == [".text", ".init.text"]


def test_init_memory_is_left_out_once_it_is_freed() -> None:
    """Its pages belong to somebody else by then."""
    image = read_image(KERNEL.linked(), FakeMemory(KERNEL.said().image), init=False)
    assert [s.name for s in image.executable] == [".text"]
    assert all(s.address < INIT or s.name == ".data" for s in image.sections)


def test_what_is_not_mapped_where_it_is_linked_is_as_linked() -> None:
    """Per-CPU sections are templates at address 0."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".data..percpu", b"\x01\x02", address=0)
    text = writer.section(".text", b"\x90", flags=ALLOC | EXEC, address=TEXT)
    writer.symbol("_text", text, TEXT)
    writer.symbol("__bss_stop", text, TEXT + 1)
    program = writer.program("vmlinux")
    assert [s.name for s in image_sections(program, init=True)] == [".text"]
    image = read_image(program, FakeMemory(program), init=True)
    assert image.read(0, 2).tobytes() == b"\x01\x02"


def test_a_kernel_without_symbols_cannot_be_read() -> None:
    """Where its image ends is not known."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", b"\x90", flags=ALLOC | EXEC, address=TEXT)
    with pytest.raises(FormatError, match="no symbol _text"):
        image_sections(writer.program("vmlinux"), init=True)


def saving(path: Path, content: bytes, seen: list[dict[str, object]]) -> None:
    """Serve QMP at ``path``: ``memsave`` writes ``content`` to the file it names."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    ready = threading.Event()

    def serve() -> None:
        with listener:
            ready.set()
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb", buffering=0) as lines:
                lines.write(json.dumps(QMP_GREETING).encode() + b"\n")
                for line in lines:
                    request = json.loads(line)
                    if request["execute"] == "memsave":
                        seen.append(request["arguments"])
                        name = Path(request["arguments"]["filename"]).name
                        (path.parent / name).write_bytes(content)
                    lines.write(b'{"return": {}}\n')

    threading.Thread(target=serve, daemon=True).start()
    assert ready.wait(5)


@pytest.mark.parametrize("content", [b"\x01\x02\x03\x04", b"\x01\x02"])
def test_qemu_saves_the_guests_memory(tmp_path: Path, content: bytes) -> None:
    """By its name of the machine's directory; too few bytes are no reading."""
    seen: list[dict[str, object]] = []
    saving(tmp_path / "qmp", content, seen)
    plan = Plan((), {}, "nonce", 256, 1.0)
    with connect(tmp_path / "qmp") as control, socket.socket() as unused:
        machine = Machine(plan, tmp_path, Process(), control, "/machine")
        memory = GuestMemory(machine, Gdb(unused))
        if len(content) == 4:
            assert memory.read(TEXT, 4) == content
        else:
            with pytest.raises(InfraError, match="saved 2 bytes"):
                memory.read(TEXT, 4)
    assert seen == [{"val": TEXT - (1 << 64), "size": 4, "filename": "/machine/memory"}]

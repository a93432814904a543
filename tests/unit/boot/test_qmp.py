"""QEMU's control socket: commands, refusals, and its word for the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot import qmp
from harness.errors import InfraError
from tests.builders.machines import qmp_server

OK = {"return": {}}


def shutdown(reason: str) -> dict[str, object]:
    """Return QEMU's event for the machine's end."""
    return {"event": "SHUTDOWN", "data": {"guest": True, "reason": reason}}


def test_greeting_tells_the_version(tmp_path: Path) -> None:
    """Connecting negotiates, and learns which QEMU this is."""
    with qmp_server(tmp_path / "q") as seen, qmp.connect(tmp_path / "q") as control:
        assert control.version == "10.0.13"
        control.cont()
        control.inject_nmi()
    assert seen == ["qmp_capabilities", "cont", "inject-nmi"]


def test_events_between_answers_are_kept(tmp_path: Path) -> None:
    """An event that comes before an answer is not taken for it."""
    answers = {"cont": ({"event": "RESUME"}, shutdown("guest-reset"), OK)}
    with (
        qmp_server(tmp_path / "q", answers),
        qmp.connect(tmp_path / "q") as control,
    ):
        assert control.shutdown_reason() == ""
        control.cont()
        assert control.shutdown_reason() == "guest-reset"


def test_reason_survives_the_hang_up(tmp_path: Path) -> None:
    """QEMU tells the reason and is gone; the reason is still there to read."""
    path = tmp_path / "q"
    answers = {"quit": (OK, shutdown("host-qmp-quit"))}
    with qmp_server(path, answers), qmp.connect(path) as control:
        control.quit()
        assert control.shutdown_reason() == "host-qmp-quit"


def test_refused_command_says_why(tmp_path: Path) -> None:
    """QEMU's own words are in the error."""
    path = tmp_path / "q"
    answers = {"cont": ({"error": {"class": "x", "desc": "no such thing"}},)}
    with (
        qmp_server(path, answers),
        qmp.connect(path) as control,
        pytest.raises(InfraError, match="qmp cont failed: no such thing"),
    ):
        control.cont()


def test_nobody_listens(tmp_path: Path) -> None:
    """The wait for QEMU's socket has a deadline, which the error names."""
    with (
        pytest.raises(InfraError, match=r"no qemu listens .* after 0.05 s"),
        qmp.connect(tmp_path / "none", timeout_s=0.05),
    ):
        pass


def test_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait for an answer has a deadline, which the error names."""
    path = tmp_path / "q"
    with qmp_server(path, {"cont": ()}), qmp.connect(path) as control:
        monkeypatch.setattr(qmp, "REPLY_S", 0.1)
        with pytest.raises(InfraError, match=r"no answer to qmp cont within 0.1 s"):
            control.cont()


def test_qemu_that_is_gone(tmp_path: Path) -> None:
    """A command to a QEMU that hung up is an error; quitting it is none."""
    path = tmp_path / "q"
    with qmp_server(path, {"cont": None}), qmp.connect(path) as control:
        with pytest.raises(InfraError, match="closed its control socket"):
            control.cont()
        with pytest.raises(InfraError, match=r"qemu is gone at qmp cont: "):
            control.cont()
        control.quit()
        assert control.shutdown_reason() == ""


def test_something_else_listens(tmp_path: Path) -> None:
    """What does not greet as QEMU does is not QEMU."""
    path = tmp_path / "q"
    with (
        qmp_server(path, greeting={"hello": 1}),
        pytest.raises(InfraError, match="does not greet"),
        qmp.connect(path),
    ):
        pass


def test_path_that_is_no_socket(tmp_path: Path) -> None:
    """Any other failure to connect names the path."""
    path = tmp_path / ("q" * 150)
    with pytest.raises(InfraError, match="cannot connect to"), qmp.connect(path):
        pass


def test_qemu_that_died(tmp_path: Path) -> None:
    """The wait ends as soon as QEMU has."""
    with (
        pytest.raises(InfraError, match="it ended at once"),
        qmp.connect(tmp_path / "none", alive=lambda: False),
    ):
        pass

"""The evidence protocol: what counts as said, and by whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.boot.evidence import Evidence, Part, parse

NONCE = "5eed5eed5eed5eed"
RECORDED = Path(__file__).parent / "data" / "native.evidence"
SHORT = b"""n hello
n fact release 6.12.1
n part faults 3 4
n lack ipis needs another CPU
n mark hold
n text log-a 4
ab
c
n done 6
"""


def test_recorded_boot_is_read_whole() -> None:
    """A real boot's stream gives its facts, parts, marks and texts."""
    evidence = parse(RECORDED.read_bytes(), NONCE)
    assert evidence.hello
    assert evidence.complete
    assert evidence.facts["release"] == "6.12.117"
    assert evidence.facts["tainted"] == "0"
    assert Part("faults", 518, 518) in evidence.parts
    assert [part.name for part in evidence.parts if not part.whole] == ["modules"]
    assert evidence.marks == ("nmi",)
    assert evidence.lacks == {"ipis": "needs another CPU"}
    assert "Linux version 6.12.117" in evidence.kernel_log
    assert "__x64_sys_rt_sigsuspend" in evidence.text("stack/")
    assert "sysrq: Show backtrace of all active CPUs" in evidence.text("backtrace")


def test_every_kind_of_record() -> None:
    """Each kind of record lands in its field; a text may hold newlines."""
    assert parse(SHORT, "n") == Evidence(
        hello=True,
        complete=True,
        records=7,
        facts={"release": "6.12.1"},
        parts=(Part("faults", 3, 4),),
        lacks={"ipis": "needs another CPU"},
        marks=("hold",),
        texts={"log-a": "ab\nc"},
    )


def test_another_boots_words_prove_nothing() -> None:
    """A stream led by another nonce is silence."""
    assert parse(RECORDED.read_bytes(), "0123456789abcdef") == Evidence()


@pytest.mark.parametrize("cut", [1, 2, 10, 200, 5000, 30000])
def test_cut_off_stream_is_not_complete(cut: int) -> None:
    """Whatever is missing at the end, the closing record does not count it."""
    assert not parse(RECORDED.read_bytes()[:-cut], NONCE).complete


@pytest.mark.parametrize(
    "damage",
    [
        SHORT.replace(b"n part faults 3 4\n", b""),
        SHORT.replace(b"n hello\n", b""),
        SHORT.replace(b"done 6", b"done 5"),
        SHORT.replace(b"done 6", b"done"),
        SHORT.replace(b"faults 3 4", b"faults many 4"),
        SHORT.replace(b"log-a 4", b"log-a 400"),
        SHORT.replace(b"log-a 4", b"log-a -1"),
        SHORT.replace(b"n mark", b"n smudge"),
    ],
)
def test_damaged_stream_is_not_complete(damage: bytes) -> None:
    """A record lost or spoilt makes the closing count wrong."""
    assert not parse(damage, "n").complete


def test_noise_between_records_is_passed_over() -> None:
    """Firmware may write to the port before the kernel runs."""
    assert parse(b"\xff\x00 SeaBIOS\n\n" + SHORT, "n") == parse(SHORT, "n")


def test_texts_of_one_name_are_joined() -> None:
    """A long text comes in several records."""
    data = b"n hello\nn text a 1\nx\nn text a 1\ny\nn done 3\n"
    assert parse(data, "n").texts == {"a": "xy"}


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    """No stream makes the parser fail, or believe in an end."""
    assert not parse(data, "nonce-of-this-boot").complete

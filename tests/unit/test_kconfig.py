"""Requests: fragments with alternatives, and what a .config grants."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data import CONFIGS
from harness.errors import UserError
from harness.kconfig import (
    Setting,
    dropped,
    merge,
    parse_config,
    parse_fragment,
    read_fragments,
    render,
    require,
)
from harness.variant import Platform, variant

PATH = Path("test.config")


def test_config_maps_symbols_to_values():
    """Set, unset and absent symbols are told apart; strings keep their quotes."""
    text = '# a comment\nCONFIG_SMP=y\n# CONFIG_X is not set\nCONFIG_S="a b"\n'
    assert parse_config(text) == {"SMP": "y", "X": "n", "S": '"a b"'}


def test_fragment_line_may_carry_alternatives():
    """Either name of a renamed option satisfies the request."""
    (request,) = parse_fragment("CONFIG_NEW=y | CONFIG_OLD=y\n", PATH)
    assert request.holds({"OLD": "y"})
    assert request.holds({"NEW": "y"})
    assert not request.holds({"NEW": "m"})


def test_fragment_comments_are_not_requests():
    """Only ``is not set`` makes a comment a request."""
    requests = parse_fragment("# hello\n\n# CONFIG_X is not set\n", PATH)
    assert [request.settings for request in requests] == [(Setting("X", "n"),)]


@pytest.mark.parametrize("line", ["SMP=y", "CONFIG_SMP", "CONFIG_A=y | B=y"])
def test_fragment_names_a_line_that_is_no_setting(line):
    """A typing error is not skipped."""
    with pytest.raises(UserError, match=r"test\.config:2"):
        parse_fragment(f"\n{line}\n", PATH)


def test_unset_request_holds_for_an_absent_symbol():
    """kconfig leaves out what is n by dependency."""
    (request,) = parse_fragment("# CONFIG_X is not set", PATH)
    assert request.holds({})
    assert not request.holds({"X": "m"})


def test_contradicting_fragments_name_both_files(tmp_path):
    """The user learns which two lines disagree."""
    first, second = tmp_path / "a.config", tmp_path / "b.config"
    first.write_text("CONFIG_SMP=y\n")
    second.write_text("\n# CONFIG_SMP is not set\n")
    with pytest.raises(UserError, match=r"a\.config:1 .* b\.config:2"):
        read_fragments([first, second])


def test_a_name_gives_way_to_a_line_of_its_own():
    """A list asks for one of its names; who asks for less than that one is heard."""
    text = "CONFIG_A=y | CONFIG_B=y\n# CONFIG_A is not set\n"
    merged = merge(parse_fragment(text, PATH))
    assert [str(request) for request in merged] == [
        "CONFIG_B=y",
        "# CONFIG_A is not set",
    ]


def test_a_list_of_which_no_name_is_left():
    """Two lines that cannot both hold are still an error."""
    text = "CONFIG_A=y | CONFIG_B=y\n# CONFIG_A is not set\n# CONFIG_B is not set\n"
    with pytest.raises(UserError, match="asks for"):
        merge(parse_fragment(text, PATH))


def test_repeated_requests_are_merged():
    """The same line in two fragments is one request."""
    requests = parse_fragment("CONFIG_A=y\nCONFIG_A=y\n", PATH)
    assert len(merge(requests)) == 1


def test_missing_fragment_is_the_users_error(tmp_path):
    """A path that does not exist is named."""
    with pytest.raises(UserError, match=r"nowhere\.config"):
        read_fragments([tmp_path / "nowhere.config"])


def test_render_leaves_out_names_that_the_tree_does_not_know():
    """Only the name that exists is written, so that kconfig does not complain."""
    requests = parse_fragment("CONFIG_NEW=y | CONFIG_OLD=y\nCONFIG_A=m\n", PATH)
    assert render(requests, {"OLD", "A"}) == "CONFIG_OLD=y\nCONFIG_A=m\n"


def test_render_writes_a_setting_once():
    """The fallback of several lines is one setting."""
    requests = parse_fragment(
        "CONFIG_A=m | CONFIG_C=m\nCONFIG_B=m | CONFIG_C=m\n", PATH
    )
    assert render(requests, {"A", "C"}) == "CONFIG_A=m\nCONFIG_C=m\n"


def test_dropped_requests_are_found():
    """What the final .config does not grant is returned, in order."""
    requests = parse_fragment("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=8\n", PATH)
    lost = dropped(requests, {"A": "y", "C": "4"})
    assert [str(request) for request in lost] == ["CONFIG_B=y", "CONFIG_C=8"]


def test_require_reports_every_dropped_request_with_its_reason():
    """One error holds all, each with place and reason."""
    requests = parse_fragment("CONFIG_A=y\nCONFIG_B=y\n", PATH)
    with pytest.raises(UserError) as caught:
        require(requests, {}, lambda setting, _: f"because of {setting.symbol}")
    assert "test.config:1: CONFIG_A=y: because of A" in caught.value.message
    assert "test.config:2: CONFIG_B=y: because of B" in caught.value.message


def test_require_accepts_what_is_granted():
    """No request is lost, so nothing is raised and no reason is asked for."""
    require(parse_fragment("CONFIG_A=y", PATH), {"A": "y"}, lambda *_: "never asked")


@pytest.mark.parametrize("profile", ["small", "full"])
@pytest.mark.parametrize("platform", list(Platform))
def test_shipped_fragments_do_not_contradict_each_other(profile, platform):
    """Every variant that we ship can be asked for."""
    requests = read_fragments(variant(platform, profile).fragments)
    assert {"UNWINDER_ORC", "MODULES", "STACKTRACE"} <= {
        setting.symbol for request in requests for setting in request.settings
    }


def test_full_asks_new_kernels_for_more_than_old_ones_have():
    """5.10 with gcc 10 has none of the three, and the old name of retpolines."""
    requests = read_fragments([CONFIGS / "full.config"])
    old = parse_config("CONFIG_RETPOLINE=y")
    new = parse_config("CONFIG_MITIGATION_RETPOLINE=y")
    lost = {request.settings[0].symbol for request in dropped(requests, new)}
    wanted = {"PREEMPT_DYNAMIC", "CALL_DEPTH_TRACKING", "SLS"}
    less = lost - {request.settings[0].symbol for request in dropped(requests, old)}
    assert {symbol.removeprefix("MITIGATION_") for symbol in less} == wanted

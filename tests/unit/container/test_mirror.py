"""Mirrors: what apt on the host uses, in sources.list lines for another suite."""

from __future__ import annotations

from harness.container.mirror import Mirror, parse_targets

MAIN, SECURITY = "http://mirror.test/debian/", "http://mirror.test/debian-security/"
KNOWN = Mirror(MAIN, SECURITY)


def test_debians_archives_are_found_among_others():
    """Other vendors' archives with the same suite names are passed over."""
    text = "\n".join(
        [
            "http://vendor.test/linux/debian\tbookworm\tstable\tVendor",
            "http://other.test/debian\tbookworm\tmain\tOther",
            f"{MAIN}\tbookworm-backports\tmain\tDebian",
            f"{SECURITY}\tbookworm-security\tmain\tDebian",
            f"{MAIN}\tbookworm\tmain\tDebian",
        ]
    )
    assert parse_targets(text) == KNOWN


def test_paths_tell_before_the_first_update():
    """apt knows no origin yet; the usual paths are taken."""
    text = f"{MAIN}\tsid\tmain\t\n{SECURITY}\tsid-security\tmain\t\nhttp://x/y\tsid\tmain\t\n"
    assert parse_targets(text) == KNOWN


def test_a_foreign_host_has_no_mirror():
    """Ubuntu's archive does not serve Debian's suites."""
    text = "http://mirror.test/ubuntu/\tnoble\tmain\tUbuntu\n"
    assert parse_targets(text) == Mirror()


def test_stable_suites_come_with_updates_and_security():
    """The kernel source of a stable suite is in its security archive."""
    assert KNOWN.sources("bookworm") == [
        f"deb {MAIN} bookworm main",
        f"deb {MAIN} bookworm-updates main",
        f"deb {SECURITY} bookworm-security main",
    ]


def test_sid_has_neither():
    """There are no updates to what is always new."""
    assert KNOWN.sources("sid") == [f"deb {MAIN} sid main"]


def test_unknown_mirror_leaves_the_choice_to_mmdebstrap():
    """No lines means the default."""
    assert Mirror().sources("bookworm") == []

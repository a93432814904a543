"""Owners: a label tells whether the process that made a container still lives."""

from __future__ import annotations

import os

import pytest

from harness.container import owner


def test_our_own_label_is_no_orphan():
    """We live, so what is ours stays."""
    assert not owner.orphaned(owner.labels())


def test_dead_owner_makes_an_orphan():
    """A pid that no process has cannot come back for its container."""
    labels = {**owner.labels(), owner.OWNER_LABEL: f"{2**22 + 1} 1"}
    assert owner.orphaned(labels)


def test_reused_pid_makes_an_orphan():
    """The same pid with another start is another process."""
    labels = {**owner.labels(), owner.OWNER_LABEL: f"{os.getpid()} 1"}
    assert owner.orphaned(labels)


def test_containers_of_another_machine_are_left_alone():
    """A pid says nothing about a process elsewhere (shared daemon, other namespace)."""
    labels = {owner.HOST_LABEL: "elsewhere 1", owner.OWNER_LABEL: "1 1"}
    assert not owner.orphaned(labels)


@pytest.mark.parametrize("text", ["", "x", "12"])
def test_damaged_label_of_this_machine_makes_an_orphan(text):
    """Nobody can be behind it."""
    assert owner.orphaned({**owner.labels(), owner.OWNER_LABEL: text})

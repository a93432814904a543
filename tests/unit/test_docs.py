"""The documentation: its links lead somewhere, its commands have those options."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
PICTURES = sorted((ROOT / "docs/pictures").glob("*.svg"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:docs|configs|tests|ci|harness)/[\w./-]+)`")
COMMAND = re.compile(r"orc-harness ([a-z-]+)((?:[^`\n]|\\\n)*)")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")


@cache
def _options(command: str) -> frozenset[str]:
    params = app.load_command(command).params
    return frozenset(name for param in params for name in param.opts) | {"--help"}


def _wrong_options(text: str) -> list[str]:
    """Return what is said of a command and is no option of it."""
    wrong = []
    for command, rest in COMMAND.findall(text):
        if command not in app.COMMANDS:
            continue
        said = re.split(r"\s#|\|", rest)[0]  # a comment, or the next in a pipe
        said = re.sub(r"'[^']*'", "", said)  # words for a kernel, not for us
        wrong += [
            f"{command} {option}"
            for option in OPTION.findall(said)
            if option not in _options(command)
        ]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Of a page to another, to a picture, and of paths that it names."""
    text = page.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    broken = [
        link for link in links if not (page.parent / link.partition("#")[0]).exists()
    ]
    broken += [path for path in PATH.findall(text) if not (ROOT / path).exists()]

    assert not broken


def test_the_index_has_every_page() -> None:
    """Nothing is written that nobody finds."""
    linked = set(LINK.findall((ROOT / "docs/index.md").read_text()))

    assert {page.name for page in DOCS} - {"index.md"} == linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_are_said(page: Path) -> None:
    """In README and docs, on the line of the command."""
    assert not _wrong_options(page.read_text().replace("\\\n", " "))


def test_an_option_that_is_none_is_found() -> None:
    """The check's control."""
    assert _wrong_options("    orc-harness validate x --no-cash --jobs 2\n") == [
        "validate --no-cash"
    ]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_pictures_are_for_everybody(picture: Path) -> None:
    """Well-formed, with a title and a description, for light and dark pages."""
    text = picture.read_text()
    root = ElementTree.fromstring(text)

    assert root.find("{*}title") is not None
    assert root.find("{*}desc") is not None
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")

"""The page on the architecture speaks of modules that there are, and leaves no room out."""

import re
from importlib import util

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(bullpen(?:_[a-z]+)?\.[a-z_.]+)`", PAGE)))
ROOMS = [
    f"{package.name}.{room.parent.name}"
    for package in (ROOT / "client" / "bullpen", ROOT / "cli" / "bullpen_cli")
    for room in sorted(package.glob("*/__init__.py"))
]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_on_the_page_exists(name):
    assert util.find_spec(name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_stands_on_the_page(room):
    assert room in NAMES

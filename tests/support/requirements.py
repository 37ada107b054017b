"""What tests do where something that they need is missing: skip aloud, or fail where BULLPEN_REQUIRE names it."""

import os
from typing import NoReturn

import pytest


def required(what: str) -> bool:
    """Whether BULLPEN_REQUIRE, a list with commas, names this."""
    return what in os.environ.get("BULLPEN_REQUIRE", "").split(",")


def missing(what: str, why: str) -> NoReturn:
    """Skip the test, or fail it where `what` is required."""
    if required(what):
        pytest.fail(f"{why}, and BULLPEN_REQUIRE asks for it")
    pytest.skip(why)

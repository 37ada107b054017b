"""The studio's world for its tests: a folder of the test's own, and servers that are real."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio.mailbox import Mailbox

QUEUES = Path(__file__).parent.parent / "queues.yaml"


@pytest.fixture
def queues() -> Path:
    """The file that the workers of production follow too."""
    return QUEUES


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the handlers lay what they make."""
    monkeypatch.setenv("STUDIO_OUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def mailbox(out: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Mailbox]:
    """A mail server in a thread: a `def` handler blocks the harness's own."""
    box = Mailbox(out / "mails")
    with _served(box):
        monkeypatch.setenv("STUDIO_SMTP", box.address)
        yield box


@contextmanager
def _served(box: Mailbox) -> Generator[None]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with box.serving():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60), "the mail server does not start"
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()

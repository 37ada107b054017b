"""A queue's event stream in memory: what BullMQ's scripts write of a job's changes, for those who watch."""

import asyncio
from collections.abc import Mapping
from typing import Final

from bullpen.clients import events
from bullpen.clients.events import StreamEvent

MOST_ENTRIES: Final = 10_000
"""How many entries are kept, as in BullMQ."""


class Trail:
    """Entries in order, each with an id as Redis gives it: the time and a number."""

    def __init__(self) -> None:
        self._entries: list[tuple[tuple[int, int], dict[bytes, bytes]]] = []
        self._last = (0, 0)
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def last_id(self) -> str:
        """The id of the newest entry."""
        return _text(self._last)

    def write(self, event: str, job_id: str, now_ms: int, fields: Mapping[str, str | bytes] | None = None) -> None:
        """Add an entry, and wake who waits for one."""
        ms, number = self._last
        self._last = (now_ms, 0) if now_ms > ms else (ms, number + 1)
        entry = {b"event": event.encode(), b"jobId": job_id.encode()}
        for name, value in (fields or {}).items():
            entry[name.encode()] = value if isinstance(value, bytes) else value.encode(errors="replace")
        self._entries.append((self._last, entry))
        if len(self._entries) > 2 * MOST_ENTRIES:
            del self._entries[:MOST_ENTRIES]
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def read(self, after: str) -> tuple[list[StreamEvent], str]:
        """Give what came after that id, and the id to go on from."""
        ms, _, number = after.partition("-")
        place = (int(ms), int(number or 0))
        start = len(self._entries)
        while start and self._entries[start - 1][0] > place:
            start -= 1
        entries = [(_text(entry_id).encode(), fields) for entry_id, fields in self._entries[start:]]
        return events.read_entries([(b"", entries)] if entries else None, after)

    def news(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None]":
        """Give what is done when the next entry is written."""
        future = loop.create_future()
        self._waiting.append(future)
        return future


def _text(entry_id: tuple[int, int]) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"

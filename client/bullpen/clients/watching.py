"""Who waits for jobs: one reader of a queue's event stream serves all of them.

Model: a `Watcher` belongs to one client and one queue. Its one task reads the stream over a connection of its own while
anybody watches, and for ten seconds more; it hands each event to those who watch that job. It ends by itself, or by
`close`, which the client calls. When the connection is lost it connects again with growing pauses and goes on where it
was; then, and whenever entries may have been missed, watchers are told to look at the job itself (`None` in place of an
event). An error that it cannot live with is handed to every watcher.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from typing import Final, TypeAlias

from bullpen.clients.events import BLOCK_MS, LastEventId, ReadEvents, StreamEvent
from bullpen.clients.shell import Shell
from bullpen.errors import RedisUnavailable
from bullpen.queue.keys import QueueKeys
from bullpen.redis.link import reconnect_pause

IDLE_SECONDS: Final = 10.0
"""How long the connection is kept after the last watcher has gone."""

Inbox: TypeAlias = "asyncio.Queue[StreamEvent | Exception | None]"


class Watcher:
    """Reads the event stream of one queue; see the module."""

    def __init__(
        self, keys: QueueKeys, shell: Callable[[], Shell], *, timeout: float, block_ms: int = BLOCK_MS
    ) -> None:
        self._keys = keys
        self._make_shell = shell
        self._timeout = timeout
        self._block_ms = block_ms
        self._inboxes: dict[str, set[Inbox]] = {}
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # with those that are about to end
        self._placed: asyncio.Future[str] | None = None
        self._after = "0-0"
        self._idle_since: float | None = None

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str) -> AsyncGenerator[tuple[Inbox, str]]:
        """Give the job's events from now on, and the place in the stream from which on they are given.

        Raises `RedisUnavailable` when the stream cannot be reached within the client's timeout.
        """
        inbox: Inbox = asyncio.Queue()
        self._inboxes.setdefault(job_id, set()).add(inbox)
        self._idle_since = None
        try:
            yield inbox, await self._place()
        finally:
            those = self._inboxes[job_id]
            those.discard(inbox)
            if not those:
                del self._inboxes[job_id]
            if not self._inboxes:
                self._idle_since = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """End the task. Idempotent."""
        self._task = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tell(RedisUnavailable("the client was closed while somebody waited for a job"))

    async def _place(self) -> str:
        if self._task is None:
            self._placed = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._placed), name=f"events of {self._keys.queue}")
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)
        if self._placed is not None:
            await asyncio.shield(self._placed)
        return self._after

    async def _run(self, placed: "asyncio.Future[str]") -> None:
        shell = self._make_shell()
        try:
            self._after = await shell.perform(LastEventId(self._keys), timeout=self._timeout)
            placed.set_result(self._after)
            self._placed = None
            await self._read_on(shell)
        except Exception as error:  # noqa: BLE001 - it goes to all who wait, and so to their callers
            if not placed.done():
                placed.set_exception(error)
                placed.exception()  # seen, also when nobody waits for the place any more
            self._tell(error)
        finally:
            # Nothing is awaited between the last look for watchers and this, so that none comes to a reader that ends.
            if self._task is asyncio.current_task():
                self._task = None
            if not placed.done():  # closed before it had begun
                placed.set_exception(RedisUnavailable("the client was closed while somebody waited for a job"))
                placed.exception()
            await shell.close()

    async def _read_on(self, shell: Shell) -> None:
        loop = asyncio.get_running_loop()
        losses = 0
        while self._idle_since is None or loop.time() - self._idle_since < IDLE_SECONDS:
            try:
                if losses:
                    await self._find_place(shell)
                read = ReadEvents(self._keys, self._after, self._block_ms)
                events, self._after = await shell.perform(read, timeout=self._block_ms / 1_000 + self._timeout)
            except RedisUnavailable:
                losses += 1
                await asyncio.sleep(reconnect_pause(losses, random.random))
                continue
            losses = 0
            for event in events:
                for inbox in self._inboxes.get(event.job_id, ()):
                    inbox.put_nowait(event)

    async def _find_place(self, shell: Shell) -> None:
        """After a loss: go on where we were, unless the stream has begun anew (a Redis that lost its data)."""
        newest = await shell.perform(LastEventId(self._keys), timeout=self._timeout)
        if _order(newest) < _order(self._after):
            self._after = newest
        self._tell(None)

    def _tell(self, word: Exception | None) -> None:
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.put_nowait(word)


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)

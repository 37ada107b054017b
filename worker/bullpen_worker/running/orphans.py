"""Finds jobs that a call of unknown outcome has locked, and gives them back.

A fetch, or an ack that fetches, whose answer was lost may have moved a job to ``active`` under our token; nobody runs it,
and without this it would wait for its lock to expire and count as stalled. So has one that ended in an error after it had
taken a job that BullMQ's scripts cannot live with, and would again (`bullpen_worker.running.mending`). Concurrency model: one task per engine. It
looks at once when a token becomes uncertain and a few times more, since Redis may execute a command of a lost connection
later than those of the next one; by the time that a lock has expired, the token is forgotten.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import pack_command
from bullpen_worker.running import acks, mending, templates
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates

_LOOKS_S: Final = (0.0, 0.05, 0.25, 1.0)
_MOST_ACTIVE: Final = 10_000

logger = logging.getLogger("bullpen.worker")


class Orphans:
    """The tokens in doubt. `runs` says whether a slot runs this job under this token; `pack` gives the templates of now."""

    def __init__(
        self,
        *,
        line: Callable[[], Line],
        pack: Callable[[], Templates],
        runs: Callable[[bytes, bytes], bool],
        lock_ms: int,
    ) -> None:
        self._line = line
        self._pack = pack
        self._runs = runs
        self.lock_ms = lock_ms
        self._until: dict[bytes, float] = {}
        self._added = asyncio.Event()
        self.found = 0
        """How many jobs were given back so far."""

    def add(self, token: bytes) -> None:
        """Doubt this token from now on."""
        self._until[token] = time.monotonic() + 2 * self.lock_ms / 1000
        self._added.set()

    async def run(self) -> None:
        """Look whenever there is doubt; for ever."""
        while True:
            await self._added.wait()
            looks = iter(_LOOKS_S)
            while self._until:
                if self._added.is_set():
                    self._added.clear()
                    looks = iter(_LOOKS_S)
                await self._pause(next(looks, self.lock_ms / 2000))
                try:
                    await self.look()
                except (ConnectionLost, ReplyError):
                    self._added.set()
                    await asyncio.sleep(_LOOKS_S[1])
                now = time.monotonic()
                self._until = {token: until for token, until in self._until.items() if until > now}

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless there is a new doubt."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def look(self) -> None:
        """Give back what is active under a token in doubt and runs nowhere. Raises `ConnectionLost`, `ReplyError`."""
        connection = await self._line().ready()
        pack = self._pack()
        active = await connection.call(pack_command("LRANGE", pack.active_key, 0, _MOST_ACTIVE))
        ids = [job_id for job_id in active if isinstance(job_id, bytes)] if isinstance(active, list) else []
        if not ids:
            return
        locks = await connection.call(pack_command("MGET", *(pack.lock_key(job_id) for job_id in ids)))
        for job_id, token in zip(ids, locks if isinstance(locks, list) else [], strict=False):
            if not isinstance(token, bytes) or token not in self._until or self._runs(job_id, token):
                continue
            if not await mending.mend(connection, pack, job_id):
                self.found += 1
                continue
            packed, replies = templates.transaction(pack.release(job_id, token), pack.wake)
            acks.transacted(await connection.call_many(packed, replies))
            self.found += 1
            logger.warning(
                "gave back job %s, which a command without an answer had fetched", job_id.decode(errors="replace")
            )

"""A worker's connections as its hot path sees them: live, with the scripts loaded, or waited for."""

import asyncio
from collections.abc import Sequence
from typing import Final

from bullpen.queue import lua
from bullpen.queue.lua import Script
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.link import Link
from bullpen.redis.wire import Connection, pack_command

SCRIPTS: Final = (
    "moveToActive-11",
    "moveToFinished-14",
    "retryJob-11",
    "moveToDelayed-11",
    "moveJobFromActiveToWait-9",
    "updateProgress-3",
    "addLog-2",
)
"""BullMQ's scripts that `bullpen_worker.running.templates` packs."""

_PASSING_CODES: Final = frozenset(
    {
        "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "OOM", "READONLY",
        "TRYAGAIN", "UNBLOCKED", "WRONGPASS",
    }
)  # fmt: skip
_PAUSE_S: Final = 0.1


def passing(error: ReplyError) -> bool:
    """Whether Redis may well accept the same command later: it loads, is full, or an operator changes passwords."""
    # Where a script meets the refusal, Redis before 7 writes an error of its own around it.
    return error.code in _PASSING_CODES or any(f" -{code} " in str(error) for code in _PASSING_CODES)


class Line:
    """A patient link whose live connection has the worker's scripts."""

    def __init__(self, link: Link) -> None:
        self.link: Final = link
        self._prepared: Connection | None = None
        self._scripts: Sequence[Script] = [
            *(lua.bullmq(name) for name in SCRIPTS),
            lua.complete_many(),
            lua.ours("limit-starts-1"),
        ]

    @property
    def connection(self) -> Connection | None:
        """The connection to use now; None while there is none, or its scripts are not loaded."""
        prepared = self._prepared
        return prepared if prepared is not None and prepared.lost is None else None

    async def ready(self) -> Connection:
        """Wait for a connection, for ever, and load the scripts."""
        while True:
            prepared = self.connection
            if prepared is not None:
                return prepared
            connection = await self.link.ready()
            try:
                await self.load(connection)
            except ConnectionLost:
                continue
            except ReplyError as error:
                if not passing(error):
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                self._prepared = connection

    async def load(self, connection: Connection) -> None:
        """Load the scripts (again: somebody flushed them). Raises `ConnectionLost` or `ReplyError`."""
        packed = b"".join(pack_command("SCRIPT", "LOAD", script.source) for script in self._scripts)
        for reply in await connection.call_many(packed, len(self._scripts)):
            if isinstance(reply, ReplyError):
                raise reply

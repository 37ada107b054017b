"""The connection on which a worker waits for the queue's marker."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from bullpen.redis.failures import ReplyError
from bullpen.redis.link import Link
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker.running import lines
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates

BLOCK_S: Final = 10
"""How long Redis keeps one wait open."""

_ANSWER_S: Final = 5.0
_SLACK_S: Final = 2  # an idle Redis ends a wait late
_REFUSED_PAUSE_S: Final = 0.5
_NEVER_MS: Final = 2.0**53


class MarkerLine:
    """The connection that blocks for the queue's marker (`bullpen_worker.running.fetching.Marker`)."""

    def __init__(self, link: Link, line: Line, pack: Callable[[], Templates]) -> None:
        self._link = link
        self._line = line
        self._pack = pack
        self._client_id: tuple[Connection, int] | None = None

    def listen(self) -> "asyncio.Future[int | None]":
        """Begin to wait for a marker."""
        return asyncio.ensure_future(self._listen())

    async def unblock(self) -> None:
        """End the wait, where Redis allows that (``CLIENT UNBLOCK``)."""
        connection = self._link.connection
        if self._client_id is None or connection is not self._client_id[0]:
            return
        line = await self._line.ready()
        with contextlib.suppress(ReplyError):
            await line.call(pack_command("CLIENT", "UNBLOCK", self._client_id[1]))

    async def put_back(self) -> None:
        """Write a marker, unless Redis refuses writes for now: the others' safety poll finds the job."""
        connection = await self._line.ready()
        try:
            await connection.call(self._pack().wake)
        except ReplyError as error:
            if not lines.passing(error):
                raise

    async def _listen(self) -> int | None:
        connection = await self._link.ready()
        if self._client_id is None or self._client_id[0] is not connection:
            try:
                # With an end of its own, as this connection has no other: a link that is cut without a word stays mute.
                number = await connection.answer(pack_command("CLIENT", "ID"), within=_ANSWER_S)
            except ReplyError:
                number = 0
            self._client_id = (connection, number) if isinstance(number, int) and number else None
        packed = pack_command("BZPOPMIN", self._pack().marker_key, BLOCK_S)
        try:
            reply = await connection.answer(packed, within=BLOCK_S + _SLACK_S)
        except ReplyError as error:
            if not lines.passing(error):
                raise
            await asyncio.sleep(_REFUSED_PAUSE_S)
            return None
        if not isinstance(reply, list) or len(reply) < 3:
            return None
        score = reply[2]
        # A delay beyond all numbers (Node's Number.MAX_VALUE) makes the score infinite.
        return int(max(min(float(score), _NEVER_MS), 0)) if isinstance(score, bytes) else 0

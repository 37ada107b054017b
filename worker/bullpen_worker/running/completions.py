"""How the slots of one line tell Redis that jobs are completed: each by itself, or all of one turn of the loop in one script call.

Concurrency model: belongs to the engine's loop, and has no task. Jobs that end in the same turn are gathered, and go out behind
the last of them; the flush is scheduled when an answer has woken its slots, so that it runs after all of them, in the same turn.

One script call for many jobs costs Redis a third less than one for each: what BullMQ's script makes anew each time (its functions,
its options) and does for each job (trim events, count, look at the queue's settings) is done once. For Redis and for others who
look, it is what as many calls in a row would be. A call takes `MOST` jobs, so that Redis is busy with it for a millisecond.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from bullpen.redis import wire
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, Reply
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Completion, Templates

MOST: Final = 50
"""Jobs that one call completes."""


class Completions(Protocol):
    """What a slot completes its jobs by."""

    def send(self, connection: Connection, completion: Completion) -> "asyncio.Future[Reply]":
        """Complete the job and fetch another; the future gives the answer of BullMQ's script.

        It raises `ReplyError`, for this job alone or for all of the call, and `ConnectionLost`.
        """


class Single:
    """Completes each job at once, by a command of its own: for a slot that has its line for itself."""

    def __init__(self, pack: Callable[[], Templates]) -> None:
        self._pack = pack

    def send(self, connection: Connection, completion: Completion) -> "asyncio.Future[Reply]":
        """Send it."""
        return connection.call(self._pack().completed(*completion[:2], _now_ms(), *completion[2:], fetch=True))


class Gathered:
    """Completes what ends in the same turn of the loop together."""

    def __init__(self, line: Line, pack: Callable[[], Templates]) -> None:
        self._line = line
        self._pack = pack
        self._loop = asyncio.get_running_loop()
        self._create_future = partial(asyncio.Future, loop=self._loop)
        self._completions: list[Completion] = []
        self._futures: list[asyncio.Future[Reply]] = []
        self._due = False

    def send(self, connection: Connection, completion: Completion) -> "asyncio.Future[Reply]":  # noqa: ARG002 - the line's
        """Have it sent at the end of this turn."""
        future: asyncio.Future[Reply] = self._create_future()
        self._completions.append(completion)
        self._futures.append(future)
        if not self._due:
            self.expect()
        return future

    def expect(self) -> None:
        """Send what there is behind all that is to run by now."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        completions, futures = self._completions, self._futures
        if not futures:
            return
        self._completions, self._futures = [], []
        connection = self._line.connection
        if connection is None:
            for future in futures:
                wire.fail(future, ConnectionLost("the connection was lost", sent=False))
            return
        pack, now_ms = self._pack(), _now_ms()
        if len(futures) == 1:
            job_id, token, value, options = completions[0]
            connection.post(pack.completed(job_id, token, now_ms, value, options, fetch=True), futures[0])
            return
        for start in range(0, len(futures), MOST):
            some = slice(start, start + MOST)
            connection.post(pack.complete_many(completions[some], now_ms), _Answers(self, connection, futures[some]))


class _Answers:
    """Hands out the answers of one call to those who wait for them."""

    __slots__ = ("_completions", "_connection", "_futures")

    def __init__(
        self, completions: Gathered, connection: Connection, futures: "Sequence[asyncio.Future[Reply]]"
    ) -> None:
        self._completions = completions
        self._connection = connection
        self._futures = futures

    def take(self, reply: Reply) -> None:
        """Take the list of answers, or the error that nothing was done for."""
        futures = self._futures
        if not isinstance(reply, list) or len(reply) != len(futures):
            error = reply if isinstance(reply, ReplyError) else ReplyError(f"ERR {len(futures)} answers were expected")
            reply = [error] * len(futures)
        for future, answer in zip(futures, reply, strict=True):
            if isinstance(answer, ReplyError):
                self._connection.heed(answer)
                if not future.done():
                    future.set_exception(answer)
            elif not future.done():
                future.set_result(answer)
        self._completions.expect()

    def lose(self, error: ConnectionLost) -> None:
        """Tell all that no answer will come."""
        for future in self._futures:
            wire.fail(future, error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

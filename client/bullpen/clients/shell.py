"""What performs operations, and the one that does so for the async client: over the wire layer that the worker uses too.

Model: a shell belongs to one event loop. It has one connection, made when it is first needed and made again when a call
finds it lost; many calls share it, pipelined. What blocks (waiting for events) gets a shell of its own, by `blocking`.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, Self, TypeVar

from bullpen.errors import RedisUnavailable
from bullpen.queue.operations import packing
from bullpen.queue.operations.base import Call, Eval, Operation, Reply, Steps
from bullpen.redis import failures
from bullpen.redis.failures import ConnectFailed, ConnectionLost, ReplyError, ReplyTimeout
from bullpen.redis.link import Link
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Connection
from bullpen.redis.wire import Reply as WireReply

T = TypeVar("T")

_NO_SCRIPT: Final = "NOSCRIPT"
_LOOK_SECONDS: Final = 1.0  # how often the link is asked whether Redis is still where it was
_LEAST_SECONDS: Final = 0.01
_FRESH: Final = 0.9  # of the time: less is left to the later steps of something only


class Shell(Protocol):
    """What performs operations for the async client: Redis, or the memory store of the test harness."""

    async def perform(self, operation: Operation[T], *, timeout: float) -> T:
        """Do it and give its result, within `timeout` seconds. Raises `RedisUnavailable` and what the operation raises."""
        ...

    def blocking(self) -> "Shell":
        """Give a shell on the same store for operations that wait; the caller closes it."""
        ...

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        ...


class SyncShell(Protocol):
    """What performs operations for the blocking client: Redis, or the memory store of the test harness."""

    def perform(self, operation: Operation[T], *, timeout: float, waiting: float = 0) -> T:
        """Do it and give its result, within `timeout` seconds beyond the `waiting` that the operation itself asks for.

        Raises `RedisUnavailable` and what the operation raises.
        """
        ...

    def close(self) -> None:
        """Let go of the connections. Idempotent."""
        ...


class _Deadlines:
    """Ends calls that are overdue, with one timer for all of them: one each would cost more than the call's bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._calls: deque[tuple[float, asyncio.Future[WireReply], Connection, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, at: float, future: "asyncio.Future[WireReply]", connection: Connection) -> None:
        """Watch this call. Calls come in about the order of their deadlines."""
        calls = self._calls
        while calls and calls[0][1].done():
            calls.popleft()
        calls.append((at, future, connection, connection.replies))
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._check)

    def close(self) -> None:
        """Watch no more."""
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        now = self._loop.time()
        calls = self._calls
        while calls:
            at, future, connection, replies = calls[0]
            if not future.done():
                if at > now:
                    break
                reason = f"{connection.where} did not answer within {self._timeout:g} s"
                if connection.replies == replies:  # nothing at all: what waits behind would wait in vain too
                    connection.abort(reason, kind=ReplyTimeout)
                else:
                    future.set_exception(ReplyTimeout(reason, sent=True))
            calls.popleft()
        if calls:
            self._timer = self._loop.call_at(calls[0][0], self._check)


class RedisShell:
    """Performs operations on a Redis."""

    def __init__(self, settings: RedisSettings, *, timeout: float, blocking: bool = False) -> None:
        self._settings = settings
        self._timeout = timeout
        self._blocking = blocking
        self._link = Link(settings, patient=False, timeout=timeout, blocking=blocking)
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self._deadlines = _Deadlines(loop, timeout)
        self._look_again = 0.0

    async def perform(self, operation: Operation[T], *, timeout: float) -> T:
        """Do it; see `Shell`."""
        repeatable = operation.repeatable
        packed = operation.packed()
        calls = operation.commands() if packed is None else ()
        if packed is not None or len(calls) == 1:
            try:
                reply = await self._send(packed or packing.pack(calls[0]), timeout, repeatable=repeatable)
            except ReplyError as error:
                if error.code != _NO_SCRIPT:
                    raise
                calls = operation.commands()
                return operation.read(await self._load_and_send(calls, timeout=timeout, repeatable=repeatable))
            return operation.read((reply,))
        packed = b"".join(map(packing.pack, calls))
        replies: Sequence[Reply] = await self._link.send_many(
            packed, len(calls), timeout=timeout, repeatable=repeatable
        )
        if any(isinstance(reply, ReplyError) and reply.code == _NO_SCRIPT for reply in replies):
            replies = await self._load_and_send(calls, timeout=timeout, repeatable=repeatable)
        _raise_error(replies)
        return operation.read(replies)

    def blocking(self) -> Self:
        """Give one with a connection of its own."""
        return type(self)(self._settings, timeout=self._timeout, blocking=True)

    async def close(self) -> None:
        """Close the connection."""
        self._deadlines.close()
        await self._link.close()

    async def _send(self, packed: bytes, timeout: float, *, repeatable: bool) -> Reply:
        """Send one command; the usual one, with all its time ahead, needs no timer of its own."""
        if self._blocking or timeout < self._timeout * _FRESH:
            return await self._link.send(packed, timeout=timeout, repeatable=repeatable)
        began = self._now()
        connection = self._link.connection
        try:
            if connection is None or began >= self._look_again:
                self._look_again = began + _LOOK_SECONDS
                connection = await self._link.ready(within=timeout)
            future = connection.call(packed)
            self._deadlines.add(began + timeout, future, connection)
            return await future
        except ConnectionLost as error:
            left = began + timeout - self._now()
            if left > 0 and (repeatable or not error.sent):
                return await self._link.send(packed, timeout=left, repeatable=repeatable)
            sure = ConnectionLost(str(error), sent=False) if repeatable else error
            raise failures.unavailable(sure, where=self._link.where) from error
        except ConnectFailed as error:
            raise failures.unavailable(error, where=self._link.where) from error
        except ReplyError as error:
            if error.code not in failures.UNAVAILABLE_CODES:
                raise
            raise failures.unavailable(error, where=self._link.where) from error

    async def _load_and_send(self, calls: Sequence[Call], *, timeout: float, repeatable: bool) -> Sequence[Reply]:
        """Send calls again of which Redis did not know the script (it did nothing then), with the script before."""
        scripts = {call.script.sha: call.script for call in calls if isinstance(call, Eval)}
        load = b"".join(map(packing.pack_load, scripts.values()))
        packed = load + b"".join(map(packing.pack, calls))
        count = len(scripts) + len(calls)
        replies = await self._link.send_many(packed, count, timeout=timeout, repeatable=repeatable)
        _raise_error(replies)
        return replies[len(scripts) :]


async def run(shell: Shell, steps: Steps[T], *, timeout: float, now: "Clock") -> T:
    """Run steps to their end. Redis has `timeout` seconds for all of them, by the monotonic clock `now`.

    Where an operation settles a part of the work, what comes after it has the whole time again.
    """
    left = timeout
    try:
        operation = next(steps)
        while True:
            began = now()
            try:
                result = await shell.perform(operation, timeout=time_left(left))
            except Exception as error:  # noqa: BLE001 - it is the steps' to judge: what they do not take is raised by them
                left -= now() - began
                operation = steps.throw(error)
            else:
                left = timeout if operation.settles(result) else left - (now() - began)
                operation = steps.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


def time_left(seconds: float) -> float:
    """Give what is left. Raises `RedisUnavailable` when that is nothing: connecting alone would take longer."""
    if seconds < _LEAST_SECONDS:
        msg = "the client's timeout has passed"
        raise RedisUnavailable(msg)
    return seconds


class Clock(Protocol):
    """Gives seconds that never go back."""

    def __call__(self) -> float:
        """Give the time."""
        ...


def _raise_error(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply

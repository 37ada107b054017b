"""Keeps one connection to Redis alive.

Two manners. A *patient* link (workers) has one task, which connects, waits for the connection to end, and connects
again, for ever, with growing pauses and jitter; it is started by `async with` and ended by leaving it. A link that is
not patient (clients) has no task: each call connects where there is no connection, once, within its timeout, and says
what was wrong; callers that come at the same time share the attempt.

Neither repeats a command whose bytes may have gone out, unless the caller says that it is `repeatable`.
"""

import asyncio
import contextlib
import enum
import random as randomness
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bullpen import errors
from bullpen.queue.lua import Script
from bullpen.redis import failures, handshake
from bullpen.redis.endpoints import ConfiguredEndpoints, Endpoints
from bullpen.redis.failures import ConnectFailed, ConnectionLost, LinkDied, ReplyError
from bullpen.redis.limits import ReplyLimits
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Connection, Reply, pack_command

Word = bytes | str | int | float

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
BLOCK_GRACE_SECONDS: Final = 1.0
"""How long past its block time a blocking command may stay unanswered; an idle Redis 7.0 is up to 0.1 s late."""
_SETTLED_SECONDS: Final = 1.0  # a connection that lived less is one more failed attempt
_STAMP_SECONDS: Final = 5.0


class LinkState(enum.StrEnum):
    """Where a link is."""

    IDLE = "idle"
    """Nothing was tried yet, or (not patient) the connection is gone and no call has asked for another."""
    DOWN = "down"
    """The last attempt failed, or the connection was lost; a patient link is on its way to the next attempt."""
    READY = "ready"
    CLOSED = "closed"


@dataclass
class LinkCounts:
    """What has happened to a link so far."""

    connects: int = 0
    failures: int = 0
    """Attempts to connect that failed."""
    losses: int = 0
    """Connections that ended without our doing."""


StateCallback = Callable[[LinkState, str], None]
"""Told the new state and, for people, the reason. Must not block or raise."""


def reconnect_pause(attempt: int, random: Callable[[], float], longest: float = LONGEST_PAUSE_SECONDS) -> float:
    """Give the seconds before the next attempt after `attempt` failed ones: full jitter under a doubling bound."""
    bound: float = min(longest, FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16))
    return bound * (0.1 + 0.9 * random())


class Link:
    """One connection to Redis, made again when it is lost; see the module. Belongs to one event loop.

    `timeout` (seconds; absent: the settings') is for connecting and for each answer. `blocking` is for a link whose
    commands block: the connection then has no reply timeout of its own, only that of each `block`. `limits` bound every
    reply. `longest_pause` gives what bounds the next pause of a patient link, in seconds.
    """

    def __init__(
        self,
        endpoints: RedisSettings | Endpoints,
        *,
        patient: bool,
        name: str | None = None,
        timeout: float | None = None,
        blocking: bool = False,
        eager: bool = True,
        on_state: StateCallback | None = None,
        limits: ReplyLimits | None = None,
        longest_pause: Callable[[], float] = lambda: LONGEST_PAUSE_SECONDS,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._endpoints = ConfiguredEndpoints(endpoints) if isinstance(endpoints, RedisSettings) else endpoints
        self._patient = patient
        self._name = name
        self._timeout = timeout
        self._blocking = blocking
        self._eager = eager
        self._on_state = on_state
        self._limits = limits
        self._longest_pause = longest_pause
        self._random = random
        self._where = self._endpoints.where
        self._settings: RedisSettings | None = None
        self._connection: Connection | None = None
        self._stamp: object = None
        self._stamp_read = 0.0
        self._loaded: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._attempt: asyncio.Task[Connection] | None = None
        self._changed = asyncio.Event()
        self.state = LinkState.IDLE
        self.reason = ""
        """Why the link is in this state, for people."""
        self.failure: ConnectFailed | errors.ConfigurationError | None = None
        """What the latest attempt to connect failed with; None where it did not."""
        self.counts = LinkCounts()

    # -- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._patient and self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"link to {self._where}")
            self._task.add_done_callback(
                lambda _: self._changed.set()
            )  # who waits is told that nobody connects any more
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection and the link's task. Idempotent."""
        tasks = [task for task in (self._task, self._attempt) if task is not None]
        self._task = self._attempt = None
        self._set(LinkState.CLOSED, "closed")
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def where(self) -> str:
        """The address last connected to, or to be connected to; without credentials."""
        return self._where

    @property
    def settings(self) -> RedisSettings | None:
        """The settings last connected with, or tried; None before the first attempt."""
        return self._settings

    @property
    def connection(self) -> Connection | None:
        """The live connection, for those who pack their commands themselves; None while there is none."""
        connection = self._connection
        return connection if connection is not None and connection.lost is None else None

    async def ready(self, *, within: float | None = None) -> Connection:
        """Give a live connection.

        A patient link waits for one, `within` seconds or for ever, and raises `ConnectFailed` with the last reason
        when time is up. Any other connects, within its timeout, and raises what was wrong.
        """
        connection = self.connection
        if connection is not None and (self._patient or not await self._moved(connection)):
            return connection
        self._refuse_if_closed()
        if self._patient:
            return await self._wait_ready(within)
        return await self._connect_once(within)

    # -- commands ----------------------------------------------------------------------------------------------

    async def call(self, *words: Word, timeout: float | None = None, repeatable: bool = False) -> Reply:
        """Send one command and give its reply; see `send`."""
        return await self.send(pack_command(*words), timeout=timeout, repeatable=repeatable)

    async def send(self, packed: bytes, *, timeout: float | None = None, repeatable: bool = False) -> Reply:
        """Send one packed command; connecting and the answer take `timeout` seconds at most.

        Patient: waits for the connection first (only then does the time run), raises `ConnectionLost` or `ReplyError`.
        Not patient: raises `RedisUnavailable`, as `EnqueueUncertain` where the command may have been carried out, and
        `ReplyError` for what Redis has against the command itself. `repeatable`: the command may run twice; it is sent
        again, once, when its answer was lost.
        """
        replies = await self._exchange(packed, None, timeout, repeatable=repeatable)
        return replies[0]

    async def send_many(
        self, packed: bytes, count: int, *, timeout: float | None = None, repeatable: bool = False
    ) -> list[Reply]:
        """Send `count` commands packed into one; error replies are values of the list. Raises as `send` does."""
        return await self._exchange(packed, count, timeout, repeatable=repeatable)

    async def block(self, packed: bytes, *, seconds: float) -> Reply:
        """Send a command that blocks for up to `seconds`, and give up the connection when it is late by more than 1 s."""
        connection = await self.ready()
        return await connection.answer(packed, within=seconds + BLOCK_GRACE_SECONDS)

    async def eval(
        self,
        script: Script,
        keys: Sequence[Word],
        args: Sequence[Word] = (),
        *,
        timeout: float | None = None,
        repeatable: bool = False,
    ) -> Reply:
        """Run a script by its hash; where Redis does not know it (nothing was executed then), load it and repeat."""
        packed = pack_command("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return await self.send(packed, timeout=timeout, repeatable=repeatable)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        load = pack_command("SCRIPT", "LOAD", script.source)
        loaded, reply = await self.send_many(load + packed, 2, timeout=timeout, repeatable=repeatable)
        for answer in (loaded, reply):
            if isinstance(answer, ReplyError):
                raise answer
        return reply

    async def load(self, scripts: Iterable[Script], *, timeout: float | None = None) -> None:
        """Have Redis know these scripts; asks only for those not loaded yet on this connection."""
        if self.connection is None:
            self._loaded.clear()
        missing = [script for script in scripts if script.sha not in self._loaded]
        if not missing:
            return
        packed = b"".join(pack_command("SCRIPT", "LOAD", script.source) for script in missing)
        for reply in await self.send_many(packed, len(missing), timeout=timeout, repeatable=True):
            if isinstance(reply, ReplyError):
                raise reply
        self._loaded.update(script.sha for script in missing)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _exchange(
        self, packed: bytes, count: int | None, timeout: float | None, *, repeatable: bool
    ) -> list[Reply]:
        loop = asyncio.get_running_loop()
        limit = self._limit(timeout)
        deadline = loop.time() + limit
        last_try = False
        while True:
            try:
                connection = await self.ready(within=None if self._patient else max(0.0, deadline - loop.time()))
                within = limit if self._patient else max(0.001, deadline - loop.time())
                if count is None:
                    return [await connection.answer(packed, within=within)]
                return await connection.answers(packed, count, within=within)
            except ConnectionLost as error:
                again = repeatable or not error.sent
                if again and not last_try and (self._patient or loop.time() < deadline):
                    last_try = True
                    continue
                if self._patient:
                    raise
                sure = failures.ConnectionLost(str(error), sent=False) if repeatable else error
                raise failures.unavailable(sure, where=self._where) from error
            except ConnectFailed as error:
                if self._patient:
                    raise
                raise failures.unavailable(error, where=self._where) from error
            except ReplyError as error:
                if self._patient or error.code not in failures.UNAVAILABLE_CODES:
                    raise
                raise failures.unavailable(error, where=self._where) from error

    def _refuse_if_closed(self) -> None:
        if self.state is LinkState.CLOSED:
            msg = f"the link to Redis at {self._where} is closed"
            raise ConnectFailed(msg)

    def _limit(self, timeout: float | None) -> float:
        if timeout is not None:
            return timeout
        if self._timeout is not None:
            return self._timeout
        if self._settings is not None:
            return self._settings.timeout.total_seconds()
        return 5.0

    async def _wait_ready(self, within: float | None) -> Connection:
        try:
            async with asyncio.timeout(within):
                while True:
                    connection = self.connection
                    if connection is not None:
                        return connection
                    task = self._task
                    if task is None or task.done():
                        msg = f"the link to Redis at {self._where} is not running"
                        if (death := _death(task)) is not None:
                            raise LinkDied(msg) from death
                        raise ConnectFailed(msg)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            msg = self.reason or f"no connection to Redis at {self._where} yet"
            raise ConnectFailed(msg) from None

    async def _connect_once(self, within: float | None) -> Connection:
        """Connect, or join the attempt under way; one that began earlier and fails says nothing about now."""
        limit = self._limit(within)
        joined = self._attempt is not None and not self._attempt.done()
        try:
            async with asyncio.timeout(limit):
                if joined:
                    with contextlib.suppress(ConnectFailed, errors.ConfigurationError):
                        return await self._share(limit)
                return await self._share(limit)
        except TimeoutError:
            msg = f"Redis at {self._where} cannot be reached: nothing within {limit:.3g} s"
            raise ConnectFailed(msg) from None

    async def _share(self, limit: float) -> Connection:
        attempt = self._attempt
        if attempt is None or attempt.done():
            self._refuse_if_closed()
            attempt = self._attempt = asyncio.create_task(self._connect(limit), name=f"connect to {self._where}")
            attempt.add_done_callback(_seen)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if attempt.cancelled() and task is not None and not task.cancelling():
                msg = f"the link to Redis at {self._where} was closed while it connected"
                raise ConnectFailed(msg) from None
            raise

    async def _connect(self, limit: float | None = None) -> Connection:
        """Connect once, within `limit` seconds. Sets the state and, on success, the connection."""
        try:
            stamp = self._endpoints.stamp()
            settings = await self._endpoints.current()
            self._settings = settings
            self._where = settings.where
            usual = self._limit(None)
            connection = await handshake.connect(
                settings,
                name=self._name,
                eager=self._eager,
                reply_timeout=None if self._blocking else usual,
                timeout=usual if limit is None else limit,
                limits=self._limits,
            )
        except (ConnectFailed, errors.ConfigurationError) as error:
            self.counts.failures += 1
            self.failure = error
            self._set(LinkState.DOWN, str(error))
            raise
        self._stamp = stamp
        self._stamp_read = asyncio.get_running_loop().time()
        self._loaded.clear()
        connection.on_lost = self._lost
        self._connection = connection
        self.counts.connects += 1
        self.failure = None
        self._set(LinkState.READY, f"connected to Redis at {settings.where}")
        if connection.lost is not None:  # as soon as it was there
            self._lost(connection.lost)
        return connection

    async def _keep(self) -> None:
        """Be connected, for ever: the patient link's task."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            try:
                connection = await self._connect()
            except (ConnectFailed, errors.ConfigurationError):
                # A configuration that cannot be read may be in the middle of being changed: an outage like another.
                pass
            else:
                since = loop.time()
                await self._until_lost(connection)
                if loop.time() - since >= _SETTLED_SECONDS:
                    attempt = 0
            await asyncio.sleep(reconnect_pause(attempt, self._random, self._longest_pause()))
            attempt += 1

    async def _until_lost(self, connection: Connection) -> None:
        while connection.lost is None:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STAMP_SECONDS):
                    await self._changed.wait()
            if connection.lost is None:
                await self._moved(connection)

    async def _moved(self, connection: Connection) -> bool:
        """Look now and then whether Redis is somewhere else by now, and if so leave this connection.

        Changed credentials alone are no reason to: a session outlives its password, and the next connect reads them.
        A connection with replies to come is left at a later look.
        """
        now = asyncio.get_running_loop().time()
        if now - self._stamp_read < _STAMP_SECONDS:
            return False
        self._stamp_read = now
        stamp = self._endpoints.stamp()
        if stamp == self._stamp:
            return False
        try:
            settings = await self._endpoints.current()
        except errors.ConfigurationError:
            return False  # half written, perhaps; the connection is good meanwhile
        if self._settings is not None and settings.endpoint == self._settings.endpoint:
            self._stamp = stamp
            return False
        if connection.backlog and not self._blocking:
            return False
        connection.close()
        return True

    def _lost(self, why: ConnectionLost) -> None:
        if self.state is LinkState.READY:
            self.counts.losses += 1
            self._set(LinkState.DOWN if self._patient else LinkState.IDLE, str(why))
        self._changed.set()

    def _set(self, state: LinkState, reason: str) -> None:
        changed = state is not self.state or reason != self.reason
        self.state = state
        self.reason = reason
        self._changed.set()
        if changed and self._on_state is not None:
            self._on_state(state, reason)


def _seen(attempt: "asyncio.Task[Connection]") -> None:
    """Mark a failed attempt as seen: those who waited have it, and when all of them were cancelled nobody needs it."""
    if not attempt.cancelled():
        _ = attempt.exception()


def _death(task: "asyncio.Task[None] | None") -> BaseException | None:
    return None if task is None or not task.done() or task.cancelled() else task.exception()

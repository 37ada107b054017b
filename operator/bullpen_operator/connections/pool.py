"""One patient connection of the operator to each Redis, and what becomes of those that answer nothing or too much.

Model: a `Redis` has one link, whose task connects and connects again for ever, with jittered pauses: of up to two seconds
for a Redis that was there minutes ago, else of up to half a minute. Whoever asks something of a Redis waits for nobody:
while there is no connection the answer is `RedisUnavailable` at once, with the reason; only the very first attempt is waited
for. A Redis that left a command without an answer in time, or answered too much, is then left alone for a growing while, in
which every question fails at once. So what one bad Redis costs the others is one timeout now and then. `Redises` owns them
all, and ends them when it is left.
"""

import asyncio
import contextlib
import random as randomness
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from bullpen.clients import shell
from bullpen.errors import ConfigurationError, RedisUnavailable
from bullpen.queue.operations import packing
from bullpen.queue.operations.base import Eval, Operation, Steps
from bullpen.redis import failures
from bullpen.redis.failures import (
    AuthenticationRefused,
    ConnectFailed,
    ConnectionLost,
    NotReady,
    ReplyError,
    ReplyTimeout,
    ReplyTooLarge,
)
from bullpen.redis.limits import ReplyLimits
from bullpen.redis.link import Link, LinkState, Word
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import Reply, pack_command
from bullpen_operator.connections.credentials import Reads, SecretEndpoints
from bullpen_operator.connections.lookups import Lookups
from bullpen_operator.connections.references import RedisRef

T = TypeVar("T")

LIMITS: Final = ReplyLimits()
CONNECT_SECONDS: Final = 3.0
"""How long looking a host up may take, and then connecting to it."""
ANSWER_SECONDS: Final = 3.0
STEPS_SECONDS: Final = 10.0
"""How long all the steps of one thing may take."""
LONGEST_PAUSE_SECONDS: Final = 30.0
EAGER_PAUSE_SECONDS: Final = 2.0
EAGER_FOR_SECONDS: Final = 900.0
"""A Redis that was there so short a while ago is looked for eagerly: it has lost its users when it restarted."""
LONGEST_REST_SECONDS: Final = 60.0
UNUSED_SECONDS: Final = 300.0
_MARGIN_SECONDS: Final = 0.5  # so that the first attempt tells why it failed
_LONGEST_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a Redis cannot be used now: a reason for machines, words for people. No value of a Secret is in either."""

    reason: str
    message: str


class _LookedUp:
    """Endpoints whose host is looked up by us, not by the event loop's few threads."""

    def __init__(self, endpoints: SecretEndpoints, namespace: str, lookups: Lookups) -> None:
        self._endpoints = endpoints
        self._namespace = namespace
        self._lookups = lookups

    @property
    def where(self) -> str:
        return self._endpoints.where

    async def current(self) -> RedisSettings:
        settings = await self._endpoints.current()
        address = await self._lookups.find(self._namespace, settings.host, settings.port, within=CONNECT_SECONDS)
        return settings.model_copy(update={"looked_up": address})

    def stamp(self) -> object:
        return self._endpoints.stamp()


class Redis:
    """One Redis, as one account. Made by `Redises.of`."""

    def __init__(
        self,
        ref: RedisRef,
        kube: Reads,
        lookups: Lookups,
        *,
        changed: Callable[["Redis"], None],
        random: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.ref = ref
        self.id = ref.id
        """A short label that stays: for metrics."""
        self._changed = changed
        self._random = random
        self._monotonic = monotonic
        self._tried = asyncio.Event()
        self._rests = 0
        self._rest_until = 0.0
        self._rest_trouble: Trouble | None = None
        self._rested: asyncio.TimerHandle | None = None
        self._seen_at: float | None = None
        self.used_at = monotonic()
        self.endpoints = SecretEndpoints(
            ref, kube, refused=lambda: isinstance(self.link.failure, AuthenticationRefused), timeout=CONNECT_SECONDS
        )
        self._looked_up = _LookedUp(self.endpoints, ref.namespace, lookups)
        self._aside: Link | None = None
        self.link = Link(
            self._looked_up,
            patient=True,
            name="bullpen:operator",
            timeout=ANSWER_SECONDS,
            limits=LIMITS,
            longest_pause=self._longest_pause,
            random=random,
            on_state=self._on_state,
        )

    # -- how it is ---------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether commands are sent: there is a connection, and the latest commands were answered."""
        return self.link.connection is not None and self._monotonic() >= self._rest_until

    @property
    def trouble(self) -> Trouble | None:
        """Why it cannot be used now; None when it can, or nothing was tried yet."""
        if self._monotonic() < self._rest_until:
            return self._rest_trouble
        if self.link.connection is not None or not self._tried.is_set():
            return None
        return self._explain()

    @property
    def why(self) -> str:
        """Why it cannot be used now, in words; empty when it can."""
        trouble = self.trouble
        return "" if trouble is None else trouble.message

    @property
    def settings(self) -> RedisSettings | None:
        """The settings last connected with, credentials among them; None before the first attempt."""
        return self.link.settings

    def redacted(self, text: str) -> str:
        """Give a text that may be shown: whatever a server says could repeat what it was told."""
        for secret in self.endpoints.secrets():
            text = text.replace(secret, "***")
        text = "".join(character if character.isprintable() else " " for character in text)
        return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"

    # -- asking ------------------------------------------------------------------------------------------------

    async def run(self, operation: Operation[T], *, timeout: float = ANSWER_SECONDS) -> T:
        """Do one operation within `timeout` seconds.

        Raises `RedisUnavailable` (at once, while there is no connection), `ReplyError`, and what the operation raises.
        """
        calls = operation.commands()
        packed = b"".join(map(packing.pack, calls))
        replies = await self.exchange(packed, len(calls), timeout=timeout)
        if any(isinstance(reply, ReplyError) and reply.code == "NOSCRIPT" for reply in replies):
            scripts = {call.script.sha: call.script for call in calls if isinstance(call, Eval)}
            load = b"".join(map(packing.pack_load, scripts.values()))
            replies = await self.exchange(load + packed, len(scripts) + len(calls), timeout=timeout)
            replies = replies[len(scripts) :]
        self._raise_error(replies)
        return operation.read(replies)

    async def run_steps(self, steps: Steps[T], *, timeout: float = STEPS_SECONDS) -> T:
        """Run steps to their end within `timeout` seconds. Raises as `run` does, and what the steps raise."""
        return await shell.run(self, steps, timeout=timeout, now=self._monotonic)

    async def perform(self, operation: Operation[T], *, timeout: float) -> T:  # noqa: ARG002 - a Shell's
        """Do one operation: what makes this a `bullpen.clients.shell.Shell`.

        Its answer is waited for in full, also where the steps' time is nearly over: one that is cut off would pass for a Redis
        that does not answer, and all its queues would be left alone for a while.
        """
        return await self.run(operation, timeout=ANSWER_SECONDS)

    async def call(self, *words: Word, timeout: float = ANSWER_SECONDS) -> Reply:
        """Send one command. Raises `RedisUnavailable`, `ReplyError`."""
        replies = await self.exchange(pack_command(*words), 1, timeout=timeout)
        self._raise_error(replies)
        return replies[0]

    async def call_aside(self, *words: Word, timeout: float = ANSWER_SECONDS) -> Reply:
        """Send one command over a connection of its own, which alone is lost where the answer is too much.

        For what others may have made any size. Raises `RedisUnavailable`, whose cause may be `ReplyTooLarge`, and `ReplyError`.
        """
        if self._aside is None:
            self._aside = Link(
                self._looked_up, patient=False, name="bullpen:operator:aside", timeout=ANSWER_SECONDS, limits=LIMITS
            )
        return await self._aside.call(*words, timeout=timeout)

    async def exchange(self, packed: bytes, count: int, *, timeout: float = ANSWER_SECONDS) -> list[Reply]:
        """Send `count` packed commands; error replies are values of the list. Raises `RedisUnavailable`."""
        self.used_at = self._monotonic()
        if self.link.connection is None and not self._tried.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(timeout, CONNECT_SECONDS + _MARGIN_SECONDS)):
                    await self._tried.wait()
        connection = self.link.connection
        if connection is None:
            with contextlib.suppress(ConnectFailed):
                await self.link.ready(
                    within=0
                )  # raises `LinkDied` where its task died of a bug: nobody will ever connect
        if connection is None or self._monotonic() < self._rest_until:
            raise RedisUnavailable(self.why or f"Redis {self.id}: no connection yet")
        try:
            replies = await connection.answers(packed, count, within=timeout)
        except ConnectionLost as error:
            if isinstance(error, ReplyTimeout | ReplyTooLarge):
                self._rest(error)
            raise failures.unavailable(
                ConnectionLost(self.redacted(str(error)), sent=error.sent), where=self.link.where
            ) from None
        self._rests = 0
        return replies

    def blocking_link(self, name: str) -> Link:
        """Give a further patient link for commands that block, on the same account, as bounded. The caller's to enter and leave."""
        return Link(
            self._looked_up,
            patient=True,
            name=name,
            blocking=True,
            timeout=CONNECT_SECONDS,
            limits=LIMITS,
            longest_pause=self._longest_pause,
            random=self._random,
        )

    def blocking(self) -> Self:
        """Not given: what blocks takes a `blocking_link`."""
        msg = "a Redis of the operator has no shell for what blocks; take blocking_link()"
        raise NotImplementedError(msg)

    async def close(self) -> None:
        """End the connection."""
        self._tried.set()
        if self._rested is not None:
            self._rested.cancel()
        if self._aside is not None:
            await self._aside.close()
        await self.link.close()

    # -- inside ------------------------------------------------------------------------------------------------

    def _on_state(self, state: LinkState, reason: str) -> None:  # noqa: ARG002 - it may hold what a server said
        if state is LinkState.READY or (state is LinkState.DOWN and self.link.failure is None):
            self._seen_at = self._monotonic()
        # A new connection is no sign that commands are answered: a rest goes on.
        if state is not LinkState.IDLE:
            self._tried.set()
        self._changed(self)

    def _longest_pause(self) -> float:
        eager = self._seen_at is not None and self._monotonic() - self._seen_at < EAGER_FOR_SECONDS
        return EAGER_PAUSE_SECONDS if eager else LONGEST_PAUSE_SECONDS

    def _rest(self, error: ConnectionLost) -> None:
        self._rests += 1
        seconds = min(LONGEST_REST_SECONDS, 2.0**self._rests) * (0.5 + 0.5 * self._random())
        self._rest_until = self._monotonic() + seconds
        if self._rested is not None:
            self._rested.cancel()
        self._rested = asyncio.get_running_loop().call_later(seconds, self._changed, self)
        what = "answered more than is allowed" if isinstance(error, ReplyTooLarge) else "did not answer in time"
        reason = "ReplyTooLarge" if isinstance(error, ReplyTooLarge) else "TimedOut"
        self._rest_trouble = Trouble(reason, f"Redis at {self.link.where} {what}; it is left alone for a while")

    def _explain(self) -> Trouble:
        failure = self.link.failure
        text = self.redacted(str(failure) if failure is not None else self.link.reason)
        match failure:
            case AuthenticationRefused():
                return Trouble("AuthenticationRefused", text)
            case NotReady():
                return Trouble("NotReady", text)
            case ConfigurationError():
                return Trouble("CredentialsUnreadable", text)
            case ConnectFailed():
                return Trouble("Unreachable", text)
            case _:
                return Trouble("ConnectionLost", text)

    def _raise_error(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, ReplyError):
                error = ReplyError(self.redacted(str(reply)))
                if error.code in failures.UNAVAILABLE_CODES:
                    raise failures.unavailable(error, where=self.link.where)
                raise error


class Redises:
    """All of them. Use it as ``async with``; belongs to one event loop."""

    def __init__(
        self,
        kube: Reads,
        *,
        random: Callable[[], float] = randomness.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._lookups = Lookups()
        self._random = random
        self._monotonic = monotonic
        self._known: dict[RedisRef, Redis] = {}
        self._subscribers: list[Callable[[Redis], None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        known, self._known = self._known, {}
        for redis in known.values():
            await redis.close()
        self._lookups.close()

    def subscribe(self, subscriber: Callable[[Redis], None]) -> None:
        """Have it told of each connection that was made or lost. Must not block or raise."""
        self._subscribers.append(subscriber)

    async def of(self, ref: RedisRef) -> Redis:
        """Give the one Redis of this reference; it connects from then on. Waits for nothing."""
        found = self._known.get(ref)
        if found is None:
            if self._closed:
                msg = "the operator is ending"
                raise RedisUnavailable(msg)
            found = self._known[ref] = Redis(
                ref, self._kube, self._lookups, changed=self._tell, random=self._random, monotonic=self._monotonic
            )
            await found.link.__aenter__()
        found.used_at = self._monotonic()
        return found

    def known(self) -> tuple[Redis, ...]:
        """Give all that there are now."""
        return tuple(self._known.values())

    async def retain(self, refs: Collection[RedisRef]) -> tuple[Redis, ...]:
        """Close those that no connection refers to any more and nobody has used for minutes; give which."""
        horizon = self._monotonic() - UNUSED_SECONDS
        gone = [redis for ref, redis in self._known.items() if ref not in refs and redis.used_at < horizon]
        for redis in gone:
            del self._known[redis.ref]
            await redis.close()
        return tuple(gone)

    def _tell(self, redis: Redis) -> None:
        for subscriber in self._subscribers:
            subscriber(redis)

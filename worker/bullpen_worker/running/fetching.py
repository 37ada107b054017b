"""When to ask Redis for a job, and how to wait for one.

Concurrency model: one coroutine per engine, `Fetcher.run`, owns what is known of the queue (`Outlook`) and is the only one
that fetches without an ack. Others tell it what they learn by plain calls (`note`, `free`, `hold` …), each of which
wakes it; it never polls faster than every `POLL_MS`. On a second connection it keeps one BZPOPMIN on the queue's
marker outstanding, races it with a timer of its own, and uses it again afterwards: a cancelled wait could have taken a
marker, and a wake-up would be lost. A marker that comes when this worker will not fetch is put back at once.

The timer is local because Redis' own is not a clock: on an idle server a BZPOPMIN ends up to 100 ms late.

What Redis answers (see BullMQ's ``moveToActive-11``) is an `Empty` with what is known of the next chance, or a job.
Times are wall clock milliseconds since the epoch, as the scripts take them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

POLL_MS: Final = 5_000
"""The safety net: nothing writes a marker when another program raises the queue's total concurrency."""

LIMIT_CAP_MS: Final = 5_000
"""Longest sleep on a rate limit, so that due delayed jobs are promoted and a lifted limit is noticed."""

_REST_AFTER_ERROR_S: Final = 0.1
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Empty:
    """No job for now: limited for `limited_ms`, or the next delayed job is due at `due_ms`; 0 for neither."""

    limited_ms: int = 0
    due_ms: int = 0


NOTHING: Final = Empty()
UNTOLD: Final = Empty(-1, -1)
"""An ack that fetched nothing and says nothing of the queue either: only a fetch will tell."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: fetch now, or wait until a time (None: until told), listening for a marker or not."""

    fetch: bool = False
    listen: bool = False
    until_ms: int | None = None


FETCH: Final = Step(fetch=True)
PARK: Final = Step()


@dataclass(slots=True)
class Outlook:
    """What is known of the queue and of this worker's appetite; pure, the clock comes in.

    `free` counts slots that could take a job; below zero after the concurrency was lowered.
    """

    free: int
    holding: bool = False
    drained: bool = False
    limited_until_ms: int = 0
    due_ms: int = 0
    fetched_ms: int = 0
    seen_ms: int = 0

    @property
    def hungry(self) -> bool:
        """Whether a job would be welcome."""
        return self.free > 0 and not self.holding

    def step(self, now_ms: int) -> Step:
        """Say what to do at `now_ms`."""
        if now_ms < self.seen_ms:  # the clock was set back: what is counted by it would be far away
            self.drained = False
            self.limited_until_ms = 0
        self.seen_ms = now_ms
        if not self.hungry:
            return PARK
        if self.limited_until_ms > now_ms:
            return Step(until_ms=min(self.limited_until_ms, now_ms + LIMIT_CAP_MS))
        if not self.drained or 0 < self.due_ms <= now_ms or now_ms - self.fetched_ms >= POLL_MS:
            return FETCH
        poll_ms = self.fetched_ms + POLL_MS
        return Step(listen=True, until_ms=min(poll_ms, self.due_ms) if self.due_ms else poll_ms)

    def learn(self, reply: Empty, now_ms: int) -> None:
        """Take in an answer without a job."""
        if reply is UNTOLD:
            self.drained = False
            return
        self.drained = True
        self.fetched_ms = now_ms
        self.due_ms = reply.due_ms
        self.limited_until_ms = now_ms + min(reply.limited_ms, LIMIT_CAP_MS) if reply.limited_ms else 0
        if reply.limited_ms:
            self.drained = False  # the limit's end is a reason to look again

    def marker(self, score_ms: int, now_ms: int) -> None:
        """Take in a marker: there may be work now, or a delayed job falls due at its score."""
        if score_ms > now_ms:
            self.due_ms = score_ms
        else:
            self.drained = False


class Marker(Protocol):
    """The blocking connection, as the fetcher uses it."""

    def listen(self) -> "asyncio.Future[int | None]":
        """Begin to wait for a marker: its score in ms, or None after some seconds. Fails with the connection."""

    async def unblock(self) -> None:
        """End the wait on the server's side, so that its future resolves. Does nothing when that is not allowed."""

    async def put_back(self) -> None:
        """Write a marker, for somebody else to take: one that says "look", which serves for a delayed one too."""


class Fetcher:
    """Fetches while slots are free and jobs are there.

    `fetch` takes one job and starts it, and then returns None; else it says what it learnt. `wants(bool)` is told
    whether the worker looks for jobs, `fetched()` that Redis answered. Errors of `fetch` and of the marker that are
    `passing` (a lost connection) are waited out; others end `run`.
    """

    def __init__(
        self,
        *,
        free: int,
        fetch: Callable[[], Awaitable[Empty | None]],
        marker: Marker,
        clock_ms: Callable[[], int],
        on_hungry: Callable[[bool], None],
        passing: tuple[type[Exception], ...],
    ) -> None:
        self._outlook = Outlook(free)
        self._fetch = fetch
        self._marker = marker
        self._clock_ms = clock_ms
        self._on_hungry = on_hungry
        self._passing = passing
        self._changed = asyncio.Event()
        self._waiting: asyncio.Future[int | None] | None = None
        self._closed = False
        self._stepped_back = False

    # -- what others tell ----------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether a job would be welcome."""
        return self._outlook.hungry

    def note(self, reply: Empty) -> None:
        """Take in what an ack's answer said of the queue."""
        self._outlook.learn(reply, self._clock_ms())
        self._changed.set()

    def add_free(self, slots: int) -> None:
        """Say that so many more slots (or fewer, below zero) can take a job."""
        self._outlook.free += slots
        self._changed.set()

    def look(self) -> None:
        """Fetch at the next chance, whatever is known."""
        self._outlook.drained = False
        self._outlook.limited_until_ms = 0
        self._changed.set()

    def hold(self) -> None:
        """Fetch no more until `release`; a wait for a marker is given up, and what it knew is passed on."""
        self._outlook.holding = True
        self._changed.set()

    def release(self) -> None:
        """Fetch again."""
        if self._outlook.holding:
            self._outlook.holding = False
            self._stepped_back = False
            self.look()

    def close(self) -> None:
        """Let `run` end."""
        self._closed = True
        self.hold()

    # -- the loop ------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until closed. Returns with no wait outstanding, and no marker kept."""
        told: bool | None = None
        while not self._closed:
            outlook = self._outlook
            if outlook.hungry is not told:
                told = outlook.hungry
                self._on_hungry(told)
            await self._take_marker()
            step = outlook.step(self._clock_ms())
            if step.fetch:
                await self._fetch_one()
                continue
            if step.listen and self._waiting is None:
                self._waiting = self._marker.listen()
                self._waiting.add_done_callback(self._wake)
            if outlook.holding:
                await self._step_back()
            await self._wait(step.until_ms)
        if told is not False:
            self._on_hungry(self._outlook.hungry)
        await self._step_back()

    async def _fetch_one(self) -> None:
        self._changed.clear()
        try:
            reply = await self._fetch()
        except self._passing:
            self._outlook.drained = False
            await asyncio.sleep(_REST_AFTER_ERROR_S)
            return
        if reply is not None:
            self._outlook.learn(reply, self._clock_ms())

    async def _wait(self, until_ms: int | None) -> None:
        timer = None
        if until_ms is not None:
            delay = (until_ms - self._clock_ms()) / 1000
            timer = asyncio.get_running_loop().call_later(max(delay, 0.0), self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._changed.clear()

    def _wake(self, waited: "asyncio.Future[int | None]") -> None:
        if not waited.cancelled():
            waited.exception()  # seen: a Redis that does not answer may keep it until nobody waits for it any more
        self._changed.set()

    async def _take_marker(self) -> None:
        waiting = self._waiting
        if waiting is None or not waiting.done():
            return
        self._waiting = None
        now_ms = self._clock_ms()
        try:
            score_ms = waiting.result()
        except self._passing:
            self._outlook.drained = False
            return
        if score_ms is None:
            self._outlook.drained = False  # the safety poll
        elif self._outlook.hungry:
            self._outlook.marker(score_ms, now_ms)
        else:
            await self._put_back()

    async def _step_back(self) -> None:
        """Give up the wait for a marker, and pass on what is known here alone: a marker taken, a delayed job's time."""
        if self._stepped_back:
            return
        self._stepped_back = True
        if self._waiting is not None:
            with contextlib.suppress(TimeoutError, *self._passing):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._marker.unblock()
                    await asyncio.wait([self._waiting])
            await self._take_marker()
        await self._put_back()

    async def _put_back(self) -> None:
        # Where Redis does not answer in time, the others' safety poll finds the job.
        with contextlib.suppress(TimeoutError, *self._passing):
            async with asyncio.timeout(_PATIENCE_S):
                await self._marker.put_back()

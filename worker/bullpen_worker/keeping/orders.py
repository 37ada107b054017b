"""Tells the queue that the worker lives, and takes orders: retire, cancel, follow another policy.

Concurrency model: `Orders.run` owns two tasks until it is cancelled. One beats: every 5 s, at once when something calls
for it. The other listens on the queue's `nudge` channel, on a connection of its own that sends nothing, and calls for a beat
at every message and every time that it is connected anew. All orders are read as a state, never as a message: a nudge that is
lost costs 5 s.

An order to retire is a lease. When it runs out without a renewal the worker works again, also while Redis does not
answer: whoever gave the order may be gone for good.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bullpen.queue.keys import QueueKeys
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker.keeping import heartbeat
from bullpen_worker.keeping.heartbeat import Beat, Entry, Told
from bullpen_worker.keeping.keeper import Redis
from bullpen_worker.keeping.leases import Key, Run

_SWEEP_EVERY: Final = 12  # beats
_LOST_FOR_MS: Final = 60_000
_OBEYING_MS: Final = 500
_RETIRING_MS: Final = 1_000
_AFTER_FAILURE_MS: Final = 500
_ANSWER_S: Final = 5.0
_ARMED: Final = 64
_SPACING_S: Final = 0.05
_PING_S: Final = 30.0


class Ear(Protocol):
    """A link for listening: its connection is used for nothing else."""

    async def ready(self) -> Connection:
        """Give a live connection, however long that takes."""


class OrderHooks(Protocol):
    """Who obeys. Called in the loop of `Orders`; must return at once."""

    def retire(self, *, retiring: bool) -> None:
        """Take no new jobs; or take some again."""

    def policy(self, rev: str, doc: str) -> None:
        """The queue has this policy: at the first beat, and when it changed. Both are empty when it has none."""

    def cancel(self, run: Run, reason: str) -> None:
        """End this attempt as cancelled."""

    def limited(self, delay_ms: int) -> None:
        """Start nothing of the queue for so long: told at every beat meanwhile, before `policy` when both are news."""

    def beat_failed(self, error: Exception) -> None:
        """Redis did not take a beat; the next follows."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a beat's content comes from, asked at each."""

    entry: Callable[[], Entry]
    runs: Callable[[], Iterable[Run]]


class Orders:
    """The beats of one worker on one queue; see the module. it starts without a policy."""

    def __init__(
        self,
        redis: Redis,
        ear: Ear,
        keys: QueueKeys,
        *,
        name: str,
        source: Source,
        hooks: OrderHooks,
        passing: tuple[type[Exception], ...],
        clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._redis = redis
        self._ear = ear
        self._keys = keys
        self._name = name
        self._source = source
        self._hooks = hooks
        self._passing: tuple[type[Exception], ...] = (TimeoutError, *passing)
        self._rev = ""
        self._clock_ms = clock_ms
        self._script = heartbeat.script()
        self._called = asyncio.Event()
        self._beats = 0
        self._retire_until_ms: int | None = None
        self._lost: dict[bytes, int] = {}
        self._cancelling: dict[Key, Run] = {}

    @property
    def retiring(self) -> bool:
        """Whether an order to retire holds."""
        return self._retire_until_ms is not None

    def call(self) -> None:
        """Beat now."""
        self._called.set()

    def lost(self, run: Run) -> None:
        """Say that the lock of `run` was lost: no death of ours, whatever others made of it."""
        self._lost[run.view.job_id] = self._clock_ms()
        self._cancelling.pop(run.key, None)
        self.call()

    async def run(self) -> None:
        """Beat and listen until cancelled; raises what is not `passing`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_for_ever())
            tasks.create_task(self._listen_for_ever())

    async def goodbye(self) -> None:
        """Take the worker's entry out of `workers`; does nothing where Redis does not answer."""
        with contextlib.suppress(*self._passing):
            await self._send(Beat(self._name, None, self._rev, obeyed=self._obeyed()))

    # -- beating -------------------------------------------------------------

    async def _beat_for_ever(self) -> None:
        while True:
            pause_ms = await self.beat()
            await asyncio.sleep(_SPACING_S)  # many nudges at once are obeyed in one beat
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1000):
                    await self._called.wait()

    async def beat(self) -> int:
        """Beat once and obey; returns in how many ms to beat again."""
        self._called.clear()
        now_ms = self._clock_ms()
        self._lost = {job_id: at_ms for job_id, at_ms in self._lost.items() if now_ms - at_ms < _LOST_FOR_MS}
        runs = list(self._source.runs())
        obeyed = self._obeyed()
        beat = Beat(
            self._name,
            self._source.entry(),
            self._rev,
            running=[run.view.job_id for run in runs],
            lost=list(self._lost),
            obeyed=obeyed,
            sweeps=self._beats % _SWEEP_EVERY == 0,
        )
        try:
            told = await self._send(beat)
        except self._passing as error:
            self._hooks.beat_failed(error)
            self._check_lease()
            return _AFTER_FAILURE_MS
        self._beats += 1
        self._cancelling = {key: run for key, run in self._cancelling.items() if run.view.job_id not in obeyed}
        self._obey(told, runs)
        return self._pause_ms()

    async def _send(self, beat: Beat) -> Told:
        keys, args = beat.words(self._keys)
        async with asyncio.timeout(_ANSWER_S):
            reply = await self._redis.eval(self._script, keys, args)
        return Told.read(reply, beat.known_rev)

    def _obey(self, told: Told, runs: Sequence[Run]) -> None:
        if told.limited_ms > 0:
            self._hooks.limited(told.limited_ms)
        if told.policy is not None or self._beats == 1:
            self._rev = told.rev
            self._hooks.policy(told.rev, told.policy or "")
        held_until_ms = None if told.retire_ms is None else self._clock_ms() + told.retire_ms
        changed = (held_until_ms is None) is not (self._retire_until_ms is None)
        self._retire_until_ms = held_until_ms
        if changed:
            self._hooks.retire(retiring=held_until_ms is not None)
            self.call()  # others wait to see it in our entry
        reasons = {cancellation.job_id: cancellation.reason for cancellation in told.cancelled}
        for run in runs:
            reason = reasons.get(run.view.job_id)
            if reason is not None and run.key not in self._cancelling:
                self._cancelling[run.key] = run
                self._hooks.cancel(run, reason)

    def _obeyed(self) -> list[bytes]:
        return [run.view.job_id for run in self._cancelling.values() if not run.goes_on]

    def _check_lease(self) -> None:
        if self._retire_until_ms is not None and self._clock_ms() >= self._retire_until_ms:
            self._retire_until_ms = None
            self._hooks.retire(retiring=False)

    def _pause_ms(self) -> int:
        pause_ms = _OBEYING_MS if self._cancelling else heartbeat.BEAT_MS
        if self._retire_until_ms is not None:
            # Somebody waits to hear that the last job has ended, or for the lease to run out.
            pause_ms = min(pause_ms, _RETIRING_MS, max(1, self._retire_until_ms - self._clock_ms() + 1))
        return pause_ms

    # -- listening -----------------------------------------------------------

    async def _listen_for_ever(self) -> None:
        while True:
            connection = await self._ear.ready()
            try:
                await self._listen(connection)
            except self._passing:
                connection.abort("listening for nudges ended")
                await asyncio.sleep(_AFTER_FAILURE_MS / 1000)

    async def _listen(self, connection: Connection) -> None:
        """Hear nudges until the connection is lost.

        What Redis pushes goes to whoever waits next on the connection, so some waits are always there; should more
        come in one read than wait, the connection is given up, and made and read anew.
        """
        waits = deque([connection.call(pack_command("SUBSCRIBE", self._keys.nudge))])
        waits.extend(connection.call(b"") for _ in range(_ARMED))
        while True:
            next_one = waits.popleft()
            heard, _ = await asyncio.wait([next_one], timeout=_PING_S)
            if not heard:  # is anybody there? the answer comes in the place of a message
                waits.append(connection.call(pack_command("PING")))
                async with asyncio.timeout(_ANSWER_S):
                    await next_one
                continue
            next_one.result()
            waits.append(connection.call(b""))
            self.call()

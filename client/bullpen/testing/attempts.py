"""Runs attempts for a harness, and lets time pass for handlers that sleep.

Model: each attempt is a task of its own, with clean context variables in which `RUNNING` says which one it is. While it runs the
clock moves only when its handler sleeps, which can be said for certain where the handler is one task that awaits
`asyncio.sleep`. Of several tasks one of which sleeps, a short silence in real time decides. A handler that waits for something
else is waited for in real time; when nothing has stirred for `patience` seconds, its own timers are let run out (an
`asyncio.timeout` around what does not come), and where it has none, it is given up.
"""

import asyncio
import random
from collections.abc import Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from bullpen.errors import BullpenError
from bullpen.handling.catalogue import Deps
from bullpen.handling.contexts import ActiveJob, CancelReason, CancelScope
from bullpen.handling.middleware import RunMiddleware
from bullpen.handling.outcomes import Outcome
from bullpen.handling.registrations import Registration
from bullpen.queue.records import StoredJob
from bullpen.testing.clock import RUNNING, Diversion, Running, VirtualClock
from bullpen.testing.work import Output, QueueWork, Trial

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient

_SILENCE_S: Final = 0.25
_LAST_WORDS_S: Final = 1.0


class HarnessError(BullpenError):
    """The harness cannot go on as it was asked to; the message says why."""


class HandlerStuck(HarnessError):
    """A handler waits for something outside that does not come."""


class Attempts:
    """Those that run now: one, and those that it waits for."""

    def __init__(
        self,
        clock: VirtualClock,
        clients: "tuple[Client, SyncClient]",
        *,
        middleware: Sequence[RunMiddleware],
        rng: random.Random,
        patience: float,
    ) -> None:
        self.made = 0
        self._clock = clock
        self._client, self._sync_client = clients
        self._middleware = tuple(middleware)
        self._rng = rng
        self._patience = patience
        self._running: list[tuple[str, str, Running]] = []

    def begin(self, loop: asyncio.AbstractEventLoop, clean: Context, deps: Deps) -> None:
        """Take what is there once the harness is open."""
        self._loop = loop
        self._clean = clean
        self._deps = deps

    def next_timer_ms(self) -> int | None:
        """Give when the next timer fires or the next attempt times out."""
        found = [running.deadline_ms for _, _, running in self._running if running.scope.reason is None]
        timer_ms = self._clock.next_ms()
        return min(found if timer_ms is None else (*found, timer_ms), default=None)

    def move_to(self, at_ms: int) -> None:
        """Move the clock, and end the attempts that time out by it."""
        fired = self._clock.move_to(at_ms)
        for _, _, running in self._running:
            if not fired or running.deadline_ms < self._clock.now_ms:  # who wakes at the last moment may finish
                running.pass_deadline()
            running.stir()

    def cancel(self, queue: str, job_id: str, text: str) -> None:
        """Cancel the attempt of that job."""
        for its_queue, its_id, running in self._running:
            if (its_queue, its_id) == (queue, job_id):
                running.scope.cancel(CancelReason.CANCELLED, text)
                running.stir()

    async def run(
        self, work: QueueWork, job: StoredJob, registration: Registration
    ) -> tuple[Outcome, BaseException | None]:
        """Run one; give what follows from it, and the error that it ended with. Raises `HandlerStuck`."""
        self.made += 1
        queue = work.queue.keys.queue
        trial = Trial(middleware=self._middleware, now=lambda: self._clock.now, rng=self._rng.random)
        scope = CancelScope()
        timeout_ms = work.settings(job, registration).timeout_ms
        running = Running(
            self._clock, scope, self._clock.now_ms + timeout_ms, f"job {job.id} ({job.name!r} of queue {queue!r})"
        )
        active = self._active(work, job, registration, running)
        context = self._clean.copy()
        context.run(RUNNING.set, running)
        entry = (queue, job.id, running)
        self._running.append(entry)
        try:
            with Diversion.on(self._loop):
                task: asyncio.Task[Outcome] = self._loop.create_task(trial.run(registration, active), context=context)
                running.task = task
                try:
                    await self._see_through(running, task)
                finally:
                    if not task.done():
                        task.cancel()
                        await asyncio.wait({task}, timeout=_LAST_WORDS_S)
            return task.result(), trial.caught
        finally:
            self._running.remove(entry)
            for _, _, outer in self._running:
                outer.stir()

    def _active(self, work: QueueWork, job: StoredJob, registration: Registration, running: Running) -> ActiveJob:
        settings, now_ms = work.settings(job, registration), self._clock.now_ms
        output = Output(
            work.queue, job, clients=(self._client, self._sync_client), clock=self._clock, stir=running.stir
        )
        return ActiveJob(
            id=job.id,
            name=job.name,
            queue=work.queue.keys.queue,
            data=job.data,
            attempt=job.attempts_made + 1,
            retry=settings.retry,
            services=output,
            deps=self._deps[registration.lifespan],
            version=job.version,
            fence=job.attempts_started,
            snoozes=job.snoozes,
            priority=job.priority,
            enqueued_at_ms=job.timestamp,
            started_at_ms=now_ms,
            timeout_ms=settings.timeout_ms,
            deadline_ms=running.deadline_ms,
            max_result_bytes=work.queue.policy.limits.result_bytes,
            progress_json=job.fields.get(b"progress"),
            scope=running.scope,
        )

    async def _see_through(self, running: Running, task: "asyncio.Task[Outcome]") -> None:
        """Wait until the attempt has ended, and let time pass for a handler that sleeps."""
        while not task.done():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if task.done():
                return
            if running.sleeps:
                self._pass_time()
                continue
            stirring = running.stirring(self._loop)
            patience = _SILENCE_S if running.dozes else self._patience
            either: tuple[asyncio.Future[Any], ...] = (task, stirring)
            done, _ = await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done and self._clock.next_ms() is None:
                raise self._stuck(running)
            if not done:
                self._pass_time()

    def _pass_time(self) -> None:
        next_ms = self.next_timer_ms()
        if next_ms is not None:
            self.move_to(next_ms)

    def _stuck(self, running: Running) -> HandlerStuck:
        return HandlerStuck(
            f"the handler of {running.what} has waited for {self._patience:g} s of real time, at {running.place}, for "
            "something outside that does not come. A harness lets time pass for handlers that sleep; what a handler "
            "waits for otherwise has to happen (patience= says how long to wait)"
        )

"""The inside of both harnesses: queues in memory, their handlers, and the clock that everything follows.

Model: one attempt runs at a time, in a task of its own; only a handler that waits for another job has that one run
beside it. Whoever needs work done (`run_until_idle`, `advance`, `run`, code that waits for a result) drives: takes the lock and
does one step after the other in a task with clean context variables, so that the driver's own timers are real ones. Within
an attempt, drivers take the attempt's lock in place of the harness's, since that one is held by who runs the attempt.

A step is the next job that can start now or, when there is none, a move of the clock to the next moment at which something
happens. How time passes while an attempt runs, `bullpen.testing.attempts` says.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bullpen.clients import events, views
from bullpen.clients.client import Client
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.sync_client import SyncClient
from bullpen.errors import ConfigurationError, JobCancelled
from bullpen.handling import outcomes
from bullpen.handling.catalogue import Catalogue, Deps, open_lifespans
from bullpen.handling.handlers import Handlers
from bullpen.handling.middleware import RunMiddleware
from bullpen.jobs import JobInfo
from bullpen.queue import schedules
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import QueuePolicy
from bullpen.queue.records import StoredJob
from bullpen.queue.schedules import UpsertSchedule
from bullpen.testing import repeating
from bullpen.testing.attempts import Attempts, HarnessError
from bullpen.testing.clock import RUNNING, VirtualClock
from bullpen.testing.memory import MemoryQueue
from bullpen.testing.shells import PREFIX, MemorySession, MemorySyncSession
from bullpen.testing.work import QueueWork, error_of

if TYPE_CHECKING:
    from bullpen.api.v1alpha1 import JobQueue

T = TypeVar("T")

MOST_STEPS: Final = 100_000
"""So many jobs at one moment are taken for a loop that never ends."""

MOST_BARREN_WAITS: Final = 2_000
"""So many waits in a row, of five seconds each where it is for events, are taken for one that never ends."""

_TURNS: Final = 20


class Workbench:
    """See the module."""

    def __init__(
        self,
        handlers: Sequence[Handlers[Any]],
        declared: "Mapping[str, JobQueue]",
        *,
        now_ms: int,
        seed: int,
        middleware: Sequence[RunMiddleware],
        client_middleware: Sequence[EnqueueMiddleware],
        patience: float,
    ) -> None:
        self.clock = VirtualClock(now_ms)
        self.failures: list[tuple[Exception, str]] = []
        """Of jobs that failed for good: their errors, and which they are."""
        self.client = Client.over(MemorySession(self, client_middleware))
        self.sync_client = SyncClient.over(MemorySyncSession(self, client_middleware))
        self.start: Callable[[Coroutine[Any, Any, None]], None] | None = None
        """Runs a coroutine to its end for who cannot await; None where that is not possible."""
        self._handlers = tuple(handlers)
        self._declared = declared
        self.attempts = Attempts(
            self.clock,
            (self.client, self.sync_client),
            middleware=middleware,
            rng=random.Random(seed),  # noqa: S311 - jitter that a seed repeats
            patience=patience,
        )
        self._queues: dict[str, MemoryQueue] = {}
        self._works: dict[str, QueueWork] = {}
        self._errors: dict[tuple[str, str], Exception] = {}
        self._results: dict[tuple[str, str], bytes] = {}
        self._turn = 0
        self._stirs = 0
        self._barren = (0, 0)
        for name in _queue_names(self._handlers, declared):
            self.queue(name)

    # -- life ----------------------------------------------------------------

    async def open(self) -> None:
        """Enter the lifespans, each once, and begin the schedules. Raises what a lifespan raises."""
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._clean = contextvars.copy_context()
        self._closing = asyncio.Event()
        opened: asyncio.Future[Deps] = self._loop.create_future()
        self._lifespans = self._loop.create_task(self._hold_lifespans(opened), context=self._clean.copy())
        await asyncio.wait((opened, self._lifespans), return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            await self._lifespans  # it raises
        self.attempts.begin(self._loop, self._clean, opened.result())
        for name, jobqueue in self._declared.items():
            queue = self.queue(name)
            for schedule in schedules.of(jobqueue, queue.keys, queue.policy):
                next_ms = schedule.next_ms(self.clock.now_ms)
                if next_ms is not None:
                    repeating.upsert(queue, UpsertSchedule(queue.keys, schedule, next_ms, self.clock.now_ms))

    async def close(self) -> None:
        """Leave the lifespans. Jobs that are left in the queues stay there."""
        await self.client.close()
        self.sync_client.close()
        self._closing.set()
        await self._lifespans

    async def _hold_lifespans(self, opened: "asyncio.Future[Deps]") -> None:
        # In one task, since what is entered in one must be left in the same (a TaskGroup says so).
        lifespans = dict.fromkeys(each.lifespan for each in self._handlers if each.registered and each.lifespan)
        async with open_lifespans(lifespans) as deps:
            opened.set_result(deps)
            await self._closing.wait()

    # -- what shells need (bullpen.testing.shells.Queues) ---------------------

    def now_ms(self) -> int:
        """Give the time."""
        return self.clock.now_ms

    def queue(self, name: str) -> MemoryQueue:
        """Give the queue of that name; make it at first use."""
        found = self._queues.get(name)
        if found is not None:
            return found
        queue = self._queues[name] = MemoryQueue(
            QueueKeys(PREFIX, name), on_cancel=lambda job_id, text: self.attempts.cancel(name, job_id, text)
        )
        jobqueue = self._declared.get(name)
        if jobqueue is not None:
            queue.policy = QueuePolicy.from_spec(jobqueue.spec)
            queue.paused = bool(jobqueue.spec.paused)
        if any(each is None or each == name for each in _queues_of(self._handlers)):
            self._works[name] = QueueWork(queue, Catalogue(self._handlers, name))
        return queue

    async def wait(self, waiting: Coroutine[Any, Any, T], seconds: float) -> T | None:
        """Wait for it while the harness works and its clock runs; None when so much time has passed on it."""
        task = asyncio.ensure_future(waiting)
        expired = asyncio.get_running_loop().create_future()
        timer = self.clock.call_at(
            self.clock.time() + seconds, _set, expired, loop=self._loop, context=self._clean.copy()
        )
        self._stirs += 1
        try:
            await self._turns(task.done)
            while not (task.done() or expired.done()):
                await self.drive(lambda: self._step_unless(lambda: task.done() or expired.done()))
            if task.done():
                return await task
            self._count_barren()
            return None
        finally:
            self._stirs += 1
            timer.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def work_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Work, and let the clock run, until that says so or so much time has passed on it."""
        if is_over():
            return
        if self.start is None or self._loop.is_running():
            msg = (
                "a blocking client waits for a job while the harness runs this code on its one thread: nothing would "
                "ever happen. Wait in an async def handler, or by the harness's own client"
            )
            raise HarnessError(msg)
        self.start(self._work_until(is_over, self.clock.now_ms + int(seconds * 1_000)))

    async def _work_until(self, is_over: Callable[[], bool], until_ms: int) -> None:
        while not is_over() and self.clock.now_ms < until_ms:
            if not await self.drive(lambda: self.step(until_ms)):
                self.attempts.move_to(until_ms)
                self._count_barren()

    def _count_barren(self) -> None:
        """A wait has ended by its time alone. Raises `HarnessError` after many such, when nothing else can happen."""
        if self.attempts.made != self._barren[0] or self._next_start_ms() is not None:
            self._barren = (self.attempts.made, 0)
            return
        self._barren = (self.attempts.made, self._barren[1] + 1)
        if self._barren[1] >= MOST_BARREN_WAITS:
            why = [
                self.obstacle(name)
                for name, queue in self._queues.items()
                if any(count for state, count in queue.counts().items() if state not in {"completed", "failed"})
            ]
            msg = f"somebody waits again and again, and nothing is left that could happen: {'; '.join(why) or 'no job is left'}"
            raise HarnessError(msg)

    # -- looking -------------------------------------------------------------

    def jobs(self, name: str | None, queue: str | None, state: str | None) -> list[JobInfo]:
        """List jobs of all queues, those that were enqueued first before the others."""
        found = [
            views.info(each.keys.queue, job, each.policy)
            for each in self._queues.values()
            if queue is None or each.keys.queue == queue
            for job in map(each.find, list(each.hashes))
            if job is not None and (name is None or job.job.name == name)
        ]
        found.sort(key=lambda info: info.enqueued_at)
        return [info for info in found if state is None or info.state == state]

    def ended(self, queue: str, job_id: str) -> bytes | Exception | None:
        """Give the job's result as JSON, or the error that it ended with; None while it has not ended."""
        found = self.queue(queue).find(job_id)
        error = self._errors.get((queue, job_id))
        if found is not None and found.state not in {"completed", "failed"}:
            return None
        if found is not None and found.state == "completed":
            return found.job.returnvalue or b"null"
        if found is not None:
            reason, error_type = found.job.failed_reason or "", found.job.error_type
            end = events.failure(reason, error_type=error_type, attempts=found.job.attempts_made)
            # Cancelled from outside, perhaps after a retry, when the error is of the end before.
            return end if error is None or isinstance(end, JobCancelled) else error
        return error or self._results.get((queue, job_id))

    def obstacle(self, queue: str) -> str:
        """Say why nothing more happens in a queue."""
        if queue not in self._works:
            there = ", ".join(sorted(self._works)) or "none"
            return f"this harness has no handlers of queue {queue!r}; it has those of: {there}"
        if self._queues[queue].paused:
            return f"queue {queue!r} is paused"
        if self._queues[queue].is_maxed():
            return f"queue {queue!r} runs as many jobs as its concurrency.total allows"
        return "it waits for nothing that this harness knows of: it may have been removed"

    # -- driving -------------------------------------------------------------

    async def drive(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do a piece of work, one such at a time, in a task of its own."""
        outer = RUNNING.get()
        lock = self._lock if outer is None else outer.lock

        async def exclusively() -> T:
            async with lock:
                return await work()

        return await self._clean.copy().run(self._loop.create_task, exclusively())

    async def settle_now(self) -> None:
        """Run what can start now, as soon as nobody else drives."""
        await self.drive(self.settle)

    async def settle(self) -> None:
        """Run what can start now, until nothing more can. Raises `HarnessError` when that never ends."""
        for _ in range(MOST_STEPS):
            if not await self._run_one():
                return
        msg = f"{MOST_STEPS:,} jobs have run at one moment, and there are more: does a job enqueue itself for ever?"
        raise HarnessError(msg)

    async def advance_to(self, until_ms: int) -> None:
        """Run all that can start up to that moment; the clock stands there afterwards, or later.

        While an attempt runs for somebody else, only time passes.
        """
        if self._lock.locked() and RUNNING.get() is None:  # somebody runs an attempt: time passes for that one
            while (next_ms := self.attempts.next_timer_ms()) is not None and next_ms <= until_ms:
                self.attempts.move_to(next_ms)
                await self._turns()
            self.attempts.move_to(until_ms)
            await self._turns()
            if self._lock.locked():
                return  # and whoever runs it goes on from here
        while await self.drive(lambda: self._advance_step(until_ms)):
            pass

    async def step(self, until_ms: int | None = None) -> bool:
        """Run one job, or go on to the next moment, up to `until_ms`. False when nothing is left to happen until then."""
        if await self._run_one():
            return True
        moments = [ms for ms in (self._next_start_ms(), self.attempts.next_timer_ms()) if ms is not None]
        if not moments or (until_ms is not None and min(moments) > until_ms):
            return False
        self.attempts.move_to(min(moments))
        await self._turns()
        return True

    async def _advance_step(self, until_ms: int) -> bool:
        await self.settle()
        if await self.step(until_ms):
            return True
        self.attempts.move_to(until_ms)
        return False

    async def _step_unless(self, is_over: Callable[[], bool]) -> None:
        stirs = -1
        while (
            stirs != self._stirs and not is_over()
        ):  # other waits begin and end: what was done is still being taken in
            stirs = self._stirs
            await self._turns(is_over)
        if not is_over():
            await self.step()

    async def _turns(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Let other tasks of the loop go on, where there are any."""
        for _ in range(_TURNS):
            if is_over():
                return
            await asyncio.sleep(0)

    def _next_start_ms(self) -> int | None:
        found = (work.queue.next_ms(self.clock.now_ms) for work in self._works.values())
        return min((ms for ms in found if ms is not None), default=None)

    # -- one job -------------------------------------------------------------

    async def _run_one(self) -> bool:
        """Start the next job that can start now, the queues taking turns; False when there is none."""
        works = list(self._works.values())
        for offset in range(len(works)):
            index = (self._turn + offset) % len(works)
            job = works[index].queue.fetch(self.clock.now_ms)
            if job is not None:
                self._turn = index + 1
                await self._see_to(works[index], job)
                return True
        return False

    async def _see_to(self, work: QueueWork, job: StoredJob) -> None:
        now_ms = self.clock.now_ms
        if job.scheduler_id is not None:
            following = schedules.advance(work.queue.keys, job, now_ms)
            if following is not None:
                repeating.advance(work.queue, following)
        registration = work.catalogue.find(job.name)
        settings = work.settings(job, registration)
        caught: BaseException | None = None
        ending = work.verdict(job, registration, settings, now_ms)
        if ending is None and registration is not None:
            try:
                ending, caught = await self.attempts.run(work, job, registration)
            except BaseException:
                work.write(job, outcomes.Released(), settings, self.clock.now_ms)
                raise
        if ending is None:
            msg = f"job {job.id} was let through without a handler"
            raise AssertionError(msg)
        key = (work.queue.keys.queue, job.id)
        if isinstance(ending, outcomes.Failed | outcomes.Expired):
            error = self._errors[key] = error_of(ending, caught, settings, job)
            attempt = f"attempt {job.attempts_made + 1} of {settings.retry.attempts}"
            self.failures.append((error, f"job {job.id} ({job.name!r} of queue {key[0]!r}), {attempt}"))
        elif isinstance(ending, outcomes.Cancelled):
            self._errors[key] = JobCancelled(ending.reason)
        elif isinstance(ending, outcomes.Completed):
            self._results[key] = ending.value.encode()
        work.write(job, ending, settings, self.clock.now_ms)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _check_handlers(given: object) -> None:  # of anything: what the caller's types promise is not checked at run time
    if not isinstance(given, Handlers):
        msg = f"a harness takes Handlers objects, not {type(given).__qualname__}"
        raise ConfigurationError(msg)


def _queues_of(handlers: Iterable[Handlers[Any]]) -> set[str | None]:
    return {handler.queue for each in handlers for same_name in each.registered.values() for handler in same_name}


def _queue_names(handlers: Sequence[Handlers[Any]], declared: "Mapping[str, JobQueue]") -> list[str]:
    """Give the queues that are known from the beginning. Raises `ConfigurationError` for what does not go together."""
    for each in handlers:
        _check_handlers(each)
    named = sorted(name for name in _queues_of(handlers) if name is not None)
    missing = [name for name in named if declared and name not in declared]
    if missing:
        there = ", ".join(sorted(declared))
        msg = f"there are handlers of queue {missing[0]!r}, which the YAML does not declare; it declares: {there}"
        raise ConfigurationError(msg)
    return list(dict.fromkeys((*declared, *named)))

"""`Harness` and `SyncHarness`: queues, workers and a clock in memory, for the tests of applications.

What runs is what production runs: registries, middleware, JSON there and back, validation, retry rules, policies of YAML. Only the
store and the clock are others. It promises nothing about speed, and nothing about what Redis itself does: `bullpen_redis`, the
pytest fixture, gives a real one for that.

Time inside handlers: `asyncio.sleep`, `asyncio.timeout` and other timers of the event loop follow the harness's clock while a
handler runs, and so does the job's timeout. A handler that sleeps an hour has slept an hour on that clock, and none on the wall's.
What is not the loop's stays real: `time.sleep`, `time.time`, `datetime.now`, and whatever a handler waits for outside.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from bullpen import durations
from bullpen.clients.client import Client
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.sync_client import SyncClient
from bullpen.durations import Duration
from bullpen.errors import ConfigurationError
from bullpen.handling.handlers import Handlers
from bullpen.handling.middleware import RunMiddleware
from bullpen.jobs import JobInfo, JobSpec, JobType
from bullpen.testing import declared
from bullpen.testing.attempts import HarnessError
from bullpen.testing.workbench import Workbench

R = TypeVar("R")

_PATIENCE: Final = "10s"
_STATES: Final = ("waiting", "prioritized", "delayed", "active", "completed", "failed", "cancelled")


class Harness:
    """Runs jobs in memory, by a clock that stands still until it is moved. Use it as ``async with Harness(…) as harness``.

    - `handlers` are the registries to test, with fakes by `Handlers.with_deps`. Their lifespans are entered once. Jobs of other
      queues can be enqueued and wait for ever.
    - `queues` is a YAML file (or folder) with the JobQueues whose policies, limits and schedules hold; without it, what is built
      in holds.
    - `now` is when the clock begins; absent, at the real time. `seed` fixes the jitter of backoffs.
    - `middleware` is what `Worker(middleware=…)` has, `client_middleware` what the application's client has.
    - `patience` is how long, in real time, a handler may wait for something outside in which nothing stirs.

    One job runs at a time. `def` handlers run here, without a thread or a process, and are not interrupted; what is theirs alone
    (that a module can be imported by a child process, a process that dies) is not tested.

    Raises `ConfigurationError` for handlers that a worker would refuse, YAML that `bullpen check` would, and handlers of a queue
    that the YAML does not declare.
    """

    def __init__(
        self,
        *handlers: Handlers[Any],
        queues: str | Path | None = None,
        now: datetime | None = None,
        seed: int = 0,
        middleware: Sequence[RunMiddleware] = (),
        client_middleware: Sequence[EnqueueMiddleware] = (),
        patience: Duration = _PATIENCE,
    ) -> None:
        self._bench = _bench(
            handlers,
            queues,
            now,
            seed=seed,
            middleware=middleware,
            client_middleware=client_middleware,
            patience=patience,
        )

    async def __aenter__(self) -> Self:
        await self._bench.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._bench.close()

    @property
    def client(self) -> Client:
        """A real client on this harness's queues, for the code under test.

        Code that waits by it (for a result, for events) lets the harness work and the clock run meanwhile, up to its timeout.
        """
        return self._bench.client

    @property
    def now(self) -> datetime:
        """The time on the harness's clock, in UTC."""
        return self._bench.clock.now

    async def run(self, job: JobSpec[R], /) -> R:
        """Enqueue the job and give its result, however long its delays and retries take on the clock.

        Other jobs that fall due meanwhile run too. Raises the handler's own last exception when the job fails, `JobCancelled` when it
        is cancelled, `HarnessError` when it can never end (a paused queue, no handlers of its queue).
        """
        handle = await self.client.enqueue(job)
        return job.read_result(await _to_its_end(self._bench, handle.queue, handle.id))

    async def run_until_idle(self, *, raise_errors: bool = True) -> int:
        """Run the jobs that can start now, and those that they enqueue. The clock moves only for handlers that sleep.

        Gives the number of attempts. Raises an `ExceptionGroup` of the errors of the jobs that failed for good meanwhile, unless
        `raise_errors` is False: they are in ``jobs(state="failed")`` then.
        """
        return await _counted(self._bench, self._bench.settle_now, raise_errors=raise_errors)

    async def advance(self, by: Duration, *, raise_errors: bool = True) -> int:
        """Let so much time pass, and run what falls due on the way, each at its moment. Gives the number of attempts.

        Raises as `run_until_idle`.
        """
        until_ms = self._bench.clock.now_ms + durations.parse_ms(by)
        return await _counted(self._bench, lambda: self._bench.advance_to(until_ms), raise_errors=raise_errors)

    def jobs(self, job_type: JobType[..., Any] | str | None = None, *, state: str | None = None) -> list[JobInfo]:
        """List the jobs there are, of one type or name, in one state (`JobInfo.state`), in the order of their enqueues."""
        return _jobs(self._bench, job_type, state)


class SyncHarness:
    """The same for tests without an event loop: ``with SyncHarness(…) as harness``. See `Harness`.

    It has a loop of its own, on which ``async def`` handlers run; so it cannot be used where one is running.
    """

    def __init__(
        self,
        *handlers: Handlers[Any],
        queues: str | Path | None = None,
        now: datetime | None = None,
        seed: int = 0,
        middleware: Sequence[RunMiddleware] = (),
        client_middleware: Sequence[EnqueueMiddleware] = (),
        patience: Duration = _PATIENCE,
    ) -> None:
        self._bench = _bench(
            handlers,
            queues,
            now,
            seed=seed,
            middleware=middleware,
            client_middleware=client_middleware,
            patience=patience,
        )
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        if _loop_runs():
            msg = "a SyncHarness cannot be used on the thread of a running event loop: use Harness there"
            raise ConfigurationError(msg)
        try:
            self._runner.run(self._bench.open())
        except BaseException:
            self._runner.close()
            raise
        self._bench.start = self._runner.run
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._bench.close())
        finally:
            self._runner.close()

    @property
    def client(self) -> SyncClient:
        """A real client on this harness's queues; see `Harness.client`."""
        return self._bench.sync_client

    @property
    def now(self) -> datetime:
        """The time on the harness's clock, in UTC."""
        return self._bench.clock.now

    def run(self, job: JobSpec[R], /) -> R:
        """Enqueue the job and give its result; see `Harness.run`."""
        handle = self.client.enqueue(job)
        return job.read_result(self._runner.run(_to_its_end(self._bench, handle.queue, handle.id)))

    def run_until_idle(self, *, raise_errors: bool = True) -> int:
        """Run the jobs that can start now; see `Harness.run_until_idle`."""
        return self._runner.run(_counted(self._bench, self._bench.settle_now, raise_errors=raise_errors))

    def advance(self, by: Duration, *, raise_errors: bool = True) -> int:
        """Let so much time pass; see `Harness.advance`."""
        until_ms = self._bench.clock.now_ms + durations.parse_ms(by)
        work = _counted(self._bench, lambda: self._bench.advance_to(until_ms), raise_errors=raise_errors)
        return self._runner.run(work)

    def jobs(self, job_type: JobType[..., Any] | str | None = None, *, state: str | None = None) -> list[JobInfo]:
        """List the jobs there are; see `Harness.jobs`."""
        return _jobs(self._bench, job_type, state)


def _bench(
    handlers: Sequence[Handlers[Any]],
    queues: str | Path | None,
    now: datetime | None,
    *,
    seed: int,
    middleware: Sequence[RunMiddleware],
    client_middleware: Sequence[EnqueueMiddleware],
    patience: Duration,
) -> Workbench:
    if now is not None and now.tzinfo is None:
        msg = f"now: {now!r} is not allowed; allowed: a datetime with a time zone"
        raise ConfigurationError(msg)
    begin = datetime.now(UTC) if now is None else now
    return Workbench(
        handlers,
        {} if queues is None else declared.read(queues),
        now_ms=int(begin.timestamp() * 1_000),
        seed=seed,
        middleware=middleware,
        client_middleware=client_middleware,
        patience=durations.parse_ms(patience) / 1_000,
    )


async def _to_its_end(bench: Workbench, queue: str, job_id: str) -> bytes:
    """Work until the job has ended; give its result as JSON, or raise what it ended with."""
    while (ended := bench.ended(queue, job_id)) is None:
        if not await bench.drive(bench.step):
            msg = f"job {job_id} of queue {queue!r} cannot end: {bench.obstacle(queue)}"
            raise HarnessError(msg)
    if isinstance(ended, Exception):
        raise ended
    return ended


async def _counted(bench: Workbench, work: Callable[[], Awaitable[None]], *, raise_errors: bool) -> int:
    """Do the work; give how many attempts were made, or raise what failed for good."""
    attempts, failures = bench.attempts.made, len(bench.failures)
    await work()
    failed = bench.failures[failures:]
    if failed and raise_errors:
        msg = "a job failed for good" if len(failed) == 1 else f"{len(failed)} jobs failed for good"
        for error, which in failed:
            error.add_note(which)
        raise ExceptionGroup(msg, [error for error, _ in failed])
    return bench.attempts.made - attempts


def _jobs(bench: Workbench, job_type: JobType[..., Any] | str | None, state: str | None) -> list[JobInfo]:
    if state is not None and state not in _STATES:
        msg = f"jobs(state={state!r}): there is no such state; there are {', '.join(_STATES)}"
        raise ValueError(msg)
    if job_type is None or isinstance(job_type, str):
        return bench.jobs(job_type, None, state)
    return bench.jobs(job_type.name, job_type.queue, state)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""Where a worker's handlers run that do not run on its event loop: `bullpen.execution.Executors` of threads and processes."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from bullpen.contexts import ActiveJob
from bullpen.outcomes import Outcome
from bullpen.redis.settings import RedisSettings
from bullpen.registrations import Registration
from bullpen_worker.logs import LogSettings
from bullpen_worker.processes import ProcessPool, Recycling
from bullpen_worker.threads import ThreadPool

T = TypeVar("T")


class HandlerExecutors:
    """Threads and processes for one worker, up to `size` of each. Use it as ``async with`` around the engine.

    Entering starts the first process, where a handler asks for processes; see `ProcessPool` for what that raises. Leaving
    ends the processes, killing those that still run a job, and gives up on threads that have not ended.
    """

    def __init__(
        self,
        registrations: Iterable[Registration],
        size: int,
        *,
        redis: RedisSettings | None = None,
        logs: LogSettings | None = None,
        recycling: Recycling | None = None,
    ) -> None:
        self.threads = ThreadPool(size)
        self.processes = ProcessPool(registrations, size, redis=redis, logs=logs, recycling=recycling)

    async def __aenter__(self) -> Self:
        await self.processes.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.threads.close()
        await self.processes.__aexit__(kind, error, trace)

    def resize(self, size: int) -> None:
        """Follow the worker's concurrency."""
        self.threads.size = self.processes.size = size

    async def run_thread(self, call: Callable[[], T], job: ActiveJob) -> T:
        """Call in a thread and give what it gives or raises; see `ThreadPool.run`."""
        del job
        return await self.threads.run(call)

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Have a process run the job; see `ProcessPool.run`."""
        return await self.processes.run(registration, job)

"""The two sides that are held against each other: the harness in memory, and a worker on a real Redis."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bullpen import Client, EnqueueMiddleware, Handlers, JobHandle, RunMiddleware
from bullpen.api import checks
from bullpen.errors import BullpenError
from bullpen.queue import declaration
from bullpen.queue.declaration import Owner, WriteDeclaration
from bullpen.queue.keys import QueueKeys
from bullpen.testing import Harness
from bullpen_worker import Worker
from support.waiting import eventually

QUEUE = "q"
HEAD = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: q}
spec:
  worker: {image: registry.example.com/x:1, handlers: [x]}
"""

Condition = Callable[[], Awaitable[bool]]


class Side(Protocol):
    """Where a scenario takes place."""

    client: Client

    async def work(self, until: Condition | None = None) -> None:
        """Work until nothing is left to do, delays included; or until that holds and nothing can start."""

    async def pass_time(self, ms: int) -> None:
        """Let time pass. Pause the queue before: on one side, jobs run meanwhile."""

    @contextlib.asynccontextmanager
    def working(self) -> AsyncIterator[None]:
        """Work while inside, and on leaving until nothing is left to do."""


Open = Callable[..., contextlib.AbstractAsyncContextManager[Side]]


@dataclass
class RedisSide:
    client: Client
    handlers: Sequence[Handlers[Any]]
    middleware: Sequence[RunMiddleware]

    async def work(self, until: Condition | None = None) -> None:
        async with self._worker():
            await eventually(until or self._is_done)

    async def pass_time(self, ms: int) -> None:
        await asyncio.sleep(ms / 1_000)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with self._worker():
            yield
            await eventually(self._is_done)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[None]:
        worker = Worker(self.client, queue=QUEUE, handlers=self.handlers, concurrency=1, middleware=self.middleware)
        running = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            async with asyncio.timeout(60):
                await running

    async def _is_done(self) -> bool:
        counts = await self.client.queue(QUEUE).counts()
        return not any(counts[state] for state in ("waiting", "prioritized", "delayed", "active"))


@contextlib.asynccontextmanager
async def on_redis(
    url: str,
    *handlers: Handlers[Any],
    yaml: Path | None = None,
    middleware: Sequence[RunMiddleware] = (),
    client_middleware: Sequence[EnqueueMiddleware] = (),
) -> AsyncIterator[RedisSide]:
    async with Client(url, middleware=client_middleware) as client:
        if yaml is not None:
            (jobqueue,) = checks.check_files([yaml]).files.jobqueues
            wanted = WriteDeclaration.of(jobqueue, QueueKeys("bull", QUEUE), Owner("laptop", "default", QUEUE))
            await client._session.run(declaration.declare(wanted, time.time_ns() // 1_000_000))
        yield RedisSide(client, handlers, middleware)


@dataclass
class MemorySide:
    harness: Harness

    @property
    def client(self) -> Client:
        return self.harness.client

    async def work(self, until: Condition | None = None) -> None:
        if until is None:
            await self.harness.advance("1m", raise_errors=False)
        else:
            await self.harness.run_until_idle(raise_errors=False)
            assert await until()

    async def pass_time(self, ms: int) -> None:
        await self.harness.advance(f"{ms}ms", raise_errors=False)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        working = asyncio.create_task(self.work())
        yield
        await working


@contextlib.asynccontextmanager
async def in_memory(*handlers: Handlers[Any], yaml: Path | None = None, **options: Any) -> AsyncIterator[MemorySide]:
    async with Harness(*handlers, queues=yaml, **options) as harness:
        yield MemorySide(harness)


async def told(handle: JobHandle[Any]) -> dict[str, Any]:
    """All that can be said of a job, without times and ids."""
    try:
        info = await handle.info()
    except BullpenError as error:
        return {"gone": type(error).__name__}
    found: dict[str, Any] = {
        name: getattr(info, name)
        for name in (
            "name",
            "queue",
            "state",
            "data",
            "attempt",
            "attempts",
            "priority",
            "snoozes",
            "progress",
            "error",
        )
    }
    found["logs"] = await handle.logs()
    found["was started"] = info.started_at is not None
    if info.finished_at is not None:
        found["result"] = await ended(handle)
    return found


async def ended(handle: JobHandle[Any]) -> Any:
    """How the job ended, as who waits for it sees."""
    try:
        return await handle.result(timeout="60s")
    except BullpenError as error:
        more = [getattr(error, name, None) for name in ("error_type", "attempts")]
        return [type(error).__name__, str(error).replace(handle.id, "<id>"), *more]


async def refused(call: Awaitable[Any]) -> list[str]:
    """The error that this raises."""
    try:
        await call
    except Exception as error:  # noqa: BLE001
        return [type(error).__name__, str(error)]
    raise AssertionError("it was taken")

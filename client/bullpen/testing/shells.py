"""Performs operations on memory: what takes the place of Redis under the harness's clients.

The clients are the real ones; only their stores are ours. An operation is a frozen value, so its fields say what is wanted, and
its commands are never asked for. A wait (for a result, for events) moves the harness's clock: see `bullpen.testing.workbench`.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from bullpen.clients.events import LastEventId, ReadEvents
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.routing import Routes
from bullpen.clients.session import Session, Store
from bullpen.clients.sync_session import SyncSession, SyncStore
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import AddJobs
from bullpen.queue.operations.base import Operation
from bullpen.queue.operations.jobs import (
    CancelJob,
    FindIds,
    GetJob,
    GetLogs,
    PromoteJob,
    RemoveJob,
    RetryJob,
    cancelled_text,
)
from bullpen.queue.operations.queues import CountJobs, IsPaused, ListJobs, PauseQueue, ReadPolicy, ResumeQueue
from bullpen.queue.schedules import AdvanceSchedule, UpsertSchedule
from bullpen.redis.settings import RedisSettings
from bullpen.testing import admission, repeating
from bullpen.testing.memory import MemoryQueue

if TYPE_CHECKING:
    from bullpen.clients.shell import Shell, SyncShell

T = TypeVar("T")

PREFIX: Final = "bull"
_SETTINGS: Final = RedisSettings.of("redis://memory.invalid")
_TIMEOUT: Final = 5.0


class Queues(Protocol):
    """What a shell needs of the harness."""

    def now_ms(self) -> int:
        """Give the time."""

    def queue(self, name: str) -> MemoryQueue:
        """Give the queue of that name; make it at first use."""

    async def wait(self, waiting: Coroutine[Any, Any, T], seconds: float) -> T | None:
        """Wait for it while the harness works and its clock runs; None when so much time has passed on it."""

    def work_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Work, and let the clock run, until that says so or so much time has passed on it."""


def perform(operation: Operation[T], queue: MemoryQueue, now_ms: int) -> T:
    """Do it and give its result."""
    return cast("T", _perform(operation, queue, now_ms))


def _perform(operation: object, queue: MemoryQueue, now_ms: int) -> object:  # noqa: C901, PLR0912 - one line a kind
    result: object
    match operation:
        case AddJobs():
            result = admission.add(queue, operation, now_ms)
        case GetJob(_, job_id):
            result = queue.find(job_id)
        case FindIds(_, job_ids):
            result = frozenset(job_id for job_id in job_ids if job_id in queue.hashes)
        case GetLogs(_, job_id):
            result = list(queue.logs.get(job_id, ()))
        case RemoveJob(_, job_id):
            result = queue.remove(job_id, now_ms)
        case PromoteJob(_, job_id):
            result = queue.promote(job_id, now_ms)
        case RetryJob(_, job_id, state, reset, lifo):
            result = queue.reprocess(job_id, state, now_ms, reset=reset, lifo=lifo)
        case CancelJob(_, job_id, reason, at_ms, keep):
            result = queue.cancel(job_id, cancelled_text(reason), reason, keep, at_ms)
        case ReadPolicy():
            result = queue.policy
        case CountJobs():
            result = queue.counts()
        case ListJobs(_, state, start, count, newest_first):
            ids = queue.listed(state, newest_first=newest_first)[start : start + count]
            result = [found for found in map(queue.find, ids) if found is not None]
        case PauseQueue():
            queue.paused, result = True, None
        case ResumeQueue():
            queue.paused, result = False, 0
        case IsPaused():
            result = queue.paused
        case UpsertSchedule():
            result = repeating.upsert(queue, operation)
        case AdvanceSchedule():
            result = repeating.advance(queue, operation)
        case LastEventId():
            result = queue.trail.last_id
        case ReadEvents(_, after, _):
            result = queue.trail.read(after)
        case _:
            msg = f"the harness cannot do {type(operation).__name__}"
            raise NotImplementedError(msg)
    return result


def _keys(operation: Operation[Any]) -> QueueKeys:
    keys: QueueKeys = operation.keys  # type: ignore[attr-defined]  # every operation is about a queue
    return keys


class MemoryShell:
    """Performs operations for the async client."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def perform(self, operation: Operation[T], *, timeout: float) -> T:  # noqa: ARG002 - it takes no time
        """Do it; a read of events waits for the next one, by whatever clock it comes."""
        queue = self._queues.queue(_keys(operation).queue)
        if isinstance(operation, ReadEvents) and operation.block_ms and not queue.trail.read(operation.after)[0]:
            await queue.trail.news(asyncio.get_running_loop())
        return perform(operation, queue, self._queues.now_ms())

    def blocking(self) -> "Shell":
        """Give one for operations that wait."""
        return self

    async def close(self) -> None:
        """Nothing is open."""


class MemorySyncShell:
    """Performs operations for the blocking client."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def perform(self, operation: Operation[T], *, timeout: float, waiting: float = 0) -> T:  # noqa: ARG002 - as above
        """Do it; a read of events works until there is one, or `waiting` seconds have passed on the clock."""
        queues = self._queues
        queue = queues.queue(_keys(operation).queue)
        if isinstance(operation, ReadEvents) and operation.block_ms:
            after = operation.after
            queues.work_until(lambda: bool(queue.trail.read(after)[0]), waiting)
        return perform(operation, queue, queues.now_ms())

    def close(self) -> None:
        """Nothing is open."""


class MemoryStore(SyncStore):
    """The store of both clients."""

    def __init__(self, queues: Queues) -> None:
        super().__init__(_SETTINGS, prefix=PREFIX, timeout=_TIMEOUT)
        self._queues = queues

    def shell(self, routes: Routes | None) -> "Shell":  # noqa: ARG002 - it knows none
        """Make one for the async client."""
        return MemoryShell(self._queues)

    def sync_shell(self, routes: Routes | None) -> "SyncShell":  # noqa: ARG002 - it knows none
        """Make one for the blocking client."""
        return MemorySyncShell(self._queues)

    def now_ms(self) -> int:
        """Give the harness's time."""
        return self._queues.now_ms()


class MemorySession(Session):
    """What the async client of a harness has: waits follow the harness's clock."""

    def __init__(self, queues: Queues, middleware: Sequence[EnqueueMiddleware]) -> None:
        store: Store = MemoryStore(queues)
        super().__init__(store, middleware)
        self._queues = queues

    async def within(self, waiting: Coroutine[Any, Any, T], seconds: float) -> T | None:
        """Wait for it by the harness's clock; None when it is not over in time."""
        return await self._queues.wait(waiting, seconds)


class MemorySyncSession(SyncSession):
    """What the blocking client of a harness has. It may be used on the thread of a loop: it never blocks it."""

    longest_read = math.inf  # there is no connection that could die

    def __init__(self, queues: Queues, middleware: Sequence[EnqueueMiddleware]) -> None:
        super().__init__(MemoryStore(queues), middleware)
        self._queues = queues
        self._warned = True

    def monotonic(self) -> float:
        """Give the harness's time in seconds."""
        return self._queues.now_ms() / 1_000

"""What a running handler gets: its job, its dependencies, and word of being cancelled.

Model of concurrency: a `CancelScope` belongs to one attempt. The worker's event loop cancels it; the attempt's own task
(async handlers) is then cancelled as asyncio cancels, a thread is told and asks `raise_if_cancelled`. Contexts are read from
the handler's thread while the loop may write the reason: one attribute, written once, so no lock is needed.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from bullpen import serialization
from bullpen.errors import JobSignal
from bullpen.jobs import JobInfo, moment
from bullpen.payloads import Json, JsonObject
from bullpen.retry import Policy

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient

D_co = TypeVar("D_co", covariant=True)

MAX_LOG_LINE: Final = 16_384
"""The most characters of one log line; what is longer is cut."""


class CancelReason(StrEnum):
    """Why an attempt is cancelled."""

    TIMEOUT = "timeout"
    """It took longer than its timeout: the attempt is spent."""
    CANCELLED = "cancelled"
    """Somebody cancelled the job: it ends."""
    SHUTDOWN = "shutdown"
    """The worker stops and the grace period is over: the job goes back, no attempt spent."""
    LOCK_LOST = "lock_lost"
    """Another worker may have the job by now: whatever this attempt gives is void."""


class AttemptCancelled(JobSignal):
    """Raised by `raise_if_cancelled`; the reason decides what becomes of the job. Let it pass through."""

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(reason)
        self.reason = reason


class CancelScope:
    """By which the worker cancels one attempt. To be used on the worker's event loop only."""

    __slots__ = ("_task", "delivered", "reason", "text")

    def __init__(self) -> None:
        self.reason: CancelReason | None = None
        self.text = ""
        self.delivered = False
        """Whether the attempt's task was cancelled by this scope."""
        self._task: asyncio.Task[Any] | None = None

    def cancel(self, reason: CancelReason, text: str = "") -> bool:
        """Cancel the attempt; False when it already was, or has ended.

        The first reason stands, except that a lost lock overrules all. The task is interrupted once: a handler that cleans
        up is not disturbed by a second order. One that swallows the cancellation and goes on is not waited for here; its
        slot stays taken until it ends, or until the worker's supervisor ends the process.
        """
        if self.reason is not None:
            if reason is CancelReason.LOCK_LOST:
                self.reason, self.text = reason, text
            return False
        self.reason, self.text = reason, text
        self._deliver()
        return True

    def enter(self, task: "asyncio.Task[Any] | None") -> None:
        """Interrupt this task from now on; at once if the scope is cancelled already."""
        self._task = task
        if self.reason is not None:
            self._deliver()

    def leave(self) -> None:
        """Interrupt nothing any more: what is cancelled from now on is only noted."""
        self._task = None

    def _deliver(self) -> None:
        if self._task is not None:
            self.delivered = True
            self._task.cancel()


class JobServices(Protocol):
    """What a context needs of who runs it: worker, test harness, process child.

    `progress` and `log` are called from any thread and never block.
    """

    def progress(self, value_json: str) -> None:
        """Take the job's progress, as JSON text; the last one wins."""
        ...

    def log(self, line: str) -> None:
        """Take a line for the job's log."""
        ...

    @property
    def client(self) -> "Client":
        """The async client of this worker."""
        ...

    @property
    def sync_client(self) -> "SyncClient":
        """The blocking client of this process."""
        ...


@dataclass(slots=True)
class ActiveJob:
    """One attempt to be run: what the worker read from Redis and decided, in plain values."""

    id: str
    name: str
    queue: str
    data: str | bytes
    """The payload's JSON, as it lies in Redis."""
    attempt: int
    """This attempt's number, from 1."""
    retry: Policy
    """How often, and after which delay, the job is tried again."""
    services: JobServices
    deps: object = None
    version: int = 1
    """Of the payload."""
    fence: int = 0
    """BullMQ's ``ats``: grows with each start."""
    snoozes: int = 0
    priority: int = 0
    enqueued_at_ms: int = 0
    started_at_ms: int = 0
    timeout_ms: int | None = None
    deadline_ms: int | None = None
    """When the attempt times out, in milliseconds since 1970. Who made the job cancels its `scope` then."""
    max_result_bytes: int | None = None
    progress_json: str | bytes | None = None
    scope: CancelScope = field(default_factory=CancelScope)


class BaseContext(Generic[D_co]):
    """What every handler's context has, and all that middleware needs."""

    __slots__ = ("_active", "_info")

    def __init__(self, active: ActiveJob) -> None:
        self._active = active
        self._info: JobInfo | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return self._active.name

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._active.queue

    @property
    def jobs(self) -> tuple[JobInfo, ...]:
        """The jobs that run in this call."""
        return (self._job(),)

    @property
    def deps(self) -> D_co:
        """What the lifespan of the handler's registry gave."""
        return self._active.deps  # type: ignore[return-value]  # the registry's type parameter says which

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out, in UTC."""
        deadline_ms = self._active.deadline_ms
        return None if deadline_ms is None else moment(deadline_ms)

    @property
    def cancelled(self) -> CancelReason | None:
        """Why this attempt is being cancelled; None while it is not."""
        return self._active.scope.reason

    def raise_if_cancelled(self) -> None:
        """End the attempt here if it is being cancelled.

        Threads are told and never interrupted: a long one asks now and then. Async handlers need not, they are cancelled
        where they await. What is raised is a `JobSignal`, which ``except Exception`` does not swallow.
        """
        reason = self._active.scope.reason
        if reason is not None:
            raise AttemptCancelled(reason)

    def _job(self) -> JobInfo:
        if self._info is None:
            self._info = _info(self._active)
        return self._info


class _JobContext(BaseContext[D_co]):
    __slots__ = ()

    @property
    def job(self) -> JobInfo:
        """The job as it was when this attempt started; `progress` and `log` do not change it."""
        return self._job()

    @property
    def fence(self) -> int:
        """A number that grows with each start of the job.

        Write it beside what the handler stores elsewhere and refuse smaller ones: then a worker that lost the job's lock
        without noticing cannot overwrite the work of its successor.
        """
        return self._active.fence

    def progress(self, value: float | JsonObject, /) -> None:
        """Tell how far the job is: a number (Node's tools show 0 to 100 as percent) or a JSON object.

        Plain, and the same in async, thread and process handlers: sent within 100 ms, the last value wins, and before the
        job ends. Raises `ValueError` for what is no JSON.
        """
        self._active.services.progress(_json("progress", value))

    def log(self, message: str, /, **fields: Json) -> None:
        """Add a line to the job's log, with fields as ``key=value`` (JSON).

        Plain, as `progress`; sent within 100 ms. Cut to 16,384 characters. Raises `ValueError` for a field that is no
        JSON.
        """
        words = [message, *(f"{name}={_json(name, value)}" for name, value in fields.items())]
        self._active.services.log(" ".join(words)[:MAX_LOG_LINE])


class Context(_JobContext[D_co]):
    """What an ``async def`` handler gets. `D_co` is the type of its dependencies; None without a lifespan."""

    __slots__ = ()

    @property
    def client(self) -> "Client":
        """A client of the same Redis, to enqueue from a handler."""
        return self._active.services.client


class SyncContext(_JobContext[D_co]):
    """What a ``def`` handler gets, in a thread or a process: the same as `Context`, with a blocking client."""

    __slots__ = ()

    @property
    def client(self) -> "SyncClient":
        """A blocking client of the same Redis, to enqueue from a handler."""
        return self._active.services.sync_client


def _info(active: ActiveJob) -> JobInfo:
    return JobInfo(
        id=active.id,
        name=active.name,
        queue=active.queue,
        state="active",
        data=_read(active.data),
        attempt=active.attempt,
        attempts=active.retry.attempts,
        enqueued_at=moment(active.enqueued_at_ms),
        priority=active.priority,
        snoozes=active.snoozes,
        progress=None if active.progress_json is None else _read(active.progress_json),
        started_at=moment(active.started_at_ms) if active.started_at_ms else None,
    )


def _read(text: str | bytes) -> Any:
    try:
        return serialization.decode_json(text)
    except serialization.Misfit:  # a foreign producer wrote no JSON: the attempt fails by itself where that matters
        return None


def _json(what: str, value: object) -> str:
    try:
        return serialization.encode_json(value)
    except serialization.Misfit as error:
        msg = f"{what}: {error}"
        raise ValueError(msg) from None

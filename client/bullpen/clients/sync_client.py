"""The blocking client. Its model of concurrency stands in `bullpen.clients.sync_session`."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from bullpen.clients import sending
from bullpen.clients.handles import SyncJobHandle
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.queues import SyncQueue
from bullpen.clients.sync_session import SyncSession, SyncStore
from bullpen.durations import Duration
from bullpen.jobs import JobSpec, JobType
from bullpen.options import EnqueueOptions
from bullpen.queue.requests import check_known_id
from bullpen.redis import binding
from bullpen.redis.settings import RedisSettings

if TYPE_CHECKING:
    from bullpen.redis.health import HealthReport

R = TypeVar("R")


class SyncClient:
    """Enqueues jobs, and controls, watches and waits for them, blocking: the twin of `Client`, which see.

    One serves all threads of a process, and may be made before a fork. On the thread of a running event loop it works,
    blocks the loop, and says so once by a `BlockingCallWarning`.
    """

    def __init__(
        self,
        redis: str | RedisSettings | None = None,
        *,
        prefix: str | None = None,
        timeout: Duration | None = None,
        middleware: Sequence[EnqueueMiddleware] = (),
    ) -> None:
        store = SyncStore(redis, prefix=prefix, timeout=sending.own_timeout(timeout))
        self._session = SyncSession(store, middleware)

    @classmethod
    def over(cls, session: SyncSession) -> Self:
        """Give a client over a session: for the test harness, whose store is memory and whose clock is virtual."""
        made = cls()
        made._session = session
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent; the client may be used again afterwards."""
        self._session.close()

    @property
    def where(self) -> str:
        """The address of Redis, for messages; without credentials. Raises `ConfigurationError`."""
        return binding.of_all(self._session.settings).where

    # -- enqueue -----------------------------------------------------------------------------------------------

    def enqueue(self, job: JobSpec[R], /, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[R]:
        """Add the job to its queue; see `Client.enqueue`."""
        return SyncJobHandle(self._session, *self._session.enqueue(job, None, options))

    def enqueue_many(self, jobs: Iterable[JobSpec[R]], /) -> list[SyncJobHandle[R]]:
        """Add many jobs; see `Client.enqueue_many`."""
        placed = self._session.enqueue_many(sending.materialize(jobs), None)
        return [SyncJobHandle(self._session, *each) for each in placed]

    def queue(self, name: str, /) -> SyncQueue:
        """Give the queue of that name. Raises `ConfigurationError` for a name that BullMQ refuses."""
        return SyncQueue(self._session, name)

    def handle(self, job_type: JobType[..., R], job_id: str, /) -> SyncJobHandle[R]:
        """Give the handle of a job that was enqueued elsewhere; see `Client.handle`."""
        queue = sending.queue_of(job_type)
        return SyncJobHandle(self._session, queue, check_known_id(job_id), job_type.read_result)

    def health(self) -> "HealthReport":
        """Examine the Redis of this client. What is wrong with it is a finding, never an error."""
        from bullpen.redis import health  # noqa: PLC0415 - rarely asked for

        examine = health.examine(binding.of_all(self._session.settings), timeout=self._session.timeout)
        with ThreadPoolExecutor(1) as thread:  # for there may be a loop on this one
            return thread.submit(asyncio.run, examine).result()

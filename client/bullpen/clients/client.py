"""The async client. Its model of concurrency stands in `bullpen.clients.session`."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from bullpen.clients import sending
from bullpen.clients.handles import JobHandle
from bullpen.clients.middleware import EnqueueMiddleware
from bullpen.clients.queues import Queue
from bullpen.clients.session import Session, Store
from bullpen.durations import Duration
from bullpen.jobs import JobSpec, JobType
from bullpen.options import EnqueueOptions
from bullpen.queue.requests import check_known_id
from bullpen.redis import binding
from bullpen.redis.settings import RedisSettings

if TYPE_CHECKING:
    from bullpen.redis.health import HealthReport

R = TypeVar("R")


class Client:
    """Enqueues jobs, and controls, watches and waits for them. `SyncClient` is its blocking twin.

    `redis` is a URL, `RedisSettings`, or None for what the environment says (each queue's binding under
    ``SERVICE_BINDING_ROOT``, else ``BULLPEN_REDIS_URL`` and its kin), read at first use. `timeout` (absent: what the URL says,
    else 5 s) bounds every call, of `enqueue_many` each batch: a Redis that is away or frozen fails it within that time, with
    `RedisUnavailable`. `middleware` goes around every enqueue.

    Use it as ``async with Client() as client``, or call `close`. Raises `ConfigurationError` for a URL that cannot be used.
    """

    def __init__(
        self,
        redis: str | RedisSettings | None = None,
        *,
        prefix: str | None = None,
        timeout: Duration | None = None,
        middleware: Sequence[EnqueueMiddleware] = (),
    ) -> None:
        store = Store(redis, prefix=prefix, timeout=sending.own_timeout(timeout))
        self._session = Session(store, middleware)

    @classmethod
    def over(cls, session: Session) -> Self:
        """Give a client over a session: for the test harness, whose store is memory and whose clock is virtual."""
        made = cls()
        made._session = session
        return made

    async def __aenter__(self) -> Self:
        self._session.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and end tasks. Idempotent; the client may be used again afterwards."""
        await self._session.close()

    @property
    def where(self) -> str:
        """The address of Redis, for messages; without credentials. Raises `ConfigurationError`."""
        return binding.of_all(self._session.settings).where

    # -- enqueue -----------------------------------------------------------------------------------------------

    async def enqueue(self, job: JobSpec[R], /, **options: Unpack[EnqueueOptions]) -> JobHandle[R]:
        """Add the job to its queue; returns when Redis has it. `options` go over the job's own.

        Raises `EnqueueError`, before anything is written unless it is an `EnqueueUncertain`: `RedisUnavailable` within the
        client's timeout, `PayloadInvalid`, `PayloadTooLarge`, `OptionInvalid`, `QueueClosed`, `QueueFull`. A job whose id
        is in Redis already, or that counts as a duplicate by `Deduplication`, gives the handle of that one.
        """
        return JobHandle(self._session, *await self._session.enqueue(job, None, options))

    async def enqueue_many(self, jobs: Iterable[JobSpec[R]], /) -> list[JobHandle[R]]:
        """Add many jobs, in batches of 500 for each queue, of which each is added whole or not at all.

        All jobs are checked before the first is sent. Raises as `enqueue` does; where batches had been added before the
        one that failed, a note on the error says how many jobs.
        """
        placed = await self._session.enqueue_many(sending.materialize(jobs), None)
        return [JobHandle(self._session, *each) for each in placed]

    def queue(self, name: str, /) -> Queue:
        """Give the queue of that name. Raises `ConfigurationError` for a name that BullMQ refuses."""
        return Queue(self._session, name)

    def handle(self, job_type: JobType[..., R], job_id: str, /) -> JobHandle[R]:
        """Give the handle of a job that was enqueued elsewhere, with the type of its result. Asks nothing of Redis.

        Raises `OptionInvalid` for a job type without a queue: ``client.queue(…).job(…)`` then; and for what can be no job's id.
        """
        queue = sending.queue_of(job_type)
        return JobHandle(self._session, queue, check_known_id(job_id), job_type.read_result)

    async def health(self) -> "HealthReport":
        """Examine the Redis of this client. What is wrong with it is a finding, never an error."""
        from bullpen.redis import health  # noqa: PLC0415 - rarely asked for

        return await health.examine(binding.of_all(self._session.settings), timeout=self._session.timeout)

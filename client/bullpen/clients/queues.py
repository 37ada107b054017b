"""A queue as clients see it; `SyncQueue` is the blocking twin."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar, Unpack, overload

from pydantic import BaseModel, JsonValue

from bullpen.clients import sending, views
from bullpen.clients.handles import JobHandle, SyncJobHandle
from bullpen.clients.session import Session
from bullpen.clients.sync_session import SyncSession
from bullpen.errors import OptionInvalid
from bullpen.jobs import JobInfo, JobSpec
from bullpen.options import EnqueueOptions
from bullpen.payloads import JsonObject
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Steps, do
from bullpen.queue.operations.queues import (
    CountJobs,
    IsPaused,
    ListedState,
    ListJobs,
    PauseQueue,
    ReadPolicy,
    ResumeQueue,
)
from bullpen.queue.requests import check_known_id

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")

MOST_LISTED = 1_000
"""How many jobs one listing gives at most: each is read whole."""


class Queue:
    """One queue, by the client that gave it."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = QueueKeys("check", name).queue

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    @overload
    async def enqueue(self, job: JobSpec[R], /, **options: Unpack[EnqueueOptions]) -> JobHandle[R]: ...
    @overload
    async def enqueue(
        self, job: str, data: "JsonObject | BaseModel | DataclassInstance" = ..., /, **options: Unpack[EnqueueOptions]
    ) -> JobHandle[JsonValue]: ...
    async def enqueue(
        self, job: JobSpec[R] | str, data: object = None, /, **options: Unpack[EnqueueOptions]
    ) -> JobHandle[R] | JobHandle[JsonValue]:
        """Add a job to this queue, whatever queue its definition names; see `Client.enqueue`.

        By name, with a JSON object, a model or a dataclass, where there is no definition.
        """
        if isinstance(job, str):
            return JobHandle(
                self._session, *await self._session.enqueue(JobSpec.by_name(job, data), self.name, options)
            )
        return JobHandle(self._session, *await self._session.enqueue(job, self.name, options))

    async def enqueue_many(self, jobs: Iterable[JobSpec[R]], /) -> list[JobHandle[R]]:
        """Add many jobs to this queue; see `Client.enqueue_many`."""
        placed = await self._session.enqueue_many(sending.materialize(jobs), self.name)
        return [JobHandle(self._session, *each) for each in placed]

    def job(self, job_id: str, /) -> JobHandle[JsonValue]:
        """Give the handle of a job of this queue. Asks nothing of Redis. Raises `OptionInvalid` for what can be no job's id."""
        return JobHandle(self._session, self.name, check_known_id(job_id), sending.any_json)

    async def jobs(
        self, state: ListedState, *, start: int = 0, count: int = 100, newest_first: bool = False
    ) -> list[JobInfo]:
        """List jobs in one state: `count` (1,000 at most) from the `start`-th on, those that come next before others."""
        return await self._session.run(listing(self._keys, state, start, count, newest_first=newest_first))

    async def counts(self) -> Mapping[str, int]:
        """Count the jobs by state."""
        return await self._session.perform(CountJobs(self._keys))

    async def pause(self) -> None:
        """Let no further job start; those that run go on. Jobs can still be enqueued."""
        await self._session.perform(PauseQueue(self._keys))

    async def resume(self) -> None:
        """Let jobs start again."""
        await self._session.run(resume(self._keys))

    async def paused(self) -> bool:
        """Say whether the queue is paused."""
        return await self._session.perform(IsPaused(self._keys))

    @property
    def _keys(self) -> QueueKeys:
        return self._session.keys(self.name)


class SyncQueue:
    """One queue, by the blocking client that gave it; see `Queue`."""

    def __init__(self, session: SyncSession, name: str) -> None:
        self._session = session
        self.name = QueueKeys("check", name).queue

    def __repr__(self) -> str:
        return f"<SyncQueue {self.name!r}>"

    @overload
    def enqueue(self, job: JobSpec[R], /, **options: Unpack[EnqueueOptions]) -> SyncJobHandle[R]: ...
    @overload
    def enqueue(
        self, job: str, data: "JsonObject | BaseModel | DataclassInstance" = ..., /, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle[JsonValue]: ...
    def enqueue(
        self, job: JobSpec[R] | str, data: object = None, /, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle[R] | SyncJobHandle[JsonValue]:
        """Add a job to this queue; see `Queue.enqueue`."""
        if isinstance(job, str):
            return SyncJobHandle(self._session, *self._session.enqueue(JobSpec.by_name(job, data), self.name, options))
        return SyncJobHandle(self._session, *self._session.enqueue(job, self.name, options))

    def enqueue_many(self, jobs: Iterable[JobSpec[R]], /) -> list[SyncJobHandle[R]]:
        """Add many jobs to this queue; see `Client.enqueue_many`."""
        placed = self._session.enqueue_many(sending.materialize(jobs), self.name)
        return [SyncJobHandle(self._session, *each) for each in placed]

    def job(self, job_id: str, /) -> SyncJobHandle[JsonValue]:
        """Give the handle of a job of this queue. Asks nothing of Redis. Raises `OptionInvalid` for what can be no job's id."""
        return SyncJobHandle(self._session, self.name, check_known_id(job_id), sending.any_json)

    def jobs(
        self, state: ListedState, *, start: int = 0, count: int = 100, newest_first: bool = False
    ) -> list[JobInfo]:
        """List jobs in one state; see `Queue.jobs`."""
        return self._session.run(listing(self._keys, state, start, count, newest_first=newest_first))

    def counts(self) -> Mapping[str, int]:
        """Count the jobs by state."""
        return self._session.perform(CountJobs(self._keys))

    def pause(self) -> None:
        """Let no further job start; see `Queue.pause`."""
        self._session.perform(PauseQueue(self._keys))

    def resume(self) -> None:
        """Let jobs start again."""
        self._session.run(resume(self._keys))

    def paused(self) -> bool:
        """Say whether the queue is paused."""
        return self._session.perform(IsPaused(self._keys))

    @property
    def _keys(self) -> QueueKeys:
        return self._session.keys(self.name)


def listing(keys: QueueKeys, state: ListedState, start: int, count: int, *, newest_first: bool) -> Steps[list[JobInfo]]:
    """Read a page of jobs."""
    if start < 0 or not 1 <= count <= MOST_LISTED:
        msg = f"jobs: start={start}, count={count} is not allowed; allowed: from 0 on, and 1 to {MOST_LISTED}"
        raise OptionInvalid(msg)
    found = yield from do(ListJobs(keys, state, start, count, newest_first))
    policy = yield from do(ReadPolicy(keys))
    return [views.info(keys.queue, each, policy) for each in found]


def resume(keys: QueueKeys) -> Steps[None]:
    """Resume, until nothing is left where Node before version 6 put the jobs of a paused queue."""
    while (yield from do(ResumeQueue(keys))):
        pass

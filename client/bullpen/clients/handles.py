"""A job in Redis, by its id: watched, awaited, controlled. `SyncJobHandle` is the blocking twin."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Final, Generic, TypeVar

from pydantic import JsonValue

from bullpen.clients import controlling, events, sending, views
from bullpen.clients.events import LOOK_EVERY_SECONDS, Ended, LastEventId, ReadEvents, StreamEvent
from bullpen.clients.session import Session
from bullpen.clients.sync_session import SyncSession
from bullpen.clients.watching import Inbox
from bullpen.durations import Duration
from bullpen.errors import JobCancelled, JobFailed, RedisUnavailable, ResultTimeout
from bullpen.jobs import JobEvent, JobInfo
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Steps, do
from bullpen.queue.operations.jobs import GetJob, GetLogs
from bullpen.queue.operations.queues import ReadPolicy

R_co = TypeVar("R_co", covariant=True)

_LAST_LOOK_SECONDS: Final = 1.0
"""How long somebody whose time is over waits to hear of an end that came in time."""


class JobHandle(Generic[R_co]):
    """A job in Redis. Making one asks nothing; the job may be gone."""

    def __init__(self, session: Session, queue: str, job_id: str, read: Callable[[str | bytes], R_co]) -> None:
        self._session = session
        self._read = read
        self.queue = queue
        self.id = job_id

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} of queue {self.queue!r}>"

    async def result(self, *, timeout: Duration) -> R_co:
        """Wait until the job ends, and give its result.

        Raises `JobFailed`, `JobCancelled`, `JobGone` for a job that was removed or trimmed, `ResultTimeout` when it has not
        ended in time (it goes on), `ResultInvalid` when the result is not of the declared type, `RedisUnavailable` when
        Redis cannot be asked at first; a Redis that goes away later is waited for.
        """
        seconds = sending.timeout_seconds("timeout", timeout)
        ended = await self._session.within(self._ended(), seconds)
        if ended is None:
            raise timed_out(self.id, self.queue, seconds)
        return self._read(ended.returnvalue)

    async def info(self) -> JobInfo:
        """Give what is known of the job now. Raises `JobGone`."""
        return await self._session.run(read_info(self._keys, self.id))

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[JobEvent]]:
        """Give the job's changes from now on, until it ends; of one that has ended, its last one.

        Entering raises `JobGone`, and `RedisUnavailable`. A Redis that goes away later is waited for, without an end: changes
        may be missed meanwhile, and by a reader that is very slow.
        """
        return self._events()

    async def logs(self) -> list[str]:
        """Give the lines that its handler has logged."""
        return await self._session.perform(GetLogs(self._keys, self.id))

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the job: one that waits has ended when this returns, one that runs is told within a second or so.

        False when there was nothing to cancel: it has ended, is gone, waits for its children, or is the next run of a
        schedule.
        """
        steps = controlling.cancel(self._keys, self.id, reason, self._session.now_ms())
        return await self._session.run(steps) in {"cancelled", "told"}

    async def promote(self) -> bool:
        """Let the delayed job wait at once; False for one that is not delayed. Raises `JobGone`.

        When the answer is lost, Redis is asked once more, and says False of what it did at the first time.
        """
        return await self._session.run(controlling.promote(self._keys, self.id))

    async def retry(self, *, reset_attempts: bool = True) -> None:
        """Let the job that has ended wait anew, with its attempts forgotten or not.

        Raises `JobGone`, `JobNotEnded`.
        """
        await self._session.run(controlling.retry(self._keys, self.id, reset_attempts=reset_attempts))

    async def remove(self) -> bool:
        """Remove the job; False for one that runs, or is gone. Raises `JobScheduled` for the next run of a schedule.

        When the answer is lost, Redis is asked once more, and says False of what it did at the first time.
        """
        return await self._session.run(controlling.remove(self._keys, self.id))

    @property
    def _keys(self) -> QueueKeys:
        return self._session.keys(self.queue)

    async def _ended(self) -> Ended:
        async with self._session.watcher(self.queue).watch(self.id) as (inbox, place):
            ended = await self._look(place)
            while ended is None:
                event = await _next_event(self._session, inbox)
                if event is None:
                    with contextlib.suppress(RedisUnavailable):  # it was there: it may come back
                        ended = await self._look(place)
                elif event.change == "removed":
                    raise controlling.gone(self._keys, self.id)
                elif event.ends:
                    with contextlib.suppress(RedisUnavailable):  # the next look says the same
                        ended = await self._session.run(how_it_ended(self._keys, self.id, event))
            return ended

    async def _look(self, place: str) -> Ended | None:
        """Look at the job itself; raises what it ended with, where that is an error."""
        return await self._session.run(look(self._keys, self.id, place))

    @contextlib.asynccontextmanager
    async def _events(self) -> AsyncGenerator[AsyncIterator[JobEvent]]:
        async with self._session.watcher(self.queue).watch(self.id) as (inbox, _):
            found = await self._session.run(controlling.find(self._keys, self.id))
            yield self._changes(inbox, found.job.progress, views.final_event(found))

    async def _changes(self, inbox: Inbox, progress: JsonValue, last: JobEvent | None) -> AsyncIterator[JobEvent]:
        while last is None:
            event = await _next_event(self._session, inbox)
            if event is None:
                with contextlib.suppress(RedisUnavailable):  # it was there: it may come back
                    found = await self._session.perform(GetJob(self._keys, self.id))
                    if found is None:
                        return
                    last = views.final_event(found)
                continue
            progress = views.progress_of(event, progress)
            yield views.event(event, progress)
            if event.ends:
                return
        yield last


class SyncJobHandle(Generic[R_co]):
    """A job in Redis, by the blocking client; see `JobHandle`."""

    def __init__(self, session: SyncSession, queue: str, job_id: str, read: Callable[[str | bytes], R_co]) -> None:
        self._session = session
        self._read = read
        self.queue = queue
        self.id = job_id

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.id} of queue {self.queue!r}>"

    def result(self, *, timeout: Duration) -> R_co:
        """Wait until the job ends, and give its result; see `JobHandle.result`. Holds a connection meanwhile."""
        seconds = sending.timeout_seconds("timeout", timeout)
        clock = self._session.monotonic
        deadline = clock() + seconds
        after = place = self._session.perform(LastEventId(self._keys))
        ended = self._session.run(look(self._keys, self.id, place))
        looked = clock()
        while ended is None:
            left = deadline - clock()
            if left <= 0:
                raise timed_out(self.id, self.queue, seconds)
            found, after = self._wait(after, left)
            event = next((event for event in events.by_job(found, self.id) if event.ends), None)
            if event is not None and event.change == "removed":
                raise controlling.gone(self._keys, self.id)
            if event is not None:
                steps = how_it_ended(self._keys, self.id, event)
            elif not found or clock() - looked >= LOOK_EVERY_SECONDS:
                steps = look(self._keys, self.id, place)
                looked = clock()
            else:
                continue
            with contextlib.suppress(
                RedisUnavailable
            ):  # it was there: it may come back, and the next look says the same
                ended = self._session.run(
                    steps, timeout=min(self._session.timeout, max(deadline - clock(), _LAST_LOOK_SECONDS))
                )
        return self._read(ended.returnvalue)

    def info(self) -> JobInfo:
        """Give what is known of the job now. Raises `JobGone`."""
        return self._session.run(read_info(self._keys, self.id))

    def events(self) -> AbstractContextManager[Iterator[JobEvent]]:
        """Give the job's changes from now on, until it ends; see `JobHandle.events`."""
        return self._events()

    def logs(self) -> list[str]:
        """Give the lines that its handler has logged."""
        return self._session.perform(GetLogs(self._keys, self.id))

    def cancel(self, reason: str = "") -> bool:
        """Cancel the job; see `JobHandle.cancel`."""
        steps = controlling.cancel(self._keys, self.id, reason, self._session.now_ms())
        return self._session.run(steps) in {"cancelled", "told"}

    def promote(self) -> bool:
        """Let the delayed job wait at once; False for one that is not delayed. Raises `JobGone`."""
        return self._session.run(controlling.promote(self._keys, self.id))

    def retry(self, *, reset_attempts: bool = True) -> None:
        """Let the job that has ended wait anew; see `JobHandle.retry`."""
        self._session.run(controlling.retry(self._keys, self.id, reset_attempts=reset_attempts))

    def remove(self) -> bool:
        """Remove the job; see `JobHandle.remove`."""
        return self._session.run(controlling.remove(self._keys, self.id))

    @property
    def _keys(self) -> QueueKeys:
        return self._session.keys(self.queue)

    def _wait(self, after: str, seconds: float) -> tuple[list[StreamEvent], str]:
        block_ms = max(1, int(min(seconds, LOOK_EVERY_SECONDS) * 1_000))
        return self._session.wait(ReadEvents(self._keys, after, block_ms), after, seconds)

    @contextlib.contextmanager
    def _events(self) -> Generator[Iterator[JobEvent]]:
        after = self._session.perform(LastEventId(self._keys))
        found = self._session.run(controlling.find(self._keys, self.id))
        yield self._changes(after, found.job.progress, views.final_event(found))

    def _changes(self, after: str, progress: JsonValue, last: JobEvent | None) -> Iterator[JobEvent]:
        clock = self._session.monotonic
        looked = clock()
        while last is None:
            found, after = self._wait(after, LOOK_EVERY_SECONDS)
            for event in events.by_job(found, self.id):
                progress = views.progress_of(event, progress)
                yield views.event(event, progress)
                if event.ends:
                    return
            if not found or clock() - looked >= LOOK_EVERY_SECONDS:
                looked = clock()
                with contextlib.suppress(RedisUnavailable):  # it was there: it may come back
                    job = self._session.perform(GetJob(self._keys, self.id))
                    if job is None:
                        return
                    last = views.final_event(job)
        yield last


def read_info(keys: QueueKeys, job_id: str) -> Steps[JobInfo]:
    """Read what is known of a job. Raises `JobGone`."""
    found = yield from controlling.find(keys, job_id)
    policy = yield from do(ReadPolicy(keys))
    return views.info(keys.queue, found, policy)


def look(keys: QueueKeys, job_id: str, place: str) -> Steps[Ended | None]:
    """Look whether the job has ended: in its hash, else, when that is gone, in the stream from `place` on.

    Raises `JobFailed`, `JobCancelled`, `JobGone`.
    """
    found = yield from do(GetJob(keys, job_id))
    if found is not None:
        return _raised(events.ended_by_hash(found))
    after = place
    while True:  # it may have been removed as it ended, after we took our place
        news, last = yield from do(ReadEvents(keys, after, 0))
        for event in events.by_job(news, job_id):
            if event.ends and event.change != "removed":
                return _raised(events.ended_by_event(event))
        if last == after:
            raise controlling.gone(keys, job_id)
        after = last


def how_it_ended(keys: QueueKeys, job_id: str, event: StreamEvent) -> Steps[Ended | None]:
    """Say how the job ended that the stream says has; of a failure, the job itself knows more if it is still there.

    None when it has been retried meanwhile. Raises `JobFailed`, `JobCancelled`.
    """
    if event.change == "failed":
        found = yield from do(GetJob(keys, job_id))
        if found is not None:
            return _raised(events.ended_by_hash(found))
    return _raised(events.ended_by_event(event))


def timed_out(job_id: str, queue: str, seconds: float) -> ResultTimeout:
    """Give the error for who has waited long enough."""
    return ResultTimeout(f"job {job_id} of queue {queue!r} has not ended within {seconds:g} s; it goes on")


def _raised(ended: Ended | JobFailed | JobCancelled | None) -> Ended | None:
    if ended is None or isinstance(ended, Ended):
        return ended
    raise ended


async def _next_event(session: Session, inbox: Inbox) -> StreamEvent | None:
    """Give the next event, or None when it is time to look at the job itself."""
    event = await session.within(inbox.get(), LOOK_EVERY_SECONDS)
    if isinstance(event, Exception):
        raise event
    return event

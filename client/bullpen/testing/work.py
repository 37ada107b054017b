"""What a harness does with a job that has started: whether it may run, and what is written of how it ended.

These are the rules of `bullpen_worker.running.admission` and `bullpen_worker.running.acks`, on a queue in memory. The conformance tests
(`tests/redis/conformance`) hold both against each other.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bullpen.errors import JobFailed, ResultInvalid, UnknownJob
from bullpen.handling import outcomes
from bullpen.handling.catalogue import Catalogue
from bullpen.handling.contexts import ActiveJob, CancelReason
from bullpen.handling.execution import run_attempt
from bullpen.handling.failures import Failure
from bullpen.handling.middleware import RunMiddleware, RunNext
from bullpen.handling.outcomes import Outcome
from bullpen.handling.registrations import Registration
from bullpen.queue import records
from bullpen.queue.policy import JobSettings
from bullpen.queue.records import StoredJob
from bullpen.testing.clock import VirtualClock
from bullpen.testing.memory import Cell, MemoryQueue

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.sync_client import SyncClient
    from bullpen.handling.contexts import BaseContext

T = TypeVar("T")

UNKNOWN_PAUSE_MS: Final = 30_000
EXPIRED: Final = "expired: the job had not started by its time"
_BY_NAME: Final = {"bullpen.UnknownJob": UnknownJob, "bullpen.ResultInvalid": ResultInvalid}
_MOST_TRACES: Final = 10


@dataclass(frozen=True, slots=True)
class PutOff:
    """The job waits, its attempt unspent, for a worker that knows it."""

    since_ms: int


Ending = Outcome | PutOff


class QueueWork:
    """One queue and the handlers of its jobs."""

    def __init__(self, queue: MemoryQueue, catalogue: Catalogue) -> None:
        self.queue = queue
        self.catalogue = catalogue

    def settings(self, job: StoredJob, registration: Registration | None) -> JobSettings:
        """Say what holds for the job."""
        return self.queue.policy.settings_for(job.name, job.opts, registration.defaults if registration else None)

    def verdict(
        self, job: StoredJob, registration: Registration | None, settings: JobSettings, now_ms: int
    ) -> Ending | None:
        """Say why the job is not to be run here and now; None when it is."""
        if job.attempts_started <= 1 and job.attempts_made == 0:
            delay = job.opts.get("delay")
            expiry_ms = settings.expiry_ms(job.timestamp, delay if isinstance(delay, int) else 0)
            if expiry_ms is not None and expiry_ms <= now_ms:
                return outcomes.Expired()
        if registration is None or not registration.knows(job.version):
            since_ms = job.unknown_since or now_ms
            if now_ms - since_ms < self.queue.policy.unknown_after_ms:
                return PutOff(since_ms)
            return outcomes.Failed(Failure("bullpen.UnknownJob", _unknown(job, registration, now_ms - since_ms), ""))
        return None

    def write(self, job: StoredJob, ending: Ending, settings: JobSettings, now_ms: int) -> None:
        """Write what became of the job."""
        queue = self.queue
        match ending:
            case outcomes.Completed(value):
                queue.finish(job.id, "completed", value, now_ms, keep=settings.keep_completed)
            case outcomes.Retried(failure, 0):
                fields = {**failure_fields(failure, job), "bullpen:due": now_ms}
                queue.retry(job.id, now_ms, fields, lifo=job.opts.get("lifo") is True)
            case outcomes.Retried(failure, delay_ms):
                self._put_off(job, delay_ms, now_ms, failure_fields(failure, job), spend_attempt=True)
            case outcomes.Failed(failure):
                self._fail(job, failure, settings, now_ms)
            case outcomes.Cancelled(reason):
                self._fail(job, Failure("bullpen.Cancel", f"cancelled: {reason}", ""), settings, now_ms)
            case outcomes.Expired():
                self._fail(job, Failure("bullpen.Expired", EXPIRED, ""), settings, now_ms)
            case outcomes.Snoozed(delay_ms):
                self._put_off(job, delay_ms, now_ms, {"bullpen:snoozes": job.snoozes + 1})
            case PutOff(since_ms):
                self._put_off(job, UNKNOWN_PAUSE_MS, now_ms, {"bullpen:unknown": since_ms})
            case outcomes.RateLimited(delay_ms):
                queue.limit_for(delay_ms, now_ms)
                queue.release(job.id, now_ms)
            case outcomes.Released() | outcomes.LockLost():
                queue.release(job.id, now_ms)

    def _fail(self, job: StoredJob, failure: Failure, settings: JobSettings, now_ms: int) -> None:
        fields = failure_fields(failure, job)
        self.queue.finish(job.id, "failed", failure.reason, now_ms, keep=settings.keep_failed, fields=fields)

    def _put_off(
        self, job: StoredJob, delay_ms: int, now_ms: int, fields: dict[str, Cell], *, spend_attempt: bool = False
    ) -> None:
        fields["bullpen:due"] = now_ms + delay_ms
        self.queue.delay(job.id, delay_ms, now_ms, fields, spend_attempt=spend_attempt)


def failure_fields(failure: Failure, job: StoredJob) -> dict[str, Cell]:
    """Give the fields of the job's hash that tell of a failure."""
    limit = job.opts.get("stackTraceLimit")
    kept = limit if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else _MOST_TRACES
    traces = [*job.stacktrace, failure.stack][-kept:] if failure.stack and kept else job.stacktrace if kept else []
    return {
        "failedReason": failure.reason,
        "stacktrace": json.dumps(traces),
        "bullpen:error": records.error_field(failure.error_type),
    }


def error_of(ending: Ending, caught: BaseException | None, settings: JobSettings, job: StoredJob) -> Exception:
    """Give the error that a failed job is reported with: the handler's own where there is one."""
    if isinstance(ending, outcomes.Failed):
        return _error(ending.failure, caught, settings, timed_out=ending.timed_out)
    return JobFailed(EXPIRED, error_type="bullpen.Expired", attempts=job.attempts_made)


def _error(failure: Failure, caught: BaseException | None, settings: JobSettings, *, timed_out: bool) -> Exception:
    if isinstance(caught, Exception):
        return caught
    if timed_out:
        return outcomes.AttemptTimeout(settings.timeout_ms)
    if failure.error_type in _BY_NAME:
        return _BY_NAME[failure.error_type](failure.reason)
    error = JobFailed(failure.reason, error_type=failure.error_type)
    error.__cause__ = caught
    return error


def _unknown(job: StoredJob, registration: Registration | None, waited_ms: int) -> str:
    if registration is None:
        what = f"no handler of this worker knows the name {job.name!r}"
    else:
        known = registration.version
        what = f"its payload has version {job.version}, and the handler of {job.name!r} knows up to {known}"
    return f"{what}; it waited {waited_ms // 1000} s for a worker that does (unknownHandler.after)"


class Output:
    """Takes a job's progress and log lines (`bullpen.handling.contexts.JobServices`), and writes them at once."""

    def __init__(
        self,
        queue: MemoryQueue,
        job: StoredJob,
        *,
        clients: "tuple[Client, SyncClient]",
        clock: VirtualClock,
        stir: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._id = job.id
        self._client, self._sync_client = clients
        self._clock = clock
        self._stir = stir
        keep = job.opts.get("keepLogs")
        self._keep = keep if isinstance(keep, int) and keep > 0 else records.MOST_LOG_LINES

    @property
    def client(self) -> "Client":
        """The harness's async client."""
        return self._client

    @property
    def sync_client(self) -> "SyncClient":
        """The harness's blocking client."""
        return self._sync_client

    def progress(self, value_json: str) -> None:
        """Write the progress."""
        if self._id in self._queue.hashes:
            self._queue.write(self._id, {"progress": value_json})
            self._queue.trail.write("progress", self._id, self._clock.now_ms, {"data": value_json})
        self._stir()

    def log(self, line: str) -> None:
        """Add the line."""
        if self._id in self._queue.hashes:
            lines = self._queue.logs.setdefault(self._id, [])
            lines.append(line)
            del lines[: -self._keep]
        self._stir()


class Trial:
    """Runs one attempt as a worker does, and catches the very error that it ends with."""

    def __init__(
        self, *, middleware: tuple[RunMiddleware, ...], now: Callable[[], datetime], rng: Callable[[], float]
    ) -> None:
        self.caught: BaseException | None = None
        self._middleware = middleware
        self._now = now
        self._rng = rng

    async def run(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Run it; see `bullpen.handling.execution.run_attempt`."""
        catching = replace(registration, encode=self._catching(registration.encode))
        around = (self._catch, *self._middleware)
        return await run_attempt(catching, job, executors=self, middleware=around, now=self._now, rng=self._rng)

    async def run_thread(self, call: Callable[[], T], job: ActiveJob) -> T:  # noqa: ARG002 - as `Executors` says
        """Call it here and now: in a harness, no thread is started."""
        return call()

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        """Run it here, by the rules of a process: JSON there and back, and no word of a cancellation."""
        inner = replace(registration, kind="thread", middleware=())
        cancelled_before = job.scope.reason
        outcome = await run_attempt(inner, job, executors=self, middleware=(self._catch,), now=self._now, rng=self._rng)
        if job.scope.reason is not cancelled_before and job.scope.reason is not CancelReason.LOCK_LOST:
            raise asyncio.CancelledError  # a worker has killed the process meanwhile
        return outcome

    async def _catch(self, context: "BaseContext[Any]", call: RunNext) -> object:  # noqa: ARG002 - as middleware is called
        try:
            return await call()
        except BaseException as error:
            self._note(error)
            raise

    def _catching(self, encode: Callable[[object], str]) -> Callable[[object], str]:
        def encoded(value: object) -> str:
            try:
                return encode(value)
            except Exception as error:
                self._note(error)
                raise

        return encoded

    def _note(self, error: BaseException) -> None:
        if not isinstance(error, outcomes.EndedElsewhere):
            self.caught = outcomes.unwrap(error)

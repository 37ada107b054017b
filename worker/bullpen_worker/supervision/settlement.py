"""Ends attempts whose process was killed because they were past their timeout.

The job is still active, its lock is held by the supervisor, and nobody runs it. What follows is what follows from any
timeout: the attempt is spent, the policy says whether there is another. A handler's own backoff function is not asked, there
is no error that it could look at; the delay is the policy's. A job that was cancelled before, and whose handler did not
stop, ends as cancelled.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from bullpen import retry
from bullpen.handling import outcomes
from bullpen.handling.contexts import CancelReason
from bullpen.handling.failures import Failure
from bullpen.handling.outcomes import Circumstances
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, pack_command
from bullpen_worker.keeping import heartbeat
from bullpen_worker.reports.metrics import JobOutcome
from bullpen_worker.running import acks, lines, rescue
from bullpen_worker.running.acks import Subject
from bullpen_worker.running.admission import Admission, Terms
from bullpen_worker.running.hooks import JobEnd
from bullpen_worker.running.lines import Line
from bullpen_worker.running.templates import Templates
from bullpen_worker.supervision.control import Ticket

MOST_REFUSALS: Final = 8
"""How often an end is sent that Redis refuses for a reason that should not pass; then the job fails."""

_PAUSE_S: Final = 0.2
_NO_FAILURE: Final = Failure("", "", "")

logger = logging.getLogger("bullpen.worker")


async def end_overdue(ticket: Ticket, *, line: Line, pack: Templates, admission: Admission) -> JobEnd | None:
    """Write that the job's attempt timed out, or was cancelled; give what to count and log, None when the job was gone or not ours.

    Tried until Redis answers. What it refuses for good fails the job (`bullpen_worker.running.rescue`), or is left to recovery.
    """
    overdue = _Overdue(ticket, pack)
    refusals = 0
    while True:
        connection = await line.ready()
        try:
            try:
                return await overdue.end(connection, admission)
            except ReplyError as error:
                if error.code == "NOSCRIPT":
                    await line.load(connection)
                elif not lines.passing(error):
                    refusals += 1
                    await overdue.hold(connection)
                    if refusals >= MOST_REFUSALS:
                        return await overdue.fail(connection, error)
        except ConnectionLost:
            continue  # `ready` waits; what was applied already finds the lock gone
        except ReplyError as error:
            if not lines.passing(error) and refusals >= MOST_REFUSALS:
                overdue.leave(error)
                return None
        await asyncio.sleep(_PAUSE_S)


class _Overdue:
    """The job, as it was read first: what is refused half way may have counted the attempt already."""

    def __init__(self, ticket: Ticket, pack: Templates) -> None:
        self._id = ticket.job_id.encode(errors="surrogateescape")
        self._token = ticket.token.encode(errors="surrogateescape")
        self._pack = pack
        self._found: tuple[StoredJob, Terms] | None = None
        self._cancelled: str | None = None

    async def end(self, connection: Connection, admission: Admission) -> JobEnd | None:
        """Send what ends the attempt. Raises `ConnectionLost`, `ReplyError`."""
        found = self._found = self._found or await self._read(connection, admission)
        if found is None:
            return None
        stored, terms = found
        outcome = timed_out(stored, terms, now=datetime.now(UTC), rng=random.random)
        ending = outcome if self._cancelled is None else outcomes.Cancelled(self._cancelled)
        subject, now_ms = Subject(self._id, stored, terms.completed, terms.failed), _now_ms()
        ack = acks.plan(ending, subject, self._token, now_ms, self._pack, fetch=False)
        if ack.read(await connection.call_many(ack.packed, ack.replies)).code:
            return None
        failure = outcome.failure if ending is outcome else _NO_FAILURE
        return _account(stored, terms, acks.label(ending), failure, now_ms)

    async def hold(self, connection: Connection) -> None:
        """See to it that the job is still active, and ours. Raises `ConnectionLost`, `ReplyError`."""
        made = 0 if self._found is None else self._found[0].attempts_made
        await rescue.hold(connection, self._pack, self._id, self._token, lock_ms=rescue.LOCK_MS, attempts_made=made)

    async def fail(self, connection: Connection, error: ReplyError) -> JobEnd | None:
        """Fail the job, as its end is refused. Raises `ConnectionLost`, `ReplyError`."""
        why, now_ms = rescue.failure("timeout", error), _now_ms()
        set_aside = await rescue.set_aside(connection, self._pack, self._id, self._token, why, now_ms=now_ms)
        if self._found is None or not set_aside:
            self.leave(error)
            return None
        stored, terms = self._found
        logger.error("job %s fails: %s", stored.id, why.reason)
        return _account(stored, terms, "failed", why, now_ms)

    def leave(self, error: ReplyError) -> None:
        """Say that nothing helps."""
        name = self._id.decode(errors="replace")
        logger.error("Redis refuses to write the end of job %s, which is left to recovery: %s", name, error)

    async def _read(self, connection: Connection, admission: Admission) -> tuple[StoredJob, Terms] | None:
        flat = await connection.call(pack_command("HGETALL", self._pack.job_key(self._id)))
        if not isinstance(flat, list) or not flat:
            return None
        pairs = iter(flat)
        fields: dict[bytes, bytes] = dict(zip(pairs, pairs, strict=False))  # type: ignore[arg-type]  # a hash: bytes
        order = await connection.call(pack_command("HGET", self._pack.cancelled_key, self._id))
        if isinstance(order, bytes):
            self._cancelled = heartbeat.cancellation(order, fields.get(b"timestamp", b""))
        terms = admission.terms(fields)
        return StoredJob(self._id.decode(errors="replace"), fields, terms.opts), terms


def _account(stored: StoredJob, terms: Terms, outcome: JobOutcome, failure: Failure, now_ms: int) -> JobEnd:
    started_ms = stored.processed_on or now_ms
    return JobEnd(
        stored.id, stored.name, stored.attempts_made + 1, terms.settings.retry.attempts, outcome,
        max(0.0, started_ms - stored.timestamp - terms.delay_ms), now_ms - started_ms, failure.error_type,
        failure.reason, failure.stack,
    )  # fmt: skip


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def timed_out(
    stored: StoredJob, terms: Terms, *, now: datetime, rng: Callable[[], float]
) -> outcomes.Retried | outcomes.Failed:
    """Say what follows from the timeout of the job's latest attempt."""
    outcome = outcomes.settle(
        asyncio.CancelledError(),
        Circumstances(
            attempt=stored.attempts_made + 1,
            policy=terms.settings.retry,
            now=now,
            random=rng(),
            rules=terms.registration.rules if terms.registration is not None else retry.NO_RULES,
            snoozes=stored.snoozes,
            reason=CancelReason.TIMEOUT,
            timeout_ms=terms.settings.timeout_ms,
        ),
    )
    if not isinstance(outcome, outcomes.Retried | outcomes.Failed):
        msg = f"a timeout led to {outcome!r}"
        raise TypeError(msg)
    return outcome

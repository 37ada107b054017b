"""Ends attempts whose process was killed because they were past their timeout.

The job is still active, its lock is held by the supervisor, and nobody runs it. What follows is what follows from any
timeout: the attempt is spent, the policy says whether there is another. A handler's own backoff function is not asked, there
is no error that it could look at; the delay is the policy's.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from bullpen import retry
from bullpen.handling import outcomes
from bullpen.handling.contexts import CancelReason
from bullpen.handling.outcomes import Circumstances
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import pack_command
from bullpen_worker import acks, lines
from bullpen_worker.acks import Subject
from bullpen_worker.admission import Admission, Terms
from bullpen_worker.control import Ticket
from bullpen_worker.hooks import JobEnd
from bullpen_worker.lines import Line
from bullpen_worker.templates import Templates

_PAUSE_S = 0.2


async def end_overdue(ticket: Ticket, *, line: Line, pack: Templates, admission: Admission) -> JobEnd | None:
    """Write that the job's attempt timed out; give what to count and log, None when the job was gone or not ours.

    Tried until Redis answers.
    """
    job_id = ticket.job_id.encode(errors="surrogateescape")
    token = ticket.token.encode(errors="surrogateescape")
    while True:
        try:
            return await _end(job_id, token, line, pack, admission)
        except ConnectionLost:
            continue  # `ready` waits; what was applied already finds the lock gone
        except ReplyError as error:
            if error.code == "NOSCRIPT":
                await line.load(await line.ready())
            elif not lines.passing(error):
                raise
            await asyncio.sleep(_PAUSE_S)


async def _end(job_id: bytes, token: bytes, line: Line, pack: Templates, admission: Admission) -> JobEnd | None:
    connection = await line.ready()
    flat = await connection.call(pack_command("HGETALL", pack.job_key(job_id)))
    if not isinstance(flat, list) or not flat:
        return None
    pairs = iter(flat)
    fields: dict[bytes, bytes] = dict(zip(pairs, pairs, strict=False))  # type: ignore[arg-type]  # a hash: bytes
    terms = admission.terms(fields)
    stored = StoredJob(job_id.decode(errors="replace"), fields, terms.opts)
    outcome = timed_out(stored, terms, now=datetime.now(UTC), rng=random.random)
    now_ms = time.time_ns() // 1_000_000
    ack = acks.plan(outcome, Subject(job_id, stored, terms.completed, terms.failed), token, now_ms, pack, fetch=False)
    if ack.replies == 1:
        reading = ack.read((await connection.call(ack.packed),))
    else:
        reading = ack.read(await connection.call_many(ack.packed, ack.replies))
    if reading.code:
        return None
    started_ms = stored.processed_on or now_ms
    failure = outcome.failure
    return JobEnd(
        stored.id, stored.name, stored.attempts_made + 1, terms.settings.retry.attempts, "timeout",
        max(0.0, started_ms - stored.timestamp - terms.delay_ms), now_ms - started_ms, failure.error_type,
        failure.reason, failure.stack,
    )  # fmt: skip


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

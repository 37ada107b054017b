"""What an outcome becomes on the wire, and what the answer means.

Pure: an `Ack` is the packed command (or several) with the places of the replies that matter; `Ack.read` turns the replies
into a `Reading`. Who sends it, again if need be, is `bullpen_worker.running.slots`.

An ack that does not fetch the next job may free a slot of the queue's total concurrency without telling anybody, so it
carries a marker in the same transaction. A Redis that is full takes BullMQ's scripts, which begin by freeing memory, but no
marker: there the ack goes without (`wake`), as nobody can fetch a job either. Codes below zero are BullMQ's: -1 the job's hash is gone, -2 its lock is,
-3 it is not in ``active``, -4 it has children that are not done, -6 the lock is somebody else's, -9 it has failed children.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from bullpen.handling import failures, outcomes
from bullpen.handling.failures import Failure
from bullpen.queue import records
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ReplyError
from bullpen.redis.wire import Reply
from bullpen_worker.reports.metrics import JobOutcome
from bullpen_worker.running import fetching, templates
from bullpen_worker.running.fetching import Empty
from bullpen_worker.running.templates import FinishOptions, Templates

MOST_TRACES: Final = 10
"""How many tracebacks a job keeps whose options set no ``stackTraceLimit``; BullMQ itself keeps them all."""

LONGEST_TRACE: Final = 16_384
"""Characters of one traceback that are kept: the end, where the error is."""

UNKNOWN_PAUSE_MS: Final = 30_000
"""How long a job that nobody knows waits before it is looked at again."""

CANCELLED_PREFIX: Final = "cancelled: "
EXPIRED: Final = "expired: the job had not started by its time"
_LABELS: Final[Mapping[type, JobOutcome]] = {
    outcomes.Completed: "completed",
    outcomes.Retried: "retried",
    outcomes.Failed: "failed",
    outcomes.Cancelled: "cancelled",
    outcomes.Expired: "expired",
    outcomes.LockLost: "lock_lost",
    outcomes.Snoozed: "released",
    outcomes.RateLimited: "released",
    outcomes.Released: "released",
}  # a job put off for want of a handler counts as released too
_SPENDING: Final = (outcomes.Completed, outcomes.Retried, outcomes.Failed, outcomes.Cancelled, outcomes.Expired)

GONE, LOCK_GONE, NOT_ACTIVE, PENDING_CHILDREN, LOCK_FOREIGN, FAILED_CHILDREN = -1, -2, -3, -4, -6, -9


class FetchedJob(NamedTuple):
    """A job that was just moved to active, under the token of the fetch."""

    id: bytes
    flat: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Subject:
    """The job that an ack is about."""

    id: bytes
    stored: StoredJob
    completed: FinishOptions
    failed: FinishOptions


@dataclass(frozen=True, slots=True)
class PutOff:
    """The job waits, its attempt unspent, for a worker that knows it; `since_ms` is when one first did not."""

    since_ms: int


Ending = outcomes.Outcome | PutOff
"""What becomes of a job that was fetched: what its handler said, or what the worker decided without it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the replies to an ack say. `code` is 0 when it was applied; `next` is what its fetch brought."""

    code: int
    next: FetchedJob | Empty


@dataclass(frozen=True, slots=True)
class Ack:
    """Commands that end an attempt: packed, how many replies they bring, and which of them matter.

    `fetch_at` is the place of the reply that may hold the next job, None when nothing is fetched; `telling` whether that
    reply, when it holds none, says why. `wrapped`: the ack is the `at`-th command of the transaction whose EXEC answers last.
    """

    packed: bytes
    replies: int = 1
    at: int = 0
    fetch_at: int | None = None
    wrapped: bool = False
    telling: bool = True

    def read(self, replies: Sequence[Reply]) -> Reading:
        """Give the meaning of the replies. Raises the `ReplyError` among those that matter."""
        values = replies
        if self.wrapped:
            values = transacted(replies)
        own = values[self.at]
        if isinstance(own, ReplyError):
            raise own
        code = own if isinstance(own, int) and own < 0 else 0
        if self.fetch_at is None:
            return Reading(code, fetching.UNTOLD)
        if code and self.fetch_at == self.at:
            return Reading(code, fetching.UNTOLD)
        found = read_fetch(values[self.fetch_at])
        return Reading(code, found if self.telling or isinstance(found, FetchedJob) else fetching.UNTOLD)

    def after(self, packed: bytes, replies: int) -> "Ack":
        """Give the ack with other commands in front, whose replies do not matter."""
        if not replies:
            return self
        shift = 0 if self.wrapped else replies
        return replace(
            self,
            packed=packed + self.packed,
            replies=self.replies + replies,
            at=self.at + shift,
            fetch_at=None if self.fetch_at is None else self.fetch_at + shift,
        )


def transacted(replies: Sequence[Reply]) -> list[Reply]:
    """Give what EXEC, the last of these replies, answers. Raises the `ReplyError` for which nothing was executed.

    That is the one of the command that Redis would not queue (full, a replica, without a disk to write to): EXEC itself only
    says that there was one.
    """
    answer = replies[-1]
    if isinstance(answer, list):
        return answer
    refused = next((reply for reply in replies[-2::-1] if isinstance(reply, ReplyError)), answer)
    raise refused if isinstance(refused, ReplyError) else ReplyError(f"ERR EXEC answered {answer!r}")


def read_fetch(reply: Reply) -> FetchedJob | Empty:
    """Give the meaning of a fetch's reply (``moveToActive``, or an ack that fetches). Raises it when it is an error."""
    if isinstance(reply, list) and len(reply) >= 4:
        flat, job_id, limited_ms, due_ms = reply[:4]
        if isinstance(flat, list) and isinstance(job_id, bytes):
            return FetchedJob(job_id, flat)  # type: ignore[arg-type]  # a hash: bytes throughout
        return Empty(_ms(limited_ms), _ms(due_ms)) if limited_ms or due_ms else fetching.NOTHING
    if isinstance(reply, ReplyError):
        raise reply
    return fetching.NOTHING


def plan(
    ending: Ending, subject: Subject, token: bytes, now_ms: int, pack: Templates, *, fetch: bool, wake: bool = True
) -> Ack:
    """Give the commands that write `ending`. Raises `ValueError` for a lost lock, of which nothing is written."""
    writing = _Writing(subject, token, now_ms, pack, fetch, wake)
    ack: Ack
    match ending:
        case outcomes.Completed():
            value = ending.value.encode()
            ack = writing.finished(pack.completed(subject.id, token, now_ms, value, subject.completed, fetch=fetch))
        case outcomes.Retried():
            ack = writing.retried(ending)
        case outcomes.Failed():
            ack = writing.failed(ending.failure)
        case outcomes.Cancelled():
            ack = writing.failed(Failure("bullpen.Cancel", CANCELLED_PREFIX + _writable(ending.reason), ""))
        case outcomes.Expired():
            ack = writing.failed(Failure("bullpen.Expired", EXPIRED, ""))
        case outcomes.Snoozed():
            ack = writing.put_off(ending.delay_ms, {"bullpen:snoozes": str(subject.stored.snoozes + 1)})
        case PutOff():
            ack = writing.put_off(UNKNOWN_PAUSE_MS, {"bullpen:unknown": str(ending.since_ms)})
        case outcomes.RateLimited():
            commands = (pack.rate_limit(max(ending.delay_ms, 1)), pack.release(subject.id, token))
            packed, replies = templates.transaction(*commands)
            ack = Ack(packed, replies, at=1, wrapped=True)
        case outcomes.Released():
            ack = writing.woken(pack.release(subject.id, token))
        case outcomes.LockLost():
            msg = "nothing is written of a job whose lock is lost"
            raise ValueError(msg)
    return ack


def failure_fields(failure: Failure, stored: StoredJob) -> dict[str, str]:
    """Give the fields of the job's hash that tell of a failure, BullMQ's and ours."""
    fields = {"failedReason": failure.reason, "stacktrace": json.dumps(_traces(failure.stack, stored))}
    if failure.error_type:
        fields["bullpen:error"] = records.error_field(failure.error_type)
    return fields


def label(ending: Ending) -> JobOutcome:
    """Give the name under which the outcome is counted and logged."""
    if isinstance(ending, outcomes.Retried | outcomes.Failed) and ending.timed_out:
        return "timeout"
    return _LABELS.get(type(ending), "released")


def spends_attempt(outcome: Ending) -> bool:
    """Whether the outcome, once written, has raised ``atm``."""
    return isinstance(outcome, _SPENDING)


@dataclass(frozen=True, slots=True)
class _Writing:
    """The commands of one ack in the making."""

    subject: Subject
    token: bytes
    now_ms: int
    pack: Templates
    fetch: bool
    wake: bool

    def finished(self, packed: bytes) -> Ack:
        return Ack(packed, fetch_at=0) if self.fetch else self.woken(packed)

    def woken(self, packed: bytes) -> Ack:
        if not self.wake:
            return Ack(packed)
        packed, replies = templates.transaction(packed, self.pack.wake)
        return Ack(packed, replies, wrapped=True)

    def failed(self, failure: Failure) -> Ack:
        subject = self.subject
        reason = failure.reason.encode(errors="replace")
        fields = failure_fields(failure, subject.stored)
        return self.finished(
            self.pack.failed(
                subject.id, self.token, self.now_ms, reason, subject.failed, fields=fields, fetch=self.fetch
            )
        )

    def retried(self, ending: outcomes.Retried) -> Ack:
        subject, pack = self.subject, self.pack
        fields = failure_fields(ending.failure, subject.stored)
        if ending.delay_ms:
            return self._delayed(ending.delay_ms, fields, spend_attempt=True)
        fields["bullpen:due"] = str(self.now_ms)
        lifo = subject.stored.opts.get("lifo") is True
        # No fetch behind it: it could bring the same job under the same token, and an ack that is repeated because its
        # reply was lost would then pass, and spend an attempt that never ran.
        return Ack(pack.retry(subject.id, self.token, self.now_ms, lifo=lifo, fields=fields))

    def put_off(self, delay_ms: int, fields: Mapping[str, str]) -> Ack:
        return self._delayed(delay_ms, fields, spend_attempt=False)

    def _delayed(self, delay_ms: int, fields: Mapping[str, str], *, spend_attempt: bool) -> Ack:
        packed = self.pack.delay(
            self.subject.id,
            self.token,
            self.now_ms,
            delay_ms,
            spend_attempt=spend_attempt,
            fields={**fields, "bullpen:due": str(self.now_ms + delay_ms)},
            fetch=self.fetch,
        )
        # moveToDelayed answers 0 for "nothing to fetch", and for a limit or a due time too: only a fetch would tell.
        return replace(self.finished(packed), telling=False)


def _writable(reason: str) -> str:
    """Give what a handler, or whoever cancelled, said, such that it can be written: it is anybody's text, of any length."""
    return reason[: failures.MAX_REASON_BYTES].encode(errors="backslashreplace").decode()


def _traces(stack: str, stored: StoredJob) -> list[str]:
    if not stack:
        return stored.stacktrace
    limit = stored.opts.get("stackTraceLimit")
    kept = limit if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else MOST_TRACES
    return [*stored.stacktrace, stack[-LONGEST_TRACE:]][-kept:] if kept else []


def _ms(value: Reply) -> int:
    """Read a time; 0 for none, and for one that Redis' whole numbers do not hold: that of a job which is delayed for ever."""
    try:
        return max(math.ceil(float(value)), 0) if isinstance(value, int | bytes) else 0
    except (ValueError, OverflowError):
        return 0

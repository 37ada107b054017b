"""What a queue's event stream says about a job, and what follows for those who wait for it. Pure.

BullMQ writes an entry for every change of a job. The stream is bounded, and trimmed under those who read it slowly. So who
waits first takes a place in the stream, then looks at the job itself, then reads on, and looks again now and then. A job
that is removed as it completes has its result in the stream alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from bullpen.errors import JobCancelled, JobFailed
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, QueueOperation, Reply, flat, items, text
from bullpen.queue.operations.jobs import FoundJob, State, cancelled_reason

BLOCK_MS: Final = 5_000
"""How long one read of the stream waits for news."""

LOOK_EVERY_SECONDS: Final = 5.0
"""How often a waiter looks at the job itself, in case the stream was trimmed before it was read."""

_ENTRIES: Final = 500

Change: TypeAlias = Literal["state", "progress", "completed", "failed", "removed"]

_STATE_OF: Final[Mapping[str, tuple[Change, State]]] = {
    "added": ("state", "waiting"),
    "waiting": ("state", "waiting"),
    "delayed": ("state", "delayed"),
    "active": ("state", "active"),
    "stalled": ("state", "waiting"),
    "waiting-children": ("state", "waiting-children"),
    "progress": ("progress", "active"),
    "completed": ("completed", "completed"),
    "failed": ("failed", "failed"),
    "removed": ("removed", "unknown"),
}


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One entry of the stream that is about one job."""

    id: str
    job_id: str
    change: Change
    state: State
    fields: Mapping[bytes, bytes]

    @property
    def at_ms(self) -> int:
        """When it was written, by Redis' clock."""
        return int(self.id.partition("-")[0])

    @property
    def ends(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self.change in {"completed", "failed", "removed"}


@dataclass(frozen=True)
class LastEventId(QueueOperation[str]):
    """Give the id of the stream's newest entry; what comes after it is news. ``0-0`` for an empty stream."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """One entry, backwards."""
        return (Command(("XREVRANGE", self.keys.events, "+", "-", "COUNT", 1)),)

    def read(self, replies: Sequence[Reply]) -> str:
        """Read its id."""
        found = items(replies[0])
        return text(items(found[0])[0]) if found else "0-0"


@dataclass(frozen=True)
class ReadEvents(QueueOperation["tuple[list[StreamEvent], str]"]):
    """Wait for entries after `after`, for up to `block_ms` (0: not at all); give them, and the id to go on from."""

    keys: QueueKeys
    after: str
    block_ms: int = BLOCK_MS

    repeatable: ClassVar[bool] = False  # who reads must know that the connection was lost: entries may be gone

    def commands(self) -> Sequence[Call]:
        """A read of one stream."""
        block = ("BLOCK", self.block_ms) if self.block_ms else ()
        return (Command(("XREAD", "COUNT", _ENTRIES, *block, "STREAMS", self.keys.events, self.after)),)

    def read(self, replies: Sequence[Reply]) -> tuple[list[StreamEvent], str]:
        """Read the entries; those about no job, or of a kind that is not known here, are passed over."""
        return read_entries(replies[0], self.after)


def read_entries(reply: Reply, after: str) -> tuple[list[StreamEvent], str]:
    """Read the reply of a read of one stream; give its events, and the id of the last entry."""
    streams = reply.items() if isinstance(reply, dict) else (items(stream) for stream in items(reply))
    found: list[StreamEvent] = []
    last = after
    for _, entries in streams:
        for entry_id, fields in (items(entry) for entry in items(entries)):
            last = text(entry_id)
            event = _event(last, flat(fields))
            if event is not None:
                found.append(event)
    return found, last


def _event(entry_id: str, fields: Mapping[bytes, bytes]) -> StreamEvent | None:
    known = _STATE_OF.get(fields.get(b"event", b"").decode(errors="replace"))
    job_id = fields.get(b"jobId")
    if known is None or job_id is None:
        return None
    return StreamEvent(entry_id, job_id.decode(errors="replace"), *known, fields)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has completed: its result, as JSON text."""

    returnvalue: bytes


def ended_by_hash(found: FoundJob) -> Ended | JobFailed | JobCancelled | None:
    """Say how the job ended, by its hash; None while it has not."""
    job = found.job
    if found.state == "completed":
        return Ended(job.returnvalue or b"null")
    if found.state != "failed":
        return None
    reason = job.failed_reason or "it failed for no reason that was kept"
    return failure(reason, error_type=job.error_type, attempts=job.attempts_made)


def ended_by_event(event: StreamEvent) -> Ended | JobFailed | JobCancelled | None:
    """Say how the job ended, by what the stream says; None where it says no end, or that the job was removed."""
    if event.change == "completed":
        return Ended(event.fields.get(b"returnvalue", b"null"))
    if event.change == "failed":
        return failure(event.fields.get(b"failedReason", b"").decode(errors="replace"), error_type="", attempts=0)
    return None


def failure(reason: str, *, error_type: str, attempts: int) -> JobFailed | JobCancelled:
    """Give the error for those who wait for a job that failed."""
    cancelled = cancelled_reason(reason)
    if cancelled is not None:
        return JobCancelled(cancelled)
    return JobFailed(reason, error_type=error_type, attempts=attempts)


def by_job(events: Sequence[StreamEvent], job_id: str) -> Iterator[StreamEvent]:
    """Give those of one job."""
    return (event for event in events if event.job_id == job_id)

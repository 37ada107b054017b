"""What callers see of a job: `JobInfo` of its hash, `JobEvent` of the stream. Pure."""

import json

from pydantic import JsonValue

from bullpen.clients.events import StreamEvent
from bullpen.jobs import JobEvent, JobInfo, moment
from bullpen.queue.operations.jobs import FoundJob, cancelled_reason
from bullpen.queue.policy import QueuePolicy


def info(queue: str, found: FoundJob, policy: QueuePolicy) -> JobInfo:
    """Give what is known of a job. A payload that is no JSON counts as None."""
    job = found.job
    error = job.failed_reason
    cancelled = found.state == "failed" and error is not None and cancelled_reason(error) is not None
    return JobInfo(
        id=job.id,
        name=job.name,
        queue=queue,
        state="cancelled" if cancelled else found.state,
        data=_json(job.data),
        attempt=job.attempts_made + (found.state == "active"),
        attempts=policy.settings_for(job.name, job.opts).retry.attempts,
        enqueued_at=moment(job.timestamp),
        priority=job.priority,
        snoozes=job.snoozes,
        progress=job.progress,
        error=error,
        started_at=None if job.processed_on is None else moment(job.processed_on),
        finished_at=None if job.finished_on is None else moment(job.finished_on),
    )


def event(found: StreamEvent, progress: JsonValue) -> JobEvent:
    """Give one change of a job; `progress` is what was reported last."""
    reason = found.fields.get(b"failedReason", b"").decode(errors="replace")
    cancelled = found.change == "failed" and cancelled_reason(reason) is not None
    state = "removed" if found.change == "removed" else "cancelled" if cancelled else found.state
    return JobEvent(found.change, state, progress, moment(found.at_ms))


def final_event(found: FoundJob) -> JobEvent | None:
    """Give the last change of a job that has ended; None for one that has not."""
    if found.state != "completed" and found.state != "failed":  # noqa: PLR1714 - so that the type narrows
        return None
    reason = found.job.failed_reason
    cancelled = found.state == "failed" and reason is not None and cancelled_reason(reason) is not None
    at = moment(found.job.finished_on or 0)
    return JobEvent(found.state, "cancelled" if cancelled else found.state, found.job.progress, at)


def progress_of(found: StreamEvent, before: JsonValue) -> JsonValue:
    """Give the progress after this change."""
    return _json(found.fields.get(b"data", b"null")) if found.change == "progress" else before


def _json(raw: bytes) -> JsonValue:
    try:
        value: JsonValue = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value

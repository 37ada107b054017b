"""Steps by which a client controls one job: what several operations make together, or one with an error for its answer."""

from typing import Final

from bullpen.errors import JobGone, JobNotEnded, JobScheduled
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Steps, do
from bullpen.queue.operations.jobs import CancelJob, Cancelling, FoundJob, GetJob, PromoteJob, RemoveJob, RetryJob
from bullpen.queue.operations.queues import ReadPolicy

MAX_REASON: Final = 1_024
"""The most characters of why a job was cancelled: it is copied into the job and into the queue's events."""


def find(keys: QueueKeys, job_id: str) -> Steps[FoundJob]:
    """Give the job and its state. Raises `JobGone`."""
    found = yield from do(GetJob(keys, job_id))
    if found is None:
        raise gone(keys, job_id)
    return found


def cancel(keys: QueueKeys, job_id: str, reason: str, now_ms: int) -> Steps[Cancelling]:
    """Cancel the job, kept afterwards as its options and the queue's policy say for failed jobs. The reason is cut."""
    reason = reason[:MAX_REASON].encode(errors="backslashreplace").decode()
    found = yield from do(GetJob(keys, job_id))
    if found is None:
        return "gone"
    policy = yield from do(ReadPolicy(keys))
    keep = policy.settings_for(found.job.name, found.job.opts).keep_failed
    return (yield from do(CancelJob(keys, job_id, reason, now_ms, keep)))


def remove(keys: QueueKeys, job_id: str) -> Steps[bool]:
    """Remove the job; False for one that runs, or is gone. Raises `JobScheduled`."""
    answer = yield from do(RemoveJob(keys, job_id))
    if answer == "scheduled":
        msg = f"job {job_id} of queue {keys.queue!r} is the next run of a schedule: remove the schedule"
        raise JobScheduled(msg)
    return answer == "removed"


def promote(keys: QueueKeys, job_id: str) -> Steps[bool]:
    """Let the delayed job wait at once; False for one that is not delayed. Raises `JobGone`."""
    promoted = yield from do(PromoteJob(keys, job_id))
    if not promoted:
        yield from find(keys, job_id)
    return promoted


def retry(keys: QueueKeys, job_id: str, *, reset_attempts: bool) -> Steps[None]:
    """Let the job that has ended wait anew. Raises `JobGone`, `JobNotEnded`."""
    found = yield from find(keys, job_id)
    state = found.state
    if state == "completed" or state == "failed":  # noqa: PLR1714 - so that the type narrows
        lifo = bool(found.job.opts.get("lifo"))
        answer = yield from do(RetryJob(keys, job_id, state, reset_attempts, lifo))
        if answer == "gone":
            raise gone(keys, job_id)
        if answer == "retried":
            return
    msg = f"job {job_id} of queue {keys.queue!r} is {state}: only one that has ended can be retried"
    raise JobNotEnded(msg)


def gone(keys: QueueKeys, job_id: str) -> JobGone:
    """Give the error for a job that is not there."""
    return JobGone(
        f"there is no job {job_id} in queue {keys.queue!r}: it was never enqueued, was removed, or has ended and was "
        "trimmed by the queue's retention"
    )

"""Adding jobs to a queue in memory: ids that are there already, deduplication, and the limit of waiting jobs.

The decisions are those of BullMQ's add scripts and of the guard that stands in front of them in Redis.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from bullpen.queue.operations.adding import AddJobs, NewJob, Refusal
from bullpen.testing.memory import DeduplicationKey, MemoryQueue


def add(queue: MemoryQueue, wanted: AddJobs, now_ms: int) -> tuple[str, ...] | Refusal:
    """Add all jobs, or none where it gives a refusal. Gives their ids: another job's, where one is a duplicate."""
    if wanted.policy_rev != queue.policy.rev:
        return Refusal.STALE_POLICY
    if not _make_room(queue, wanted, now_ms):
        return Refusal.FULL
    return tuple(_add(queue, job, now_ms) for job in wanted.jobs)


def _make_room(queue: MemoryQueue, wanted: AddJobs, now_ms: int) -> bool:
    if wanted.waiting_limit is None or not wanted.coming:
        return True
    excess = len(queue.waiting) + len(queue.prioritized) + wanted.coming - wanted.waiting_limit
    if excess <= 0:
        return True
    found = [_there(queue, job, now_ms) for job in wanted.jobs if job.shape.waits]
    spared = {job_id for job_id in found if job_id is not None}  # a newcomer that is a duplicate adds nothing
    excess -= len(found) - found.count(None)
    if excess <= 0 or None not in found:
        return True
    if wanted.on_full == "Reject":
        return False
    may_go = (job_id for job_id in _by_urgency(queue) if b"rjk" not in queue.hashes[job_id])
    victims = [job_id for job_id in may_go if job_id not in spared][:excess]
    if len(victims) < excess:
        return False
    for job_id in victims:
        queue.remove(job_id, now_ms)
    return True


def _there(queue: MemoryQueue, job: NewJob, now_ms: int) -> str | None:
    """Give the id of the job that is there and that this one is, or is a duplicate of."""
    if job.id in queue.hashes:
        return job.id
    options = job.shape.deduplication
    key = None if options is None else queue.deduplication.get(str(options["id"]))
    if options is None or key is None or (key.expires_ms is not None and key.expires_ms <= now_ms):
        return None
    if (key.expires_ms is None and key.job_id not in queue.hashes) or (
        options.get("replace") and key.job_id in queue.delayed
    ):
        return None
    return key.job_id


def _by_urgency(queue: MemoryQueue) -> list[str]:
    """Give the waiting jobs, the least urgent priority first and the oldest in it; those without a priority last."""
    ids = list(queue.prioritized)
    levels = sorted({queue.hashes[job_id][b"priority"] for job_id in ids}, key=int, reverse=True)
    in_order = [job_id for level in levels for job_id in ids if queue.hashes[job_id][b"priority"] == level]
    return in_order + list(reversed(queue.waiting))


def _add(queue: MemoryQueue, job: NewJob, now_ms: int) -> str:
    if job.id in queue.hashes:
        queue.trail.write("duplicated", job.id, now_ms)
        return job.id
    options = job.shape.deduplication
    if options is not None:
        other = _deduplicate(queue, job, options, now_ms)
        if other is not None:
            return other
    queue.put(job, now_ms)
    return job.id


def _deduplicate(queue: MemoryQueue, job: NewJob, options: Mapping[str, JsonValue], now_ms: int) -> str | None:
    """Give the id of the job that this one is a duplicate of; None when it is to be added."""
    dedup_id = str(options["id"])
    key = queue.deduplication.get(dedup_id)
    if key is None or (key.expires_ms is not None and key.expires_ms <= now_ms):
        queue.deduplication[dedup_id] = _key(job.id, options, now_ms)
        return None
    if options.get("replace") and queue.delayed.remove(key.job_id):
        _replace(queue, job, key, options, now_ms)
        return None
    if key.expires_ms is None and key.job_id not in queue.hashes:  # left behind by a job that is no more
        queue.next_of.pop(dedup_id, None)
        queue.deduplication[dedup_id] = _key(job.id, options, now_ms)
        return None
    if not _keep_for_later(queue, job, key, options, now_ms) and not options.get("replace"):
        if options.get("extend") and options.get("ttl"):
            queue.deduplication[dedup_id] = _key(key.job_id, options, now_ms)
        _note(queue, key.job_id, dedup_id, job.id, now_ms)
    return key.job_id


def _replace(
    queue: MemoryQueue, job: NewJob, key: DeduplicationKey, options: Mapping[str, JsonValue], now_ms: int
) -> None:
    dedup_id = str(options["id"])
    queue.hashes.pop(key.job_id, None)
    queue.logs.pop(key.job_id, None)
    queue.trail.write("removed", key.job_id, now_ms, {"prev": "delayed"})
    _note(queue, job.id, dedup_id, key.job_id, now_ms)
    queue.next_of.pop(dedup_id, None)
    fresh = _key(job.id, options, now_ms)
    if not options.get("extend") and fresh.expires_ms is not None:
        fresh.expires_ms = key.expires_ms
    queue.deduplication[dedup_id] = fresh


def _keep_for_later(
    queue: MemoryQueue, job: NewJob, key: DeduplicationKey, options: Mapping[str, JsonValue], now_ms: int
) -> bool:
    if not options.get("keepLastIfActive") or key.job_id not in queue.active:
        return False
    dedup_id = str(options["id"])
    queue.next_of[dedup_id] = job
    key.expires_ms = None
    _note(queue, key.job_id, dedup_id, job.id, now_ms)
    return True


def _key(job_id: str, options: Mapping[str, JsonValue], now_ms: int) -> DeduplicationKey:
    ttl = options.get("ttl")
    lasts = not options.get("keepLastIfActive") and isinstance(ttl, int) and ttl > 0
    return DeduplicationKey(job_id, now_ms + ttl if lasts and isinstance(ttl, int) else None)


def _note(queue: MemoryQueue, job_id: str, dedup_id: str, other: str, now_ms: int) -> None:
    fields = {"deduplicationId": dedup_id, "deduplicatedJobId": other}
    queue.trail.write("deduplicated", job_id, now_ms, fields)

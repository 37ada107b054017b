"""Schedules in memory: the operations of `bullpen.queue.schedules`, with the slots of an interval counted as BullMQ's scripts do."""

from typing import Final

from bullpen.queue.operations.adding import JobShape, NewJob
from bullpen.queue.records import Opts
from bullpen.queue.schedules import AdvanceSchedule, Schedule, UpsertSchedule
from bullpen.testing.memory import MemoryQueue, run_id

_MOST_SLOTS: Final = 32


def upsert(queue: MemoryQueue, wanted: UpsertSchedule) -> bool:
    """Begin a schedule; False when its next run is there already. One is begun once in a harness: it starts empty."""
    schedule = wanted.schedule
    next_ms = wanted.next_ms  # an interval begins at once
    queue.schedules[schedule.id] = schedule
    return _add(queue, schedule, next_ms, wanted.now_ms, schedule.data.encode(), count=1)


def advance(queue: MemoryQueue, wanted: AdvanceSchedule) -> str | None:
    """Add the run after the one that has just started; give its id."""
    schedule = queue.schedules.get(wanted.id)
    last_ms = queue.next_runs.get(wanted.id)
    if schedule is None or last_ms is None or wanted.producer_id != run_id(wanted.id, last_ms):
        return None
    next_ms = wanted.next_ms if schedule.every_ms is None else _next_slot(schedule.every_ms, last_ms, wanted.now_ms)
    repeat = wanted.opts.get("repeat")
    count = repeat.get("count") if isinstance(repeat, dict) else None
    _add(queue, schedule, next_ms, wanted.now_ms, wanted.data, count=count if isinstance(count, int) else 1)
    return run_id(wanted.id, queue.next_runs[wanted.id])


def _next_slot(every_ms: int, last_ms: int, now_ms: int) -> int:
    """Give the slot after the last one; after a long time, the next that lies ahead."""
    next_ms = last_ms + every_ms
    if next_ms >= now_ms:
        return next_ms
    aligned = now_ms // every_ms * every_ms + last_ms % every_ms
    return aligned if aligned > now_ms else aligned + every_ms


def _add(queue: MemoryQueue, schedule: Schedule, next_ms: int, now_ms: int, data: bytes, *, count: int) -> bool:
    every_ms, slots = schedule.every_ms, 0
    while run_id(schedule.id, next_ms) in queue.hashes:
        if every_ms is None or slots >= _MOST_SLOTS:
            return False
        next_ms, slots = next_ms + every_ms, slots + 1
    queue.next_runs[schedule.id] = next_ms
    job_id, delay_ms = run_id(schedule.id, next_ms), max(0, next_ms - now_ms)
    opts: Opts = {
        **schedule.opts,
        "jobId": job_id,
        "delay": delay_ms,
        "timestamp": now_ms,
        "repeatJobKey": schedule.id,
        "repeat": {**schedule.repeat, "count": count},
        **({} if every_ms else {"prevMillis": next_ms}),
    }
    priority = schedule.opts.get("priority")
    shape = JobShape(queue.keys, schedule.job, opts, delay_ms, priority if isinstance(priority, int) else 0)
    queue.put(NewJob(shape, job_id, data, now_ms), now_ms, rjk=schedule.id)
    return True

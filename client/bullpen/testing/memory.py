"""A queue in memory: the state that BullMQ keeps in Redis, and its scripts' moves on it.

Each move does what the script of its name does, in the same order, for one queue and without locks: nobody else is there. What
is not here cannot happen in a harness: children of flows, lost locks, the lists of BullMQ before version 6.
https://github.com/taskforcesh/bullmq/tree/master/src/commands
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bullpen.queue import records
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import NewJob
from bullpen.queue.operations.jobs import FoundJob, State
from bullpen.queue.policy import BUILT_IN, KeepJobs, QueuePolicy
from bullpen.queue.records import StoredJob
from bullpen.queue.schedules import Schedule
from bullpen.testing.scores import ScoredSet
from bullpen.testing.trail import Trail

_LEVEL: Final = 0x100000000
_SLOTS_PER_MS: Final = 4_096
_MOST_JOBS: Final = 2**53 - 1
_MOST_REMOVED: Final = 1_000

Cell = str | bytes | int


@dataclass(slots=True)
class DeduplicationKey:
    """Which job counts for a deduplication id, and until when (None: until it ends)."""

    job_id: str
    expires_ms: int | None = None


class MemoryQueue:
    """One queue. `on_cancel` is told of orders to cancel a job that runs."""

    def __init__(self, keys: QueueKeys, *, on_cancel: Callable[[str, str], object]) -> None:
        self.keys = keys
        self.policy: QueuePolicy = BUILT_IN
        self.paused = False
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.logs: dict[str, list[str]] = {}
        self.waiting: deque[str] = deque()
        """The right end is next."""
        self.prioritized = ScoredSet()
        self.delayed = ScoredSet()
        self.active: list[str] = []
        """In the order of their starts."""
        self.completed = ScoredSet()
        self.failed = ScoredSet()
        self.trail = Trail()
        self.deduplication: dict[str, DeduplicationKey] = {}
        self.next_of: dict[str, NewJob] = {}
        """By deduplication id, what is added when the job that runs has ended."""
        self.schedules: dict[str, Schedule] = {}
        self.next_runs: dict[str, int] = {}
        """By schedule, when it runs next, in ms."""
        self._on_cancel = on_cancel
        self._counter = 0
        self._limit_count = 0
        self._limit_ends_ms = 0

    # -- reading -------------------------------------------------------------

    def job(self, job_id: str) -> StoredJob | None:
        """Give the job as it lies here now."""
        fields = self.hashes.get(job_id)
        return None if fields is None else StoredJob(job_id, dict(fields))

    def find(self, job_id: str) -> FoundJob | None:
        """Give the job and its state."""
        job = self.job(job_id)
        return None if job is None else FoundJob(job, self.state_of(job_id))

    def state_of(self, job_id: str) -> State:
        """Say where the job is."""
        places: tuple[tuple[State, object], ...] = (
            ("completed", self.completed),
            ("failed", self.failed),
            ("delayed", self.delayed),
            ("prioritized", self.prioritized),
            ("active", self.active),
            ("waiting", self.waiting),
        )
        return next((state for state, ids in places if job_id in ids), "unknown")  # type: ignore[operator]

    def listed(self, state: str, *, newest_first: bool = False) -> list[str]:
        """Give the ids in a state: those that come next, or came to it first, before the others."""
        found: dict[str, Iterable[str]] = {
            "waiting": reversed(self.waiting),
            "prioritized": self.prioritized,
            "delayed": self.delayed,
            "active": self.active,
            "completed": self.completed,
            "failed": self.failed,
        }
        ids = list(found.get(state, ()))
        return ids[::-1] if newest_first else ids

    def counts(self) -> dict[str, int]:
        """Count the jobs by state."""
        return {
            "waiting": len(self.waiting),
            "prioritized": len(self.prioritized),
            "delayed": len(self.delayed),
            "active": len(self.active),
            "completed": len(self.completed),
            "failed": len(self.failed),
            "waiting-children": 0,
        }

    def is_maxed(self) -> bool:
        """Whether nothing may start: the queue is paused, or as many jobs run as may run at once."""
        total = self.policy.concurrency_total
        return self.paused or (total is not None and len(self.active) >= total)

    def next_ms(self, now_ms: int) -> int | None:
        """Say from when on a job can start: not after `now_ms` when it can at once, None when time alone changes nothing."""
        if self.is_maxed():
            return None
        due = self.delayed.first_score()
        found = [] if due is None else [due // _SLOTS_PER_MS]
        if self.waiting or self.prioritized:
            found.append(now_ms)
        return max(min(found), self._limited_until_ms(now_ms)) if found else None

    # -- adding --------------------------------------------------------------

    def put(self, job: NewJob, now_ms: int, *, rjk: str | None = None) -> None:
        """Store a job and file it: `storeAndEnqueueJob`."""
        shape = job.shape
        text = json.dumps(records.wire_opts(shape.opts), separators=(",", ":"), ensure_ascii=False)
        fields: dict[str, Cell] = {
            "name": shape.name,
            "data": job.data,
            "opts": text,
            "timestamp": job.timestamp_ms,
            "delay": shape.delay_ms,
            "priority": shape.priority,
        }
        if rjk is not None:
            fields["rjk"] = rjk
        if shape.deduplication is not None:
            fields["deid"] = str(shape.deduplication["id"])
        self.hashes[job.id] = {}
        self.write(job.id, fields)
        self.trail.write("added", job.id, now_ms, {"name": shape.name})
        if shape.delay_ms:
            self._delay(job.id, job.timestamp_ms + shape.delay_ms, now_ms)
            return
        self._enqueue(job.id, lifo=shape.lifo)
        self.trail.write("waiting", job.id, now_ms)

    # -- starting ------------------------------------------------------------

    def fetch(self, now_ms: int) -> StoredJob | None:
        """Start the next job that may start: `moveToActive`."""
        self._promote_due(now_ms)
        if self._limited_until_ms(now_ms) > now_ms or self.is_maxed():
            return None
        job_id = self.waiting.pop() if self.waiting else self.prioritized.pop_first()
        if job_id is None:
            self._counter = 0
            return None
        self.active.append(job_id)
        fields = self.hashes[job_id]
        limit = self.policy.rate_limit
        if limit is not None and b"defa" not in fields:
            if now_ms >= self._limit_ends_ms:
                self._limit_count, self._limit_ends_ms = 0, now_ms + limit.per_ms
            self._limit_count += 1
        self.trail.write("active", job_id, now_ms, {"prev": "waiting"})
        self.write(job_id, {"processedOn": now_ms, "pb": "harness"})
        self._increase(job_id, b"ats")
        return self.job(job_id)

    def limit_for(self, delay_ms: int, now_ms: int) -> None:
        """Let nothing start for so long, as `Queue.rateLimit` does."""
        self._limit_count, self._limit_ends_ms = _MOST_JOBS, now_ms + max(delay_ms, 1)

    # -- ending --------------------------------------------------------------

    def finish(
        self,
        job_id: str,
        state: Literal["completed", "failed"],
        value: str,
        now_ms: int,
        *,
        keep: KeepJobs,
        fields: Mapping[str, Cell] | None = None,
    ) -> None:
        """End a job that runs: `moveToFinished`. `value` is its result as JSON, or why it failed."""
        self.write(job_id, fields or {})
        self.active.remove(job_id)
        name = "returnvalue" if state == "completed" else "failedReason"
        self._end_deduplication(job_id, now_ms)
        self._increase(job_id, b"atm")
        if keep.get("count") == 0:
            self._forget(job_id)
        else:
            (self.completed if state == "completed" else self.failed).add(job_id, now_ms)
            self.write(job_id, {name: value, "finishedOn": now_ms})
            if state == "failed":
                self.hashes[job_id].pop(b"defa", None)
            self._trim(state, keep, now_ms)
        self.trail.write(state, job_id, now_ms, {name: value, "prev": "active"})

    def retry(self, job_id: str, now_ms: int, fields: Mapping[str, Cell], *, lifo: bool) -> None:
        """Let a job that runs wait at once for its next attempt: `retryJob`."""
        self._promote_due(now_ms)
        self.write(job_id, fields)
        self.active.remove(job_id)
        self._enqueue(job_id, lifo=lifo)
        self._increase(job_id, b"atm")
        self.trail.write("waiting", job_id, now_ms, {"prev": "active"})

    def delay(
        self, job_id: str, delay_ms: int, now_ms: int, fields: Mapping[str, Cell], *, spend_attempt: bool
    ) -> None:
        """Put a job that runs off: `moveToDelayed`."""
        self.write(job_id, fields)
        self.active.remove(job_id)
        if spend_attempt:
            self._increase(job_id, b"atm")
        self.write(job_id, {"delay": delay_ms})
        self._delay(job_id, now_ms + delay_ms, now_ms)

    def release(self, job_id: str, now_ms: int) -> None:
        """Put a job that runs back to the front, its attempt unspent: `moveJobFromActiveToWait`."""
        self.active.remove(job_id)
        priority = self._priority(job_id)
        if priority:
            self.prioritized.add(job_id, priority * _LEVEL)
        else:
            self.waiting.append(job_id)
        self.trail.write("waiting", job_id, now_ms, {"prev": "active"})

    # -- control -------------------------------------------------------------

    def promote(self, job_id: str, now_ms: int) -> bool:
        """Let a delayed job wait at once: `promote`."""
        if not self.delayed.remove(job_id):
            return False
        self._enqueue(job_id)
        self.trail.write("waiting", job_id, now_ms, {"prev": "delayed"})
        self.write(job_id, {"delay": 0})
        return True

    def reprocess(
        self, job_id: str, state: Literal["completed", "failed"], now_ms: int, *, reset: bool, lifo: bool
    ) -> Literal["retried", "gone", "not-ended"]:
        """Let a job that has ended wait anew: `reprocessJob`, and what our script does after it."""
        fields = self.hashes.get(job_id)
        if fields is None:
            return "gone"
        if not (self.completed if state == "completed" else self.failed).remove(job_id):
            return "not-ended"
        ended_with = b"returnvalue" if state == "completed" else b"failedReason"
        counts = (b"atm", b"ats", b"stc", *(b"bullpen:" + name for name in _COUNTS)) if reset else ()
        for name in (b"finishedOn", b"processedOn", ended_with, b"bullpen:error", *counts):
            fields.pop(name, None)
        self._enqueue(job_id, lifo=lifo)
        self.trail.write("waiting", job_id, now_ms, {"prev": state})
        return "retried"

    def remove(self, job_id: str, now_ms: int) -> Literal["removed", "gone", "active", "scheduled"]:
        """Remove a job that does not run: `removeJob`."""
        if job_id not in self.hashes:
            return "gone"
        if self.is_next_run(job_id):
            return "scheduled"
        if job_id in self.active:
            return "active"
        state = self.state_of(job_id)
        self._take_out(job_id)
        self.forget_deduplication(job_id)
        self._forget(job_id)
        self.trail.write("removed", job_id, now_ms, {"prev": state})
        return "removed"

    def cancel(
        self, job_id: str, reason_text: str, reason: str, keep: KeepJobs, now_ms: int
    ) -> Literal["cancelled", "told", "scheduled", "completed", "failed", "gone"]:
        """Cancel a job: our script of that name."""
        if job_id not in self.hashes:
            return "gone"
        if job_id in self.active:
            self._on_cancel(job_id, reason)
            return "told"
        if job_id in self.failed:
            return "failed"
        if job_id in self.completed:
            return "completed"
        if self.is_next_run(job_id):
            return "scheduled"
        self._take_out(job_id)
        self.active.append(job_id)
        fields = {"bullpen:error": records.error_field("Cancelled")}
        self.finish(job_id, "failed", reason_text, now_ms, keep=keep, fields=fields)
        return "cancelled"

    def is_next_run(self, job_id: str) -> bool:
        """Whether the job is the next run of a schedule, which would end with it."""
        schedule = self.hashes.get(job_id, {}).get(b"rjk", b"").decode()
        return schedule in self.next_runs and job_id == run_id(schedule, self.next_runs[schedule])

    # -- inside --------------------------------------------------------------

    def write(self, job_id: str, fields: Mapping[str, Cell]) -> None:
        """Set fields of the job's hash."""
        there = self.hashes[job_id]
        for name, value in fields.items():
            there[name.encode()] = value if isinstance(value, bytes) else str(value).encode(errors="replace")

    def forget_deduplication(self, job_id: str) -> None:
        """Let the job's deduplication id go, if the job is what counts for it, and what was to follow."""
        dedup_id = self.hashes[job_id].get(b"deid", b"").decode()
        key = self.deduplication.get(dedup_id)
        if key is not None and key.job_id == job_id:
            del self.deduplication[dedup_id]
            self.next_of.pop(dedup_id, None)

    def _limited_until_ms(self, now_ms: int) -> int:
        limit = self.policy.rate_limit
        most = _MOST_JOBS if limit is None else limit.jobs
        return self._limit_ends_ms if self._limit_count >= most and self._limit_ends_ms > now_ms else 0

    def _promote_due(self, now_ms: int) -> None:
        for job_id in self.delayed.up_to((now_ms + 1) * _SLOTS_PER_MS - 1)[:1_000]:
            self.delayed.remove(job_id)
            self._enqueue(job_id)
            self.trail.write("waiting", job_id, now_ms, {"prev": "delayed"})
            self.write(job_id, {"delay": 0})

    def _enqueue(self, job_id: str, *, lifo: bool = False) -> None:
        priority = self._priority(job_id)
        if priority:
            self._counter += 1
            self.prioritized.add(job_id, priority * _LEVEL + self._counter % _LEVEL)
        elif lifo:
            self.waiting.append(job_id)
        else:
            self.waiting.appendleft(job_id)

    def _delay(self, job_id: str, until_ms: int, now_ms: int) -> None:
        """File it behind those of the same millisecond."""
        least = until_ms * _SLOTS_PER_MS
        most = least + _SLOTS_PER_MS - 1
        highest = self.delayed.highest(least, most)
        self.delayed.add(job_id, least if highest is None else min(highest + 1, most))
        self.trail.write("delayed", job_id, now_ms, {"delay": str(until_ms)})

    def _end_deduplication(self, job_id: str, now_ms: int) -> None:
        dedup_id = self.hashes[job_id].get(b"deid", b"").decode()
        if not dedup_id:
            return
        key = self.deduplication.get(dedup_id)
        if key is not None and key.expires_ms is None and key.job_id == job_id:
            del self.deduplication[dedup_id]
        following = self.next_of.pop(dedup_id, None)
        if following is not None:
            self.deduplication[dedup_id] = DeduplicationKey(following.id)
            self.put(following, now_ms)

    def _trim(self, state: Literal["completed", "failed"], keep: KeepJobs, now_ms: int) -> None:
        ended = self.completed if state == "completed" else self.failed
        age, count = keep.get("age"), keep.get("count")
        gone = [] if age is None else ended.up_to(now_ms - age * 1_000)[-_MOST_REMOVED:]
        for job_id in gone:
            ended.remove(job_id)
            self._forget(job_id)
        for job_id in ended.but_the_last(count) if count is not None and count > 0 else []:
            ended.remove(job_id)
            self._forget(job_id)

    def _take_out(self, job_id: str) -> None:
        for ids in (self.delayed, self.prioritized, self.completed, self.failed):
            ids.remove(job_id)
        if job_id in self.waiting:
            self.waiting.remove(job_id)

    def _forget(self, job_id: str) -> None:
        self.hashes.pop(job_id, None)
        self.logs.pop(job_id, None)

    def _priority(self, job_id: str) -> int:
        return int(self.hashes[job_id].get(b"priority", b"0"))

    def _increase(self, job_id: str, field: bytes) -> None:
        fields = self.hashes[job_id]
        fields[field] = b"%d" % (int(fields.get(field, b"0")) + 1)


_COUNTS: Final = (b"snoozes", b"company", b"suspect", b"crashes", b"unknown")


def run_id(schedule: str, at_ms: int) -> str:
    """Give the id of a schedule's run at that time, as BullMQ names it."""
    return f"repeat:{schedule}:{at_ms}"

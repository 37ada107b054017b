"""What a scaler has to know of a queue, read in one command: counts, what is due, limits, the oldest job.

The reading is of one instant, by Redis' own clock. What cannot be read raises; nothing here turns an error into a zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Self

from bullpen.errors import BullpenError
from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Eval, QueueOperation
from bullpen.scaling.observation import Observation, RateLimit

LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999: what a server says of later is no time."""


class UnreadableQueue(BullpenError):
    """Redis answered, but not as a queue does."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One queue at one instant. Times are in ms since the epoch; None means that there is none."""

    at_ms: int
    waiting: int
    paused_waiting: int
    """Jobs in the list that BullMQ before version 6 keeps while a queue is paused."""
    prioritized: int
    active: int
    delayed: int
    due: int
    """Delayed jobs that start within the horizon that was asked for."""
    next_due_ms: int | None
    scheduled: int
    """Schedules whose next run, one of the delayed jobs, starts within the horizon."""
    waiting_children: int
    completed: int
    failed: int
    """Completed and failed jobs that are still kept."""
    paused: bool
    total_concurrency: int | None
    rate_jobs: int | None
    rate_per_ms: int | None
    limited_for_ms: int | None
    """How long nothing starts because of the rate limit."""
    oldest_ms: int | None
    """Since when the job that is next has been waiting; under priorities, that of either kind which waits longer."""
    completed_total: int | None
    failed_total: int | None
    """Counts that only grow, where workers keep BullMQ's metrics."""

    @property
    def backlog(self) -> int:
        """Jobs that could start now."""
        return self.waiting + self.paused_waiting + self.prioritized

    @property
    def finished_total(self) -> int | None:
        """Jobs that ever ended, where workers keep BullMQ's metrics."""
        if self.completed_total is None and self.failed_total is None:
            return None
        return (self.completed_total or 0) + (self.failed_total or 0)

    def observed(
        self,
        *,
        replicas: int,
        ready: int,
        starting: int,
        busy: int | None,
        startup_ms: int | None,
        cannot_start: str = "",
        mean_run_ms: float | None = None,
    ) -> Observation:
        """Join the reading with what is known of the workers: the input of a scaling decision."""
        finished = self.finished_total
        rate = None
        if self.rate_jobs is not None and self.rate_per_ms:
            rate = RateLimit(jobs=self.rate_jobs, per_ms=self.rate_per_ms)
        return Observation(
            at_ms=self.at_ms,
            waiting=self.waiting + self.paused_waiting,
            prioritized=self.prioritized,
            delayed_due=self.due,
            next_due_ms=self.next_due_ms,
            active=self.active,
            paused=self.paused,
            oldest_ms=self.oldest_ms,
            # A job that was removed unfinished is missed here; the rate that is learned from it forgets in seconds.
            added_total=None if finished is None else finished + self.backlog + self.active + self.delayed,
            finished_total=finished,
            mean_run_ms=mean_run_ms,
            total_concurrency=self.total_concurrency,
            rate_limit=rate,
            replicas=replicas,
            ready=ready,
            starting=starting,
            busy=busy,
            startup_ms=startup_ms,
            cannot_start=cannot_start,
        )

    @classmethod
    def parse(cls, reply: object) -> Self:
        """Read the script's reply. Raises `UnreadableQueue` for one of another form."""
        if not isinstance(reply, Sequence) or len(reply) != len(FIELDS):
            msg = f"the queue cannot be read: a reply of {len(FIELDS)} numbers was expected, not {type(reply).__name__}"
            raise UnreadableQueue(msg)
        values: dict[str, int | bool | None] = {}
        for name, value in zip(FIELDS, reply, strict=True):
            if not isinstance(value, int):
                msg = f"the queue cannot be read: {name} is no number"
                raise UnreadableQueue(msg)
            values[name] = value
        for name in _OPTIONAL:
            # PTTL says -2 for a key that is not there, and -1 for one that never expires.
            values[name] = None if (value := values[name]) is not None and value < 0 else value
        at_ms = values["at_ms"]
        if at_ms is None or not 0 <= at_ms <= LATEST_MS:
            msg = "the queue cannot be read: what Redis calls the time of now is none"
            raise UnreadableQueue(msg)
        for name in ("oldest_ms", "next_due_ms"):
            values[name] = None if (value := values[name]) is None else min(value, LATEST_MS)
        values["paused"] = values["paused"] == 1
        return cls(**values)  # type: ignore[arg-type]


FIELDS = tuple(field.name for field in fields(Reading))
_OPTIONAL = tuple(field.name for field in fields(Reading) if "None" in str(field.type))


@dataclass(frozen=True, slots=True)
class Observe(QueueOperation[Reading]):
    """The operation that reads one queue. `horizon_ms` says how far ahead a delayed job counts as due."""

    keys: QueueKeys
    horizon_ms: int

    def commands(self) -> Sequence[Call]:
        """Give the one script."""
        return [Eval(lua.ours("observe-1"), (self.keys.meta,), (self.keys.base, self.horizon_ms))]

    def read(self, replies: Sequence[object]) -> Reading:
        """Give what the script found. Raises `UnreadableQueue`."""
        return Reading.parse(replies[0])

"""Schedules that a JobQueue declares, as BullMQ's job schedulers: written, advanced, removed.

A scheduler is a hash ``repeat:<id>`` with a template, and exactly one job to come, delayed until its time. The worker that
fetches that job writes the next one (`advance`). The records are Node's to the letter, so that Node's workers and
bull-board see no difference: the rules below are those of BullMQ's ``JobScheduler``
(https://github.com/taskforcesh/bullmq/blob/master/src/classes/job-scheduler.ts).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

import msgpack
from pydantic import JsonValue

from bullpen import cron, durations, jobs
from bullpen.errors import BullpenError
from bullpen.queue import lua, records
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import (
    Arg,
    Call,
    Command,
    Eval,
    QueueOperation,
    Reply,
    Steps,
    do,
    flat,
    items,
    number,
    text,
)
from bullpen.queue.policy import QueuePolicy
from bullpen.queue.records import Opts, StoredJob
from bullpen.queue.requests import Request, ShapeMaker

if TYPE_CHECKING:
    from bullpen.api.v1alpha1 import JobQueue

_COLLISION: Final = -10
_MOST_COLLISIONS: Final = 100
_OWNED: Final = "schedule:"


class ScheduleNotWritten(BullpenError):
    """A schedule's next run cannot be written: there is none, or its slots are taken by earlier runs."""


@dataclass(frozen=True)
class Schedule:
    """One schedule as it is to lie in Redis. Either `pattern`, with its time zone, or `every_ms`."""

    id: str
    job: str
    data: str = "{}"
    pattern: str | None = None
    time_zone: str = "UTC"
    every_ms: int | None = None
    opts: Opts = field(default_factory=dict)
    """The options of its jobs, under BullMQ's long names."""

    @property
    def repeat(self) -> dict[str, JsonValue]:
        """When it runs, as BullMQ writes it."""
        if self.pattern is None:
            return {"every": self.every_ms}
        return {"pattern": self.pattern, "tz": self.time_zone}

    @property
    def fingerprint(self) -> str:
        """What tells whether it is another one now."""
        content = {"job": self.job, "data": self.data, "opts": dict(self.opts), **self.repeat}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    def next_ms(self, after_ms: int) -> int | None:
        """Give the first run after this time; for an interval, whose slots Redis counts itself, this time."""
        return after_ms if self.pattern is None else _next_ms(self.repeat, after_ms)


def of(jobqueue: "JobQueue", keys: QueueKeys, policy: QueuePolicy) -> tuple[Schedule, ...]:
    """Give the schedules that a JobQueue declares and does not suspend. Their jobs have what the policy gives a job."""
    return tuple(
        Schedule(
            each.name,
            each.job,
            json.dumps(each.payload, ensure_ascii=False, separators=(",", ":")),
            each.cron,
            each.zone,
            None if each.every is None else durations.parse_ms(each.every),
            _job_opts(keys, policy, each.job),
        )
        for each in jobqueue.spec.schedules
        if not each.suspend
    )


def declare(
    keys: QueueKeys, wanted: Iterable[Schedule], found: Mapping[str, "FoundSchedule"], now_ms: int
) -> Steps[tuple[str, ...]]:
    """Write the schedules that are new or have changed; remove those that were declared once and are no longer.

    `found` is what `ReadSchedules` gave for those that are wanted. One that somebody else has changed since is left, and no
    longer counted as ours. Gives the ids of what changed. Raises `ScheduleNotWritten`. For the queue's owner only.
    """
    by_id = {schedule.id: schedule for schedule in wanted}
    changed = []
    for schedule in by_id.values():
        there = found.get(schedule.id)
        if there is not None and there.fields and there.ours == schedule.fingerprint:
            continue
        yield from upsert(keys, schedule, now_ms)
        yield from do(RememberSchedule(keys, schedule.id, schedule.fingerprint))
        changed.append(schedule.id)
    for schedule_id, there in found.items():
        if schedule_id in by_id or not there.ours:
            continue
        if there.is_as_written:
            yield from do(RemoveSchedule(keys, schedule_id))
            changed.append(schedule_id)
        yield from do(RememberSchedule(keys, schedule_id, None))
    return tuple(changed)


def upsert(keys: QueueKeys, schedule: Schedule, now_ms: int) -> Steps[None]:
    """Write one schedule and its next run. Raises `ScheduleNotWritten`."""
    after_ms = now_ms
    for _ in range(_MOST_COLLISIONS):
        next_ms = schedule.next_ms(after_ms)
        if next_ms is None:
            break
        if (yield from do(UpsertSchedule(keys, schedule, next_ms, now_ms))):
            return
        after_ms = next_ms  # that run is there already, and has begun or ended
    msg = f"schedule {schedule.id!r} of queue {keys.queue!r}: there is no free slot for its next run"
    raise ScheduleNotWritten(msg)


def advance(keys: QueueKeys, job: StoredJob, now_ms: int) -> "AdvanceSchedule | None":
    """Give what writes the next run of the scheduler that produced this job; None when there is none, or no further run.

    For the worker that has fetched the job, before it runs it. Raises `CronInvalid` for a pattern or time zone that cannot be
    read here.
    """
    if job.scheduler_id is None:
        return None
    found = job.opts.get("repeat")
    repeat: Mapping[str, JsonValue] = found if isinstance(found, dict) else {}
    count, limit, end = _whole(repeat.get("count")), _whole(repeat.get("limit")), _whole(repeat.get("endDate"))
    if (limit and count + 1 > limit) or (end and now_ms > end):
        return None
    previous = _whole(job.opts.get("prevMillis"))
    next_ms = now_ms if repeat.get("every") else _next_ms(repeat, max(previous, now_ms))
    if next_ms is None:
        return None
    opts = _next_opts(job.scheduler_id, {**job.opts}, repeat, next_ms=next_ms, now_ms=now_ms, count=count + 1)
    return AdvanceSchedule(keys, job.scheduler_id, job.id, job.data, next_ms, now_ms, opts)


@dataclass(frozen=True)
class FoundSchedule:
    """A scheduler as it lies in Redis, and what was declared once under its id."""

    fields: Mapping[bytes, bytes]
    ours: str | None

    @property
    def is_as_written(self) -> bool:
        """Whether it still is what was declared."""
        if not self.fields or self.ours is None:
            return False
        try:
            written = json.loads(self.ours)
        except (ValueError, RecursionError):
            return False
        if not isinstance(written, dict):
            return False
        names = {b"name": "job", b"pattern": "pattern", b"tz": "tz", b"every": "every"}
        same = all(
            self.fields.get(name, b"").decode(errors="replace") == str(written.get(key) or "")
            for name, key in names.items()
        )
        return same and self.fields.get(b"data", b"{}").decode(errors="replace") == written.get(
            "data"
        )  # BullMQ leaves an empty object out


@dataclass(frozen=True)
class ReadSchedules(QueueOperation["Mapping[str, FoundSchedule]"]):
    """Read the schedulers of these ids, and of those that were declared before."""

    keys: QueueKeys
    ids: tuple[str, ...]

    def commands(self) -> Sequence[Call]:
        """A script of ours."""
        return (Eval(lua.ours("readSchedules-2"), (self.keys.owned, self.keys.repeat), self.ids),)

    def read(self, replies: Sequence[Reply]) -> Mapping[str, FoundSchedule]:
        """Read them by id."""
        found = {}
        for entry in items(replies[0]):
            schedule_id, ours, fields = items(entry)
            found[text(schedule_id)] = FoundSchedule(flat(fields), text(ours) or None)
        return found


@dataclass(frozen=True)
class RememberSchedule(QueueOperation[None]):
    """Remember what was declared under this id; None forgets it."""

    keys: QueueKeys
    id: str
    fingerprint: str | None

    def commands(self) -> Sequence[Call]:
        """A field of `owned`."""
        name = _OWNED + self.id
        if self.fingerprint is None:
            return (Command(("HDEL", self.keys.owned, name)),)
        return (Command(("HSET", self.keys.owned, name, self.fingerprint)),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class UpsertSchedule(QueueOperation[bool]):
    """Write a scheduler and its next run, in place of the one that is to come. False: that run has begun or ended."""

    keys: QueueKeys
    schedule: Schedule
    next_ms: int
    now_ms: int

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        keys, schedule = self.keys, self.schedule
        opts = _next_opts(
            schedule.id, schedule.opts, schedule.repeat, next_ms=self.next_ms, now_ms=self.now_ms, count=1
        )
        args: tuple[Arg, ...] = (
            self.next_ms,
            _pack({"name": schedule.job, **schedule.repeat}),
            schedule.id,
            schedule.data,
            _pack(records.wire_opts(schedule.opts)),
            _pack(records.wire_opts(opts)),
            self.now_ms,
            keys.base,
            "",
        )
        return (Eval(lua.bullmq("addJobScheduler-11"), (*_scheduler_keys(keys), keys.active), args),)

    def read(self, replies: Sequence[Reply]) -> bool:
        """Read whether it was written. Raises `ScheduleNotWritten` when no slot of an interval is free."""
        reply = replies[0]
        if not isinstance(reply, int):
            return True
        if reply == _COLLISION:
            return False
        msg = f"schedule {self.schedule.id!r} of queue {self.keys.queue!r}: BullMQ refuses it (code {reply})"
        raise ScheduleNotWritten(msg)


@dataclass(frozen=True)
class AdvanceSchedule(QueueOperation["str | None"]):
    """Write the run after the job `producer_id`, unless it is there. Gives its id; None where there was nothing to do.

    Of two workers that both have the job (one of them stalled) the later one does nothing.
    """

    keys: QueueKeys
    id: str
    producer_id: str
    data: bytes
    next_ms: int
    now_ms: int
    opts: Opts

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        keys = self.keys
        args: tuple[Arg, ...] = (
            self.next_ms,
            self.id,
            self.data,
            _pack(records.wire_opts(self.opts)),
            self.now_ms,
            keys.base,
            self.producer_id,
        )
        script_keys = (*_scheduler_keys(keys), keys.job(self.producer_id), keys.active)
        return (Eval(lua.bullmq("updateJobScheduler-12"), script_keys, args),)

    def read(self, replies: Sequence[Reply]) -> str | None:
        """Read the id."""
        return text(replies[0]) or None


@dataclass(frozen=True)
class RemoveSchedule(QueueOperation[bool]):
    """Remove a scheduler and the run that is to come; False when there is none of that id."""

    keys: QueueKeys
    id: str

    repeatable: ClassVar[bool] = True

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        keys = self.keys
        return (
            Eval(lua.bullmq("removeJobScheduler-3"), (keys.repeat, keys.delayed, keys.events), (self.id, keys.base)),
        )

    def read(self, replies: Sequence[Reply]) -> bool:
        """Read whether there was one."""
        return number(replies[0]) == 0


def _scheduler_keys(keys: QueueKeys) -> tuple[str, ...]:
    return (
        keys.repeat,
        keys.delayed,
        keys.wait,
        keys.paused,
        keys.meta,
        keys.prioritized,
        keys.marker,
        keys.id,
        keys.events,
        keys.priority_counter,
    )


def _job_opts(keys: QueueKeys, policy: QueuePolicy, job: str) -> Opts:
    opts = dict(ShapeMaker(keys, policy, Request("", job, "{}", {}, {}), 0).make().opts)
    if not opts["attempts"]:  # a scheduler's template says nothing where nobody asked for any
        del opts["attempts"]
    return opts


def _next_opts(
    schedule_id: str, opts: Opts, repeat: Mapping[str, JsonValue], *, next_ms: int, now_ms: int, count: int
) -> Opts:
    """Give the options of the next run, as Node's ``getNextJobOpts`` does. Redis fills in delay and id itself."""
    chosen: dict[str, JsonValue] = {
        **opts,
        "jobId": f"repeat:{schedule_id}:{next_ms}",
        "delay": max(0, next_ms - now_ms),
        "timestamp": now_ms,
        "repeatJobKey": schedule_id,
        "repeat": {**repeat, "count": count},
    }
    chosen.pop("prevMillis", None)
    if not repeat.get("every"):
        chosen["prevMillis"] = next_ms
    return chosen


def _next_ms(repeat: Mapping[str, JsonValue], after_ms: int) -> int | None:
    pattern, zone = repeat.get("pattern"), repeat.get("tz")
    if not isinstance(pattern, str):
        return None
    start = _whole(repeat.get("startDate"))
    after = jobs.moment(max(start, after_ms))
    found = cron.next_after(pattern, zone if isinstance(zone, str) and zone else "UTC", after)
    return None if found is None else max(round(found.timestamp() * 1_000), after_ms)


def _whole(value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return 0  # nobody meant that
    return int(value)


def _pack(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, default=float)  # an integer of more than 64 bits is a float in Node, too
    except (ValueError, OverflowError, TypeError) as error:
        msg = f"its options cannot be sent: {error}"
        raise ScheduleNotWritten(msg) from error
    return packed

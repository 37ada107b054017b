"""Operations on one job: read it, move it, remove it, cancel it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias, get_args

import msgpack

from bullpen.queue import lua, records
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, Eval, QueueOperation, Reply, flat, items, number, text
from bullpen.queue.policy import KeepJobs
from bullpen.queue.records import StoredJob

State: TypeAlias = Literal[
    "waiting", "prioritized", "delayed", "active", "completed", "failed", "waiting-children", "unknown"
]
STATES: Final[tuple[State, ...]] = get_args(State)

CANCELLED_PREFIX: Final = "cancelled"
"""How the failed reason of a cancelled job begins; BullMQ has no state for it."""

CANCELLED_TTL_MS: Final = 24 * 3_600_000
"""How long the orders to cancel are kept after the last one: a job that runs longer has seen its own by then."""


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job and the state it is in."""

    job: StoredJob
    state: State


@dataclass(frozen=True)
class GetJob(QueueOperation["FoundJob | None"]):
    """Read a job and its state, at one moment. None when there is no such job."""

    keys: QueueKeys
    job_id: str

    def commands(self) -> Sequence[Call]:
        """A transaction of the hash and the state."""
        keys = self.keys
        state_keys = (
            keys.completed,
            keys.failed,
            keys.delayed,
            keys.active,
            keys.wait,
            keys.paused,
            keys.waiting_children,
            keys.prioritized,
        )
        return (Eval(lua.ours("getJob-9"), (*state_keys, keys.job(self.job_id)), (self.job_id,)),)

    def read(self, replies: Sequence[Reply]) -> FoundJob | None:
        """Read the pair."""
        reply = items(replies[0])
        if not reply:
            return None
        return FoundJob(StoredJob(self.job_id, flat(reply[1])), read_state(reply[0]))


@dataclass(frozen=True)
class FindIds(QueueOperation["frozenset[str]"]):
    """Say which of these jobs exist."""

    keys: QueueKeys
    job_ids: tuple[str, ...]

    def commands(self) -> Sequence[Call]:
        """One ``EXISTS`` for each."""
        return tuple(Command(("EXISTS", self.keys.job(job_id))) for job_id in self.job_ids)

    def read(self, replies: Sequence[Reply]) -> frozenset[str]:
        """Read the ids that are there."""
        return frozenset(job_id for job_id, reply in zip(self.job_ids, replies, strict=True) if reply == 1)


@dataclass(frozen=True)
class GetLogs(QueueOperation["list[str]"]):
    """Read the lines that a job has logged, the oldest first."""

    keys: QueueKeys
    job_id: str

    def commands(self) -> Sequence[Call]:
        """The whole list: a worker keeps it short."""
        return (Command(("LRANGE", self.keys.logs(self.job_id), 0, -1)),)

    def read(self, replies: Sequence[Reply]) -> list[str]:
        """Read the lines."""
        return [text(line) for line in items(replies[0])]


Removal: TypeAlias = Literal["removed", "gone", "active", "scheduled"]


@dataclass(frozen=True)
class RemoveJob(QueueOperation[Removal]):
    """Remove a job that does not run, and all that belongs to it, its children in a flow included.

    Gives ``active`` for one that runs and ``scheduled`` for the next run of a job scheduler: both stay.
    """

    keys: QueueKeys
    job_id: str

    def commands(self) -> Sequence[Call]:
        """BullMQ's script, after a look whether there is anything to remove."""
        keys = self.keys
        return (
            Command(("EXISTS", keys.job(self.job_id))),
            Eval(lua.bullmq("removeJob-2"), (keys.job(self.job_id), keys.repeat), (self.job_id, "1", keys.base)),
        )

    def read(self, replies: Sequence[Reply]) -> Removal:
        """Read what became of it."""
        existed, code = number(replies[0]), number(replies[1])
        if code == 1:
            return "removed" if existed else "gone"
        return "scheduled" if code == -8 else "active"


@dataclass(frozen=True)
class PromoteJob(QueueOperation[bool]):
    """Let a delayed job wait at once. Gives False for one that is not delayed."""

    keys: QueueKeys
    job_id: str

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        keys = self.keys
        promote_keys = (
            keys.delayed,
            keys.wait,
            keys.paused,
            keys.meta,
            keys.prioritized,
            keys.active,
            keys.priority_counter,
            keys.events,
            keys.marker,
        )
        return (Eval(lua.bullmq("promote-9"), promote_keys, (keys.base, self.job_id)),)

    def read(self, replies: Sequence[Reply]) -> bool:
        """Read whether it was."""
        return number(replies[0]) == 0


Retried: TypeAlias = Literal["retried", "gone", "not-ended"]


@dataclass(frozen=True)
class RetryJob(QueueOperation[Retried]):
    """Let a job that has ended wait anew, with its attempts and crashes forgotten or not.

    `state` says in which set it lies; gives ``not-ended`` for a job that is not there.
    """

    keys: QueueKeys
    job_id: str
    state: Literal["failed", "completed"]
    reset_attempts: bool = True
    lifo: bool = False

    repeatable: ClassVar[bool] = False

    def commands(self) -> Sequence[Call]:
        """BullMQ's script, then our fields."""
        keys, failed = self.keys, self.state == "failed"
        reset = "1" if self.reset_attempts else "0"
        retry_keys = (
            keys.job(self.job_id),
            keys.events,
            keys.failed if failed else keys.completed,
            keys.wait,
            keys.meta,
            keys.active,
            keys.marker,
            keys.prioritized,
            keys.priority_counter,
        )
        args = (
            self.job_id,
            "RPUSH" if self.lifo else "LPUSH",
            "failedReason" if failed else "returnvalue",
            self.state,
            reset,
            reset,
        )
        return (Eval(lua.retry(), retry_keys, args),)

    def read(self, replies: Sequence[Reply]) -> Retried:
        """Read what became of it."""
        code = number(replies[0])
        return "retried" if code == 1 else "gone" if code == -1 else "not-ended"


Cancelling: TypeAlias = Literal["cancelled", "told", "scheduled", "completed", "failed", "waiting-children", "gone"]


@dataclass(frozen=True)
class CancelJob(QueueOperation[Cancelling]):
    """Cancel a job wherever it is.

    One that does not run yet ends as failed at once, for the reason ``cancelled: …`` (``cancelled``). Of one that runs, the
    worker is told, within a second by its nudge and within five without (``told``). One that has ended, waits for its
    children, is gone, or is the next run of a scheduler is left as it is.
    """

    keys: QueueKeys
    job_id: str
    reason: str
    at_ms: int
    keep: KeepJobs
    """How long the job is kept among the failed ones."""

    def commands(self) -> Sequence[Call]:
        """Our script around BullMQ's."""
        keys = self.keys
        finish_keys = (
            keys.wait,
            keys.active,
            keys.prioritized,
            keys.events,
            keys.stalled,
            keys.limiter,
            keys.delayed,
            keys.paused,
            keys.meta,
            keys.priority_counter,
            keys.failed,
            keys.job(self.job_id),
            keys.metrics_failed,
            keys.marker,
        )
        finish: Mapping[str, object] = {
            "token": "0",  # the job has no lock: it never ran, or does not now
            "keepJobs": dict(self.keep),
            "lockDuration": 0,
            "attempts": 2**31,  # more than were made: nothing was exhausted
            "maxMetricsSize": "",
            "fpof": False,
            "cpof": False,
            "idof": False,
            "rdof": False,
        }
        args = (
            self.job_id,
            self.at_ms,
            "failedReason",
            cancelled_text(self.reason),
            "failed",
            "",
            keys.base,
            msgpack.packb(finish),
            msgpack.packb(["bullpen:error", records.error_field("Cancelled")]),
            json.dumps({"v": 1, "reason": self.reason, "at": self.at_ms}, separators=(",", ":"), ensure_ascii=False),
            keys.nudge,
            CANCELLED_TTL_MS,
            keys.repeat,
        )
        return (Eval(lua.cancel(), (*finish_keys, keys.cancelled), args),)

    def read(self, replies: Sequence[Reply]) -> Cancelling:
        """Read what became of it."""
        found = text(replies[0])
        return next((known for known in get_args(Cancelling) if known == found), "gone")


def cancelled_text(reason: str) -> str:
    """Give the failed reason of a job that was cancelled for this reason."""
    return f"{CANCELLED_PREFIX}: {reason}" if reason else CANCELLED_PREFIX


def cancelled_reason(failed_reason: str) -> str | None:
    """Give why a job was cancelled; None when its failed reason says something else."""
    head, colon, reason = failed_reason.partition(": ")
    return reason if head == CANCELLED_PREFIX and bool(colon or not reason) else None


def read_state(reply: Reply) -> State:
    """Read a state as BullMQ names it."""
    found = text(reply)
    return next((state for state in STATES if state == found), "unknown")

"""From a JobQueue to what lies in Redis: the policy, the limits that BullMQ itself enforces, who owns the queue.

One writer owns a queue: the operator of one cluster for one JobQueue, or a laptop's `bullpen dev`. What it wrote is
remembered beside it, so that a limit which the spec no longer has is removed only while it still is what we wrote; what
Node code or a person set otherwise stays. All of it is one script, so a reader never sees half of a change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgpack

from bullpen.errors import BullpenError
from bullpen.queue import lua, schedules
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, Eval, QueueOperation, Reply, Steps, do, items, text
from bullpen.queue.operations.queues import PauseQueue, ResumeQueue
from bullpen.queue.policy import QueuePolicy
from bullpen.queue.schedules import FoundSchedule, ReadSchedules, Schedule

if TYPE_CHECKING:
    from bullpen.api.v1alpha1 import JobQueue, JobQueueSpec


PURGING: Final = "purging"
"""Field of `owned`: that the queue is paused in order to be removed, and by nobody else."""


class OwnedElsewhere(BullpenError):
    """The queue belongs to another JobQueue, cluster or laptop; nothing was written."""


@dataclass(frozen=True)
class Owner:
    """Who writes a queue's settings. `uid` is information: a JobQueue that is made anew takes its queue again."""

    cluster: str
    namespace: str
    name: str
    uid: str = ""

    @property
    def id(self) -> str:
        """What is compared."""
        return f"{self.cluster}/{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Ownership:
    """Whose a queue is, as it stands in Redis."""

    owner: str
    """The owner's id; empty where the queue is nobody's."""
    pauses: bool
    """Whether the owner's spec is what pauses the queue."""


@dataclass(frozen=True)
class ReadOwnership(QueueOperation[Ownership]):
    """Read whose the queue is."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """A script of ours, which bounds what comes back: whoever may use the queue may write there."""
        return (Eval(lua.ours("readOwner-2"), (self.keys.owner, self.keys.owned), ()),)

    def read(self, replies: Sequence[Reply]) -> Ownership:
        """Read both."""
        owner, paused = (*items(replies[0]), None, None)[:2]
        return Ownership(text(owner), text(paused) == "1")


@dataclass(frozen=True)
class WriteDeclaration(QueueOperation["tuple[str, ...]"]):
    """Write what a JobQueue says. Gives the names of what changed; nothing is written that stands so already.

    `read` raises `OwnedElsewhere` when another owns the queue, unless `adopt` takes it.
    """

    keys: QueueKeys
    owner: Owner
    policy: QueuePolicy
    meta: Mapping[str, str]
    """Fields of BullMQ's ``meta``, and only those that the spec has."""
    paused: bool | None = None
    """Whether the queue is to be paused; None leaves it to others."""
    adopt: bool = False
    schedules: tuple[Schedule, ...] = ()
    """What `declare` writes once the queue is ours."""

    @classmethod
    def of(cls, jobqueue: "JobQueue", keys: QueueKeys, owner: Owner, *, adopt: bool = False) -> Self:
        """Give the declaration of a JobQueue."""
        spec = jobqueue.spec
        policy = QueuePolicy.from_spec(spec)
        wanted = schedules.of(jobqueue, keys, policy)
        return cls(keys, owner, policy, meta_fields(spec), spec.paused, adopt, wanted)

    def commands(self) -> Sequence[Call]:
        """Give the one script."""
        flat = [word for pair in sorted(self.meta.items()) for word in pair]
        keys = self.keys
        return [
            Eval(
                lua.ours("declare-5"),
                (keys.owner, keys.owned, keys.policy, keys.meta, keys.marker),
                (
                    self.owner.id,
                    self.owner.uid,
                    "1" if self.adopt else "",
                    self.policy.rev,
                    self.policy.doc,
                    msgpack.packb(flat),
                    {True: "1", False: "0", None: ""}[self.paused],
                    keys.nudge,
                ),
            )
        ]

    def read(self, replies: Sequence[Reply]) -> tuple[str, ...]:
        """Read what changed."""
        verdict, *names = (text(word) for word in items(replies[0]))
        if verdict == "elsewhere":
            msg = (
                f"the queue {self.keys.queue!r} (prefix {self.keys.prefix!r}) belongs to {names[0]!r}, not to "
                f"{self.owner.id!r}: give this one another queueName or prefix, or delete the other"
            )
            raise OwnedElsewhere(msg)
        return tuple(names)


def declare(declaration: WriteDeclaration, now_ms: int) -> Steps[tuple[str, ...]]:
    """Write a declaration, with pause and resume by BullMQ's own scripts, and its schedules.

    Gives the names of what changed. Raises `OwnedElsewhere`, and `ScheduleNotWritten` when all else has been written.
    """
    keys = declaration.keys
    changed, found = yield from do(_DeclareAndLook(declaration))
    if "pause" in changed:
        yield from do(PauseQueue(keys))
    if "resume" in changed:
        yield from resume(keys)
    scheduled = yield from schedules.declare(keys, declaration.schedules, found, now_ms)
    return (*changed, *(f"schedule {schedule_id}" for schedule_id in scheduled))


@dataclass(frozen=True)
class _DeclareAndLook(QueueOperation["tuple[tuple[str, ...], Mapping[str, FoundSchedule]]"]):
    """Write a declaration, and read the schedules with it: where nothing has changed, that is all, in one round trip."""

    declaration: WriteDeclaration

    def commands(self) -> Sequence[Call]:
        """Both."""
        return [*self.declaration.commands(), *self._look.commands()]

    def read(self, replies: Sequence[Reply]) -> tuple[tuple[str, ...], Mapping[str, FoundSchedule]]:
        """Read what changed, and the schedules by id. Raises `OwnedElsewhere`."""
        return self.declaration.read(replies[:1]), self._look.read(replies[1:])

    @property
    def _look(self) -> ReadSchedules:
        return ReadSchedules(self.declaration.keys, tuple(schedule.id for schedule in self.declaration.schedules))


def resume(keys: QueueKeys) -> Steps[None]:
    """Let a queue run that its declaration, or the beginning of its removal, had paused. To be repeated where it breaks off."""
    while (yield from do(ResumeQueue(keys))):
        pass  # jobs that Node before version 6 put aside come back some thousands at a time
    yield from do(_ForgetPause(keys))


@dataclass(frozen=True)
class _ForgetPause(QueueOperation[None]):
    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        return (Command(("HDEL", self.keys.owned, "paused", PURGING)),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


def meta_fields(spec: "JobQueueSpec") -> dict[str, str]:
    """Give what BullMQ's ``meta`` says for the spec: total concurrency and rate limit, which Node's workers obey too."""
    fields = {}
    if spec.concurrency.total is not None:
        fields["concurrency"] = str(spec.concurrency.total)
    if spec.rate_limit is not None:
        fields["max"] = str(spec.rate_limit.jobs)
        fields["duration"] = str(round(spec.rate_limit.per.total_seconds() * 1000))
    return fields

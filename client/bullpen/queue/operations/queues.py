"""Operations on a whole queue: its policy, its counts, its jobs, pause and resume."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, Eval, QueueOperation, Reply, flat, items, number, text
from bullpen.queue.operations.jobs import FoundJob
from bullpen.queue.policy import BUILT_IN, QueuePolicy
from bullpen.queue.records import StoredJob

ListedState: TypeAlias = Literal[
    "waiting", "prioritized", "delayed", "active", "completed", "failed", "waiting-children"
]

_LISTS: Final[Mapping[ListedState, tuple[str, ...]]] = {
    "waiting": ("wait", "paused"),  # the second is where Node before version 6 put the jobs of a paused queue
    "prioritized": ("prioritized",),
    "delayed": ("delayed",),
    "active": ("active",),
    "completed": ("completed",),
    "failed": ("failed",),
    "waiting-children": ("waiting-children",),
}


@dataclass(frozen=True)
class ReadPolicy(QueueOperation[QueuePolicy]):
    """Read the queue's policy; what is built in, for a queue that has none.

    Raises `ConfigurationError` when it cannot be read.
    """

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """The document alone: its revision follows from it."""
        return (Command(("HMGET", self.keys.policy, "doc", "rev")),)

    def read(self, replies: Sequence[Reply]) -> QueuePolicy:
        """Read the document."""
        doc, rev = items(replies[0])
        found = QueuePolicy.from_json(doc) if isinstance(doc, bytes) else BUILT_IN
        return found.with_revision(text(rev))


@dataclass(frozen=True)
class CountJobs(QueueOperation["Mapping[str, int]"]):
    """Count the queue's jobs by state."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """One command for each list or set."""
        base = self.keys.base
        return tuple(
            Command(("LLEN" if suffix in {"wait", "paused", "active"} else "ZCARD", base + suffix))
            for suffixes in _LISTS.values()
            for suffix in suffixes
        )

    def read(self, replies: Sequence[Reply]) -> Mapping[str, int]:
        """Read the numbers."""
        numbers = iter(replies)
        return {state: sum(number(next(numbers)) for _ in suffixes) for state, suffixes in _LISTS.items()}


@dataclass(frozen=True)
class ListJobs(QueueOperation["list[FoundJob]"]):
    """Read a page of the jobs in one state: those that come next, or came to it first, before the others.

    `newest_first` turns the order round.
    """

    keys: QueueKeys
    state: ListedState
    start: int = 0
    count: int = 100
    newest_first: bool = False

    def commands(self) -> Sequence[Call]:
        """BullMQ's script, for each list or set."""
        args = (self.start, self.start + self.count - 1, "0" if self.newest_first else "1", 5)
        return (Eval(lua.bullmq("getJobs-1"), (self.keys.base,), (*args, *_LISTS[self.state])),)

    def read(self, replies: Sequence[Reply]) -> list[FoundJob]:
        """Read the jobs."""
        found = []
        for listed in items(replies[0]):
            for entry in items(listed):
                job_id, fields = items(entry)
                found.append(FoundJob(StoredJob(text(job_id), flat(fields)), self.state))
        return found[: self.count]


@dataclass(frozen=True)
class PauseQueue(QueueOperation[None]):
    """Let no further job start; those that run go on."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        return (_pause(self.keys, "paused"),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class ResumeQueue(QueueOperation[int]):
    """Let jobs start again. Gives how many still lie where Node before version 6 put them: resume again for those."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """BullMQ's script."""
        return (_pause(self.keys, "resumed"),)

    def read(self, replies: Sequence[Reply]) -> int:
        """Read the number of jobs that are left."""
        return number(replies[0])


@dataclass(frozen=True)
class IsPaused(QueueOperation[bool]):
    """Say whether the queue is paused."""

    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        """BullMQ's field."""
        return (Command(("HEXISTS", self.keys.meta, "paused")),)

    def read(self, replies: Sequence[Reply]) -> bool:
        """Read it."""
        return number(replies[0]) == 1


def _pause(keys: QueueKeys, to: Literal["paused", "resumed"]) -> Eval:
    source, target = (keys.wait, keys.paused) if to == "paused" else (keys.paused, keys.wait)
    pause_keys = (source, target, keys.meta, keys.prioritized, keys.events, keys.delayed, keys.marker)
    return Eval(lua.bullmq("pause-7"), pause_keys, (to, "1"))

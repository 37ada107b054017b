"""How a queue's declaration ends: the queue is let go, to be taken by another, or it is removed with all that is in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bullpen.errors import BullpenError
from bullpen.queue import lua
from bullpen.queue.declaration import PURGING, OwnedElsewhere, Owner, ReadOwnership, resume
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Call, Command, Eval, QueueOperation, Reply, Steps, do, number
from bullpen.queue.operations.queues import IsPaused, PauseQueue

_JOBS_AT_ONCE: Final = 1_000
_NOT_PAUSED: Final = -1
_HAS_ACTIVE: Final = -2


class QueueBusy(BullpenError):
    """The queue cannot be removed: jobs are running."""


@dataclass(frozen=True)
class ReleaseQueue(QueueOperation[bool]):
    """Let go of a queue: whoever declares it next owns it. What lies in it stays. False when it was not this owner's."""

    keys: QueueKeys
    owner: Owner

    def commands(self) -> Sequence[Call]:
        """A script of ours."""
        return (Eval(lua.ours("release-1"), (self.keys.owner,), (self.owner.id,)),)

    def read(self, replies: Sequence[Reply]) -> bool:
        """Read whether it was."""
        return number(replies[0]) == 1


def purge(keys: QueueKeys, owner: Owner, *, force: bool = False) -> Steps[None]:
    """Remove the queue: its jobs, its schedules, its settings. It is paused first, so that no job starts meanwhile.

    Raises `OwnedElsewhere`, with nothing removed, and `QueueBusy` when jobs run, unless `force` removes them too.
    """
    found = yield from do(ReadOwnership(keys))
    if found.owner and found.owner != owner.id:
        msg = f"the queue {keys.queue!r} (prefix {keys.prefix!r}) belongs to {found.owner!r}: nothing was removed"
        raise OwnedElsewhere(msg)
    if not (yield from do(IsPaused(keys))):
        yield from do(_NotePause(keys))
    yield from do(PauseQueue(keys))
    while (left := (yield from do(_Obliterate(keys, force)))) > 0:
        pass
    if left == _NOT_PAUSED:
        msg = f"somebody resumed queue {keys.queue!r} while it was being removed: it is removed in part"
        raise QueueBusy(msg)
    if left == _HAS_ACTIVE:
        msg = f"jobs of queue {keys.queue!r} are running: wait for them, or force it"
        raise QueueBusy(msg)
    yield from do(_RemoveSettings(keys))


def spare(keys: QueueKeys) -> Steps[None]:
    """Give up a `purge` that has begun: let the queue run again, unless somebody else had paused it before."""
    if (yield from do(_IsPausedByPurge(keys))):
        yield from resume(keys)


@dataclass(frozen=True)
class _NotePause(QueueOperation[None]):
    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        return (Command(("HSET", self.keys.owned, "v", "1", PURGING, "1")),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class _IsPausedByPurge(QueueOperation[bool]):
    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        return (Command(("HEXISTS", self.keys.owned, PURGING)),)

    def read(self, replies: Sequence[Reply]) -> bool:
        return number(replies[0]) == 1


@dataclass(frozen=True)
class _Obliterate(QueueOperation[int]):
    keys: QueueKeys
    force: bool

    def commands(self) -> Sequence[Call]:
        args = (_JOBS_AT_ONCE, "force" if self.force else "")
        return (Eval(lua.bullmq("obliterate-2"), (self.keys.meta, self.keys.base), args),)

    def read(self, replies: Sequence[Reply]) -> int:
        return number(replies[0])


@dataclass(frozen=True)
class _RemoveSettings(QueueOperation[None]):
    keys: QueueKeys

    def commands(self) -> Sequence[Call]:
        keys = self.keys
        ours = (keys.policy, keys.owner, keys.owned, keys.workers, keys.retiring, keys.cancelled, keys.scaling)
        return (Command(("DEL", keys.repeat, keys.limiter, keys.delayed, *ours)),)

    def read(self, replies: Sequence[Reply]) -> None:
        """Nothing."""

"""What becomes of a queue when its JobQueue is deleted: Retain, Drain, Delete.

Retain has no finalizer at all: the object goes at once, and the queue is let go as soon as that is seen. The other two
hold the object until they are done; and they give up, so that no namespace hangs on a queue: at their timeout, when the
namespace is being deleted, when there is no way to Redis any more. Then the queue is let go as it is, with a tombstone in
Redis where that can be written, and an event says so.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Literal

from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import BullpenError, RedisUnavailable
from bullpen.queue.declaration import OwnedElsewhere, Owner, ReadOwnership, WriteDeclaration, declare
from bullpen.queue.ending import QueueBusy, ReleaseQueue, purge, spare
from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import Observe, Reading
from bullpen_operator.connections.pool import Redis
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Object
from bullpen_operator.ownership import WriteTombstone
from bullpen_operator.status import read_time

LOOK_AGAIN_SECONDS: Final = 2.0
FAR_MS: Final = 365 * 86_400_000

Policy = Literal["Retain", "Drain", "Delete"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a deletion is."""

    done: bool
    text: str
    gave_up: bool = False


def has_finalizer(obj: Object) -> bool:
    """Whether the JobQueue waits for us before it goes."""
    return kinds.FINALIZER in (obj["metadata"].get("finalizers") or ())


def finalizers(obj: Object, policy: Policy) -> list[str] | None:
    """Give the finalizers that the JobQueue is to have; None where it has them."""
    have = list(obj["metadata"].get("finalizers") or ())
    wanted = [name for name in have if name != kinds.FINALIZER]
    if policy != "Retain":
        wanted.append(kinds.FINALIZER)
    return None if set(wanted) == set(have) else wanted


def deadline(obj: Object, jobqueue: JobQueue) -> dt.datetime:
    """Give when the deletion is given up."""
    began = read_time(obj["metadata"].get("deletionTimestamp")) or dt.datetime.fromtimestamp(0, dt.UTC)
    return began + jobqueue.spec.deletion.timeout


def policy_of(obj: Object, jobqueue: JobQueue) -> Policy:
    """Give what is to become of the queue. Retain counts as soon as it is asked for, in a spec that is wrong otherwise, too."""
    asked = ((obj.get("spec") or {}).get("deletion") or {}).get("policy")
    return "Retain" if asked == "Retain" else jobqueue.spec.deletion.policy


def is_empty(reading: Reading) -> bool:
    """Whether nothing is left to be done."""
    return not (reading.backlog or reading.active or reading.delayed or reading.waiting_children)


async def drain(redis: Redis, jobqueue: JobQueue, keys: QueueKeys, owner: Owner, now_ms: int) -> Outcome:
    """Close the queue, remove its schedules, and see whether workers have finished. Raises `BullpenError`."""
    spec = jobqueue.spec.model_copy(update={"closed": True, "schedules": ()})
    closed = jobqueue.model_copy(update={"spec": spec})
    await redis.run_steps(declare(WriteDeclaration.of(closed, keys, owner), now_ms))
    reading = await redis.run(Observe(keys, FAR_MS))
    if not is_empty(reading):
        left = reading.backlog + reading.active + reading.delayed + reading.waiting_children
        paused = " The queue is paused: none starts until it is resumed." if reading.paused else ""
        return Outcome(done=False, text=f"Draining: {left} jobs are left, {reading.active} of them run.{paused}")
    await redis.run(ReleaseQueue(keys, owner))
    return Outcome(done=True, text="The queue is drained.")


async def remove(redis: Redis, keys: QueueKeys, owner: Owner) -> Outcome:
    """Remove the queue, in slices; what is left at the end of this call's time is for the next. Raises `BullpenError`."""
    try:
        await redis.run_steps(purge(keys, owner))
    except QueueBusy:
        return Outcome(done=False, text="Deleting: the queue is paused, running jobs are waited for.")
    except RedisUnavailable:
        if not redis.up:
            raise
        return Outcome(done=False, text="Deleting: the queue is paused, its jobs are being removed.")
    return Outcome(done=True, text="The queue is removed.")


async def step(
    redis: Redis, jobqueue: JobQueue, keys: QueueKeys, owner: Owner, *, policy: Policy, over: str, now_ms: int
) -> Outcome:
    """Take a deletion as far as it goes now. `over` says why it is to be given up; empty while it is not."""
    try:
        if policy == "Retain":
            return await retain(redis, keys, owner)
        if over:
            return await give_up(redis, keys, owner, policy=policy, over=over, now_ms=now_ms)
        if policy == "Delete":
            return await remove(redis, keys, owner)
        return await drain(redis, jobqueue, keys, owner, now_ms)
    except OwnedElsewhere as error:
        return Outcome(done=True, text=f"Nothing was done to the queue: {error}", gave_up=True)
    except BullpenError as error:
        waits = " waits for Redis" if isinstance(error, RedisUnavailable) else ""
        return Outcome(done=False, text=f"{policy}{waits}: {error}")


async def retain(redis: Redis, keys: QueueKeys, owner: Owner) -> Outcome:
    """Let go of the queue as it is. The policy was another when the finalizer was set, perhaps until a moment ago."""
    try:
        await let_go(redis, keys, owner)
    except BullpenError as error:
        # Nobody is kept from the queue by this: an owner of this cluster that is no more frees its queue.
        return Outcome(done=True, text=f"The queue stays in Redis; it was not told so: {error}")
    return Outcome(done=True, text="The queue stays in Redis.")


async def give_up(redis: Redis, keys: QueueKeys, owner: Owner, *, policy: Policy, over: str, now_ms: int) -> Outcome:
    """Let go of the queue as it is, with a tombstone where Redis takes one. Another's queue is not touched."""
    try:
        if await let_go(redis, keys, owner):
            await redis.run(WriteTombstone(keys, policy, over, now_ms))
            rest = "The queue stays in Redis."
        else:
            rest = "The queue is not this JobQueue's, and was left alone."
    except BullpenError as error:
        rest = f"It could not be let go of, either: {error}"
    return Outcome(done=True, text=f"{policy} was given up: {over}. {rest}", gave_up=True)


async def let_go(redis: Redis, keys: QueueKeys, owner: Owner) -> bool:
    """Have another take the queue, if it is this owner's; what was paused to be removed runs again. Raises `BullpenError`."""
    if (await redis.run(ReadOwnership(keys))).owner != owner.id:
        return False
    await redis.run_steps(spare(keys))
    return await redis.run(ReleaseQueue(keys, owner))

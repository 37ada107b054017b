"""Takes deleted JobQueues to their end: finalizers on and off, the queue drained, removed or let go, an event that says so.

A JobQueue that moves to another Redis leaves a queue behind; that one is let go, too.
"""

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import replace

from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import BullpenError, RedisUnavailable
from bullpen.queue.declaration import Owner
from bullpen.queue.ending import ReleaseQueue
from bullpen_operator import deletion
from bullpen_operator.cases import Case, Parts, Place, Result
from bullpen_operator.conditions import Facts
from bullpen_operator.connections import answers
from bullpen_operator.connections.pool import Redis
from bullpen_operator.deletion import Outcome
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Forbidden, NotFound
from bullpen_operator.kube.kinds import Key, Object

log = logging.getLogger("bullpen.operator.deletion")


class Endings:
    """What is done with JobQueues that are deleted, and with queues that are left. `now` is the calendar's clock."""

    def __init__(
        self, parts: Parts, *, cluster_wide: bool, leads: Callable[[], bool], now: Callable[[], dt.datetime]
    ) -> None:
        self._parts = parts
        self._cluster_wide = cluster_wide
        self._leads = leads
        self._now = now

    async def proceed(self, case: Case, facts: Facts) -> Result:
        """Take the deletion as far as it goes now. Raises `KubeError`."""
        if not deletion.has_finalizer(case.obj) or not self._leads():
            return Result("ok")
        redis = await self._parts.redises.of(case.place.found.ref)
        policy, over = deletion.policy_of(case.obj, case.jobqueue), await self._over(case)
        if not over:  # workers are still wanted
            self._parts.scaler.put(case.unit)
        now_ms = round(self._now().timestamp() * 1000)
        outcome = await deletion.step(
            redis, case.jobqueue, case.place.keys, case.owner, policy=policy, over=over, now_ms=now_ms
        )
        if outcome.done:
            await self._drop_grants(case.key, case.place, redis)
            return await self._end(case.obj, outcome)
        self._parts.reporter.put(case.key, replace(facts, deleting=outcome.text, redis_known=True), case.target)
        return Result("ok", again_seconds=deletion.LOOK_AGAIN_SECONDS)

    async def without_redis(self, obj: Object, jobqueue: JobQueue, why: str) -> Result:
        """End a deletion for which there is no Redis. Raises `KubeError`."""
        if not deletion.has_finalizer(obj) or not self._leads():
            return Result("ok")
        policy = deletion.policy_of(obj, jobqueue)
        if policy == "Retain":
            return await self._end(obj, Outcome(done=True, text="The queue stays in Redis."))
        text = f"{policy} was given up: there is no way to Redis any more ({why})"
        return await self._end(obj, Outcome(done=True, text=text, gave_up=True))

    async def without_spec(self, obj: Object, why: str) -> Result:
        """End a deletion whose spec does not say what is to become of which queue. Raises `KubeError`."""
        if not deletion.has_finalizer(obj) or not self._leads():
            return Result("ok")
        text = (
            f"The deletion was given up, the queue stays in Redis: the spec cannot be followed, nor was it ever ({why})"
        )
        return await self._end(obj, Outcome(done=True, text=text, gave_up=True))

    async def release(self, key: Key, place: Place, *, cluster_id: str) -> None:
        """Let go of the queue of a JobQueue that is gone, so that another may declare it."""
        redis = await self._parts.redises.of(place.found.ref)
        try:
            await redis.run(ReleaseQueue(place.keys, Owner(cluster_id, key.namespace, key.name)))
            await self._drop_grants(key, place, redis)
        except RedisUnavailable as error:
            # Nobody is kept from the queue by this: an owner of this cluster that is no more frees its queue.
            log.info("queue_not_released", extra={"jobqueue": str(key), "error": str(error)})

    async def leave(self, case: Case, before: Place) -> None:
        """Let go of the queue that a JobQueue had on another connection, with the jobs in it. One that cannot be reached keeps its owner."""
        there = f'queue "{before.keys.queue}" (prefix "{before.keys.prefix}") of {before.found.connection_key}'
        old = await self._parts.redises.of(before.found.ref)
        try:
            if before.keys == case.place.keys and await self._same_server(old, case.place):
                return
            # One that woke from a freeze would let go of what the other has declared anew, for the same JobQueue.
            if not self._leads() or not await old.run(ReleaseQueue(before.keys, case.owner)):
                return
        except BullpenError as error:
            log.info("queue_not_released", extra={"jobqueue": str(case.key), "error": str(error)})
            text = f"This JobQueue still owns {there}, which could not be let go of: {error}. `bullpen adopt` takes it from there."
            self._parts.recorder.record(case.obj, "Warning", "QueueNotReleased", text)
            return
        text = f"Let go of {there}: the jobs that lie there stay, and workers of this JobQueue take them no more."
        self._parts.recorder.record(case.obj, "Normal", "QueueReleased", text)

    async def _same_server(self, old: Redis, place: Place) -> bool:
        """Whether two connections lead to the very same keys: one database of one server."""
        # As another account, perhaps, and the one before may be no more.
        if old.ref.endpoint == place.found.ref.endpoint:
            return True
        new = await self._parts.redises.of(place.found.ref)
        known = [answers.fields_of(await each.call("INFO", "server")).get("run_id") for each in (old, new)]
        databases = [(await each.endpoints.current()).db for each in (old, new)]
        return known[0] == known[1] and databases[0] == databases[1]

    async def set_finalizers(self, obj: Object, policy: deletion.Policy) -> None:
        """Set or take our finalizer, as the policy asks; guarded by the resource version. Raises `KubeError`."""
        wanted = deletion.finalizers(obj, policy)
        if wanted is None or not self._leads():
            return
        metadata = obj["metadata"]
        change = {"metadata": {"finalizers": wanted, "resourceVersion": metadata["resourceVersion"]}}
        try:
            written = await self._parts.kube.merge(kinds.JOBQUEUE, metadata["namespace"], metadata["name"], change)
        except NotFound:
            return
        if not metadata.get("deletionTimestamp"):
            self._parts.cache.put(kinds.JOBQUEUE, written)

    async def _end(self, obj: Object, outcome: Outcome) -> Result:
        if outcome.gave_up:
            self._parts.recorder.record(obj, "Warning", "DeletionGaveUp", outcome.text, action="Delete")
        else:
            self._parts.recorder.record(obj, "Normal", "QueueEnded", outcome.text, action="Delete")
        await self.set_finalizers(obj, "Retain")
        return Result("changed")

    async def _over(self, case: Case) -> str:
        """Say why the deletion is to be given up; empty while it is not."""
        if self._now() >= deletion.deadline(case.obj, case.jobqueue):
            return f"spec.deletion.timeout ({round(case.jobqueue.spec.deletion.timeout.total_seconds())} s) is over"
        namespace = self._parts.cache.get(kinds.NAMESPACE, "", case.key.namespace)
        if namespace is None and not self._cluster_wide:
            try:
                namespace = await self._parts.kube.get(kinds.NAMESPACE, "", case.key.namespace)
            except Forbidden:
                return ""
        if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
            return "the namespace is being deleted"
        return ""

    async def _drop_grants(self, key: Key, place: Place, redis: Redis) -> None:
        try:
            await self._parts.grants.drop(key, place.found, redis)
        except BullpenError as error:
            log.warning("user_not_removed", extra={"jobqueue": str(key), "error": str(error)})

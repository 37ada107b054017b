"""Makes a JobQueue what its spec says: one function of the state of the world, called whenever any of it may have changed.

`reconcile(key)` looks at everything anew: the spec (else the last good one), the connection, the queue in Redis and whose it
is, the binding, the objects in the cluster, the scaler's unit. It says what it found as `Facts`, from which the status is
composed. It may be called at any time and any number of times; where all is as wanted it writes nothing. The work queue
never calls it twice at once for the same key.

An operator that does not lead reads the same way and keeps its scaler warm, but writes nothing: not to the API server, and
not to Redis.
"""

import datetime as dt
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import BullpenError, RedisUnavailable
from bullpen.queue.declaration import OwnedElsewhere, ReadOwnership, WriteDeclaration, declare
from bullpen_operator import cases, ownership, specs
from bullpen_operator.cases import Case, Parts, Place, Result
from bullpen_operator.children import Refused
from bullpen_operator.conditions import Facts, Problem
from bullpen_operator.connections import health, resolve
from bullpen_operator.connections.pool import Redis
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.endings import Endings
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict, NotLeading, Unavailable
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.settings import Settings

log = logging.getLogger("bullpen.operator.reconcile")

RETRY_SECONDS: Final = 10.0
"""What may come right by itself is looked at again so often; when Redis comes back, sooner."""


class Reconciler:
    """Reconciles JobQueues. `now` is the calendar's clock; `leads` says whether anything may be written."""

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        *,
        cluster_id: str,
        leads: Callable[[], bool],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._cluster_id = cluster_id
        self._leads = leads
        self._now = now
        self._endings = Endings(parts, cluster_wide=settings.cluster_wide, leads=leads, now=now)
        self._specs = specs.Reader()
        self._places: dict[Key, Place] = {}
        self._replicas: dict[Key, int] = {}
        self._good: dict[Key, Object] = {}
        self._unresolved: set[Key] = set()
        """Those that ask for a connection that there is not."""
        self._connections: dict[Key, tuple[Key, int]] = {}

    # -- what others ask -------------------------------------------------------------------------------------------

    def using(self, connection: Key) -> Iterable[Key]:
        """Give the JobQueues that use a connection, and those that have none and may want it."""
        users = [key for key, place in self._places.items() if place.found.connection_key == connection]
        return [*users, *self._unresolved]

    def on(self, ref: RedisRef) -> Iterable[Key]:
        """Give the JobQueues whose queues lie on this Redis."""
        return [key for key, place in self._places.items() if place.found.ref == ref]

    def renew(self) -> None:
        """Forget which specs were good: this operator leads anew, or no more, and another follows later ones meanwhile."""
        self._good.clear()

    # -- the one function ------------------------------------------------------------------------------------------

    async def reconcile(self, key: Key, *, thorough: bool = False) -> Result:
        """Make it so. `thorough` looks at what is not watched, too. Raises `BullpenError` for what is to be tried again."""
        obj = self._parts.cache.find(key)
        if obj is None or ((obj.get("spec") or {}).get("className") or "") != self._settings.class_name:
            return await self._gone(key, exists=obj is not None)
        read = await self._read(key, obj)
        facts = Facts(generation=cases.generation(obj), problem=read.problem, notices=read.notices)
        if read.jobqueue is not None:
            return await self._follow(key, obj, read.jobqueue, facts, thorough=thorough)
        if obj["metadata"].get("deletionTimestamp"):
            return await self._endings.without_spec(obj, "" if read.problem is None else read.problem.message)
        self._parts.reporter.put(key, facts, None)
        return Result("refused")

    async def _follow(self, key: Key, obj: Object, jobqueue: JobQueue, facts: Facts, *, thorough: bool) -> Result:
        """Follow a spec that can be used: to its end where the JobQueue is deleted, else to all that it asks for."""
        leaving = bool(obj["metadata"].get("deletionTimestamp"))
        facts = replace(facts, spec=jobqueue.spec, queue=jobqueue.queue_name)
        found = self._resolve(jobqueue)
        if isinstance(found, resolve.Refused):
            if leaving:
                return await self._endings.without_redis(obj, jobqueue, found.message)
            return self._without_connection(obj, jobqueue, facts, found)
        case = cases.case_of(key, obj, jobqueue, found, cluster_id=self._cluster_id)
        facts = replace(facts, prefix=found.prefix)
        if leaving:
            return await self._endings.proceed(case, facts)
        if not self._leads():
            self._places[key] = case.place
            if owned_elsewhere(obj):  # by what the one that leads has found; the lead may be taken at any moment
                self._parts.scaler.drop(key)
            else:
                self._parts.scaler.put(case.unit)
            return Result("standby")
        return await self._make(case, facts, thorough=thorough)

    async def _read(self, key: Key, obj: Object) -> specs.Reading:
        """Read the spec; the last good one where it cannot be used.

        It cannot, too, where it leads to no connection, or the API server would not take what follows from it.
        """
        read = await self._specs.read(key, obj)
        problem = read.problem
        self._unresolved.discard(key)
        if read.jobqueue is not None:
            found = self._resolve(read.jobqueue)
            if isinstance(found, resolve.Refused):
                self._unresolved.add(key)
                problem = Problem(found.reason, found.message)
            else:
                problem = await self._rehearse(key, obj, read.jobqueue)
            if problem is None:
                return read
        good = self._good.get(key) or await self._parts.revisions.last_good(obj)
        if good is None:
            return replace(read, problem=problem)
        if self._leads():  # else another may keep a later one any time
            self._good[key] = good
        return replace(await self._specs.read(key, specs.with_spec(obj, good)), problem=problem)

    async def _rehearse(self, key: Key, obj: Object, jobqueue: JobQueue) -> Problem | None:
        """Ask whether the API server would take a changed Deployment, before anything is done by the new spec."""
        if self._good.get(key) == obj["spec"] or obj["metadata"].get("deletionTimestamp") or not self._leads():
            return None
        try:
            await self._parts.children.rehearse(obj, jobqueue.spec)
        except Refused as error:
            return error.problem
        return None

    def _without_connection(self, obj: Object, jobqueue: JobQueue, facts: Facts, found: resolve.Refused) -> Result:
        """Without a connection nothing is done, and what runs stays as it is."""
        key = kinds.key_of(kinds.JOBQUEUE, obj)
        self._unresolved.add(key)
        self._places.pop(key, None)
        self._parts.scaler.drop(key)
        status = obj.get("status") or {}
        facts = replace(
            facts,
            problem=facts.problem or Problem(found.reason, found.message),
            prefix=(status.get("queue") or {}).get("prefix", ""),
            binding=_binding(obj),
        )
        self._parts.reporter.put(key, facts, cases.target_of(jobqueue))
        return Result("refused")

    async def _make(self, case: Case, facts: Facts, *, thorough: bool) -> Result:
        self._notice_replicas(case)
        if crowded := self._crowded(case):
            facts = replace(facts, notices=(*facts.notices, crowded))
        await self._endings.set_finalizers(case.obj, case.jobqueue.spec.deletion.policy)
        redis = await self._parts.redises.of(case.place.found.ref)
        facts, result = await self._make_in_redis(case, facts, redis)
        if facts.owned:
            facts, result = await self._make_in_cluster(case, facts, result, thorough=thorough)
            self._parts.scaler.put(case.unit)
        elif facts.owned is False:
            self._parts.scaler.drop(case.key)
        self._parts.reporter.put(case.key, facts, case.target)
        return result

    async def _make_in_redis(self, case: Case, facts: Facts, redis: Redis) -> tuple[Facts, Result]:
        """Declare the queue, and give it its binding. Without ownership nothing else is done."""
        before = self._places.get(case.key)
        known = before == case.place or _was_declared(case.obj)
        asked = replace(facts, redis_known=True)
        try:
            await self._declare(case, redis)
            self._places[case.key] = case.place
            if before is not None and (before.found.ref, before.keys) != (case.place.found.ref, case.place.keys):
                await self._endings.leave(case, before)
            binding = await self._parts.grants.ensure(case.obj, case.jobqueue, case.place.found, redis)
        except OwnedElsewhere as error:
            text = f"{error}; to have this one take it over: bullpen adopt {case.key.name} --namespace {case.key.namespace}"
            problem = facts.problem or Problem("OwnedElsewhere", text)
            return replace(asked, owned=False, owner_message=text, problem=problem), Result("refused")
        except (NotLeading, Unavailable, Conflict):
            raise  # it says nothing of the JobQueue
        except RedisUnavailable as error:
            asked = replace(asked, redis_trouble=str(error))
        except BullpenError as error:
            asked = replace(asked, problem=facts.problem or _problem_of(error))
        else:
            return replace(asked, owned=True, binding=binding), Result("ok")
        # What was declared before is kept up in the cluster; a rollout needs no Redis.
        binding = _binding(case.obj)
        asked = replace(asked, owned=True if known and binding else None, binding=binding)
        return asked, Result("retry", again_seconds=RETRY_SECONDS)

    async def _make_in_cluster(
        self, case: Case, facts: Facts, result: Result, *, thorough: bool
    ) -> tuple[Facts, Result]:
        """Make the objects, and keep the spec as a good one."""
        try:
            written = await self._parts.children.settle(case.obj, case.jobqueue.spec, thorough=thorough)
        except Refused as error:
            return replace(facts, problem=facts.problem or error.problem), Result("refused", failed=True)
        if facts.problem is None or facts.problem.reason == "NotYet":
            self._good[case.key] = case.obj["spec"]
            if await self._parts.revisions.keep(case.obj):
                written.append(str(kinds.CONTROLLER_REVISION))
        return facts, Result("changed") if written and result.word == "ok" else result

    async def _declare(self, case: Case, redis: Redis) -> None:
        """Write the queue's settings into Redis. Raises `OwnedElsewhere`, with nothing written, and other `BullpenError`."""
        if not self._leads():
            msg = "nothing was declared: this operator does not lead"
            raise NotLeading(msg)
        now_ms = round(self._now().timestamp() * 1000)
        keys = case.place.keys
        try:
            await redis.run_steps(declare(WriteDeclaration.of(case.jobqueue, keys, case.owner), now_ms))
        except OwnedElsewhere:
            found = (await redis.run(ReadOwnership(keys))).owner
            if not ownership.may_take(case.obj, found, case.owner, await self._standing(case, found)):
                raise
            await redis.run_steps(declare(WriteDeclaration.of(case.jobqueue, keys, case.owner, adopt=True), now_ms))
            self._parts.recorder.record(case.obj, "Normal", "QueueAdopted", f'The queue was taken from "{found}".')
            if ownership.is_asked_to_take(case.obj, found):
                # Else two that once took the queue from each other would do so at each look.
                annotations: dict[str, str | None] = {ownership.ADOPT_ANNOTATION: None}
                written = await self._parts.kube.annotate(*case.key, annotations)
                self._parts.cache.put(kinds.JOBQUEUE, written)

    async def _standing(self, case: Case, found: str) -> ownership.Standing:
        """Say how it stands with a JobQueue of this cluster that is said to own the queue. Raises `KubeError`.

        One on another connection still has it: two connections may lead to the same Redis.
        """
        here = ownership.owner_here(found, case.owner)
        if here is None or (not self._settings.cluster_wide and here[0] not in self._settings.namespaces):
            return "unknown"
        key = Key(kinds.JOBQUEUE, *here)
        if self._parts.cache.find(key) is None:
            # The cache may be late, and what follows is for good.
            listed = await self._parts.kube.list_metadata(kinds.JOBQUEUE, key.namespace)
            return "lives" if any(each["metadata"]["name"] == key.name for each in listed) else "gone"
        theirs = self._places.get(key)
        return "gone" if theirs is not None and theirs.keys != case.place.keys else "lives"

    async def _gone(self, key: Key, *, exists: bool) -> Result:
        """Let go of a JobQueue that is no more, or that an operator of another class takes."""
        parts = self._parts
        parts.scaler.drop(key)
        parts.reporter.forget(key)
        place = self._places.pop(key, None)
        self._good.pop(key, None)
        self._replicas.pop(key, None)
        self._connections.pop(key, None)
        self._unresolved.discard(key)
        if exists:
            return Result("ok")
        self._specs.forget(key)
        parts.revisions.forget(key)
        parts.children.forget(key)
        if place is not None and self._leads():
            await self._endings.release(key, place, cluster_id=self._cluster_id)
        return Result("ok")

    # -- small things ----------------------------------------------------------------------------------------------

    def _resolve(self, jobqueue: JobQueue) -> resolve.Resolved | resolve.Refused:
        settings = self._settings
        return resolve.resolve(
            jobqueue,
            self._parts.cache,
            operator_namespace=settings.namespace,
            cluster_wide=settings.cluster_wide,
        )

    def tell(self, key: Key, error: Exception) -> None:
        """Tell of what keeps a JobQueue from being reconciled, where a person looks first: nobody reads the log of what seems well."""
        obj = self._parts.cache.find(key)
        if obj is None:
            return
        reporter = self._parts.reporter
        facts = reporter.facts(key) or Facts(generation=0)
        facts = replace(facts, generation=cases.generation(obj), problem=_problem_of(error))
        reporter.put(key, facts, reporter.target(key))

    def _crowded(self, case: Case) -> str:
        """Say that all workers of a connection's JobQueues could open more connections than it has; else an empty text."""
        found = case.place.found
        self._connections[case.key] = (found.connection_key, health.connections_of(case.obj["spec"]))
        if found.most_connections is None:
            return ""
        most = sum(each for connection, each in self._connections.values() if connection == found.connection_key)
        if most <= found.most_connections:
            return ""
        return (
            f"At their most replicas, the workers of all JobQueues of {found.connection_key.kind} "
            f'"{found.connection_key.name}" open more connections than its spec.limits.connections, '
            f"{found.most_connections}: lower maxReplicas or processes, or raise the limit of both"
        )

    def _notice_replicas(self, case: Case) -> None:
        """Tell whoever sets `replicas` where nobody reads them."""
        spec = case.jobqueue.spec
        before = self._replicas.get(case.key)
        self._replicas[case.key] = spec.replicas
        if before is not None and before != spec.replicas and spec.scaling_mode != "Manual":
            text = f"spec.replicas is read in mode Manual only; the mode is {spec.scaling_mode}"
            self._parts.recorder.record(case.obj, "Warning", "ReplicasIgnored", text, action="Scale")


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Unavailable):
        return Problem("ApiServerUnavailable", f"{error}. What runs goes on, and it is tried again.", stalled=False)
    if isinstance(error, BullpenError):
        reason = str(getattr(error, "reason", ""))
        word = reason if reason.isascii() and reason.isidentifier() else type(error).__name__
        return Problem(word, str(error), stalled=False)
    text = (
        f"The operator cannot work on this JobQueue: {type(error).__name__}. Its log has more, as reconcile_broke. "
        "What ran before goes on, and it is tried again."
    )
    return Problem("InternalError", text, stalled=False)


def _binding(obj: Object) -> str:
    """Give the name of the binding that there was when the status was written."""
    name: str = ((obj.get("status") or {}).get("binding") or {}).get("name", "")
    return name


def owned_elsewhere(obj: Object) -> bool:
    """Whether the JobQueue's status says that another owns its queue."""
    return _owned(obj) == "False"


def _was_declared(obj: Object) -> bool:
    """Whether an earlier life of the operator declared the queue."""
    return _owned(obj) == "True"


def _owned(obj: Object) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each.get("status", "") for each in conditions if each.get("type") == "QueueOwned"), "")

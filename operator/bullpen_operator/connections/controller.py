"""Keeps the status of RedisConnections and ClusterRedisConnections, and tells people when one becomes good or bad.

Model: `run` owns a few workers on a queue of connections. One is looked at when its object changes, when its Redis is found
or lost, and every minute; a look takes one round trip, and where the Redis is known to be away none. Whoever uses the Redis is
counted at most every few seconds. Only the leader asks and writes, and only what differs.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import random as randomness
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from bullpen.api.v1alpha1 import ClusterRedisConnection
from bullpen.errors import BullpenError, RedisUnavailable
from bullpen_operator import conditions
from bullpen_operator.cache import Cache, Change
from bullpen_operator.conditions import Verdict
from bullpen_operator.connections import health, resolve
from bullpen_operator.connections.pool import Redis, Redises, Trouble
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.resolve import Refused
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict, NotFound, NotLeading
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.kube.recorder import Type
from bullpen_operator.workqueue import WorkQueue

log = logging.getLogger("bullpen.operator.connections")

CONNECTIONS: Final = (kinds.REDIS_CONNECTION, kinds.CLUSTER_REDIS_CONNECTION)
LOOK_SECONDS: Final = 60.0
COUNT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 60.0
"""How often it is seen which Redises no connection refers to any more, also where nothing happens."""
WORKERS: Final = 4


class Writes(Protocol):
    """What is asked of the API server."""

    async def apply_status(self, obj: Object, manager: str = ...) -> Object:
        """Apply the status of an object."""
        ...


class Records(Protocol):
    """What is asked of the recorder."""

    def record(self, obj: Object, type: Type, reason: str, note: str, *, action: str = ...) -> None:
        """Note what became of the object."""
        ...


class Connections:
    """See the module.

    `gone` is told the id of each Redis that nobody refers to any more; `up` whether one answers that takes the place of
    another in a connection; `attend` each Redis whose users are managed, at a look that it answered.
    """

    def __init__(
        self,
        kube: Writes,
        cache: Cache,
        redises: Redises,
        recorder: Records,
        *,
        operator_namespace: str,
        cluster_wide: bool,
        leading: Callable[[], bool],
        now: Callable[[], dt.datetime],
        gone: Callable[[str], None] = lambda _: None,
        up: Callable[[str, bool], None] = lambda *_: None,
        attend: Callable[[Redis], None] = lambda _: None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._redises = redises
        self._recorder = recorder
        self._operator_namespace = operator_namespace
        self._kinds = CONNECTIONS if cluster_wide else CONNECTIONS[:1]
        self._leading = leading
        self._now = now
        self._gone = gone
        self._up = up
        self._attend = attend
        self._random = random
        self._queue: WorkQueue[Key] = WorkQueue(
            clock=asyncio.get_running_loop().time, random=random, lane=lambda key: key.namespace
        )
        self._refs: dict[Key, RedisRef] = {}
        self._used: Mapping[Key, int] = {}
        self._wanted: Mapping[Key, int] = {}
        self._recount = asyncio.Event()
        cache.subscribe(self._heard)
        redises.subscribe(self._redis_changed)

    async def run(self) -> None:
        """Work until cancelled."""
        self.look_at_all()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._count_for_ever(), name="count users of connections")
            tasks.create_task(self._queue.run(self._work, WORKERS), name="connections")

    def look_at_all(self) -> None:
        """Look at every connection soon: this operator leads now, perhaps."""
        self._recount.set()
        for kind in self._kinds:
            for obj in self._cache.all(kind):
                self._queue.add(kinds.key_of(kind, obj))

    def is_superseded(self, redis: Redis) -> bool:
        """Say whether the connection whose name it has leads to another Redis, or is another account's, by now."""
        named = [ref for ref in self._refs.values() if ref.id == redis.id]
        return bool(named) and redis.ref not in named

    # -- news --------------------------------------------------------------------------------------------------------

    def _heard(self, change: Change) -> None:
        kind = change.key.kind
        if kind in self._kinds:
            if change.new is None or change.old is None or _outline(change.new) != _outline(change.old):
                self._queue.add(change.key)
                self._recount.set()
        elif kind == kinds.JOBQUEUE:
            if change.new is None or change.old is None or _wish(change.new) != _wish(change.old):
                self._recount.set()
        elif kind == kinds.NAMESPACE and (
            change.new is None or change.old is None or kinds.labels_of(change.new) != kinds.labels_of(change.old)
        ):
            self._recount.set()

    def _redis_changed(self, redis: Redis) -> None:
        for key, ref in self._refs.items():
            if ref == redis.ref:
                self._queue.add(key)

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _work(self, key: Key) -> None:
        obj = self._cache.find(key)
        if obj is None:
            self._refs.pop(key, None)
            self._queue.forget(key)
            return
        again = LOOK_SECONDS * (0.75 + 0.5 * self._random())
        try:
            await self._look(key, obj)
        except (NotLeading, Conflict, NotFound):
            again = 1.0
        except BullpenError as error:
            log.warning("connection_not_looked_at", extra={"key": str(key), "error": str(error)})
            self._queue.failed(key)
        except Exception:  # one that cannot be understood must not stop all others
            log.exception("connection_broke", extra={"key": str(key)})
            self._queue.failed(key)
        else:
            self._queue.succeeded(key)
        self._queue.add(key, delay=again)

    async def _look(self, key: Key, obj: Object) -> None:
        connection = resolve.read_connection({**obj, "kind": key.kind.kind})
        if isinstance(connection, Refused):
            self._refs.pop(key, None)
            if self._leading():
                problem = Verdict("False", connection.reason, connection.message)
                await self._write(key, obj, health.judge(None, None, users="Shared", problem=problem), "")
            return
        ref = RedisRef.of(connection, operator_namespace=self._operator_namespace)
        before, self._refs[key] = self._refs.get(key), ref
        if not self._leading():
            return  # which Redis is named is known all the same: it stays open
        redis = await self._redises.of(ref)
        if before not in (None, ref):
            self._up(redis.id, redis.up)
        seen, trouble = None, redis.trouble
        if trouble is None:
            try:
                seen = await health.look(redis)
            except RedisUnavailable as error:
                trouble = redis.trouble or Trouble("NoAnswer", redis.redacted(str(error)))
        if seen is not None and connection.spec.users == "Managed":
            self._attend(redis)
        crowd = health.Crowd(self._wanted.get(key, 0), connection.spec.limits.connections)
        verdicts = health.judge(seen, trouble, users=connection.spec.users, crowd=crowd)
        await self._write(key, obj, verdicts, seen.version if seen is not None else "")

    async def _write(self, key: Key, obj: Object, verdicts: dict[str, Verdict], version: str) -> None:
        before = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        now = self._now().astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        written = conditions.write(verdicts, before.get("conditions") or (), generation=generation, now=now)
        status: Object = {
            "observedGeneration": generation,
            "conditions": list(written),
            "usedBy": self._used.get(key, 0),
        }
        if version or before.get("version"):
            status["version"] = version or before["version"]
        if status == before:
            return
        names = {"name": key.name, "namespace": key.namespace} if key.namespace else {"name": key.name}
        named = {"apiVersion": key.kind.api_version, "kind": key.kind.kind, "metadata": names}
        self._cache.put(key.kind, await self._kube.apply_status({**named, "status": status}))
        self._tell({**obj, **named, "metadata": obj["metadata"]}, before.get("conditions") or (), verdicts)

    def _tell(self, obj: Object, before: "list[Object] | tuple[()]", verdicts: Mapping[str, Verdict]) -> None:
        """Record what has become good or bad. What is good from the start is no news."""
        old = {each.get("type"): each.get("status") for each in before}
        for name, verdict in verdicts.items():
            if verdict.status == old.get(name) or (name == "Ready" and verdict == verdicts["Reachable"]):
                continue
            if verdict.status == "False":
                self._recorder.record(obj, "Warning", verdict.reason, f"{name}: {verdict.message}", action="Look")
            elif verdict.status == "True" and old.get(name) == "False":
                self._recorder.record(obj, "Normal", name, verdict.message, action="Look")

    # -- who uses what -----------------------------------------------------------------------------------------------

    async def _count_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._recount.wait()
            if self._recount.is_set():
                self._recount.clear()
                self._count_anew()
            for redis in await self._redises.retain(set(self._refs.values())):
                if not self.is_superseded(redis):
                    self._gone(redis.id)
            await asyncio.sleep(COUNT_SECONDS)

    def _count_anew(self) -> None:
        used, wanted = self._count()
        before = (self._used, self._wanted)
        self._used, self._wanted = used, wanted
        for key in used.keys() | before[0].keys():
            if (used.get(key), wanted.get(key)) != (before[0].get(key), before[1].get(key)):
                self._queue.add(key)

    def _count(self) -> tuple[Mapping[Key, int], Mapping[Key, int]]:
        """Count the JobQueues by the connection that they name, or get by default, and the connections they may open.

        No spec is read in full.
        """
        counted: Counter[Key] = Counter()
        wanted: Counter[Key] = Counter()
        defaults: dict[str, Key | None] = {}
        offered: dict[tuple[Key, str], bool] = {}
        for obj in self._cache.all(kinds.JOBQUEUE):
            namespace = obj["metadata"].get("namespace", "")
            named = (obj.get("spec") or {}).get("redisRef")
            if named is not None:
                cluster = named.get("kind") == ClusterRedisConnection.__name__
                kind = kinds.CLUSTER_REDIS_CONNECTION if cluster else kinds.REDIS_CONNECTION
                key: Key | None = Key(kind, "" if cluster else namespace, named.get("name", ""))
            else:
                if namespace not in defaults:
                    defaults[namespace] = resolve.default_key(
                        namespace, self._cache, cluster_wide=kinds.CLUSTER_REDIS_CONNECTION in self._kinds
                    )
                key = defaults[namespace]
            if key is None:
                continue
            if (key, namespace) not in offered:
                offered[key, namespace] = resolve.is_offered(key, namespace, self._cache)
            if offered[key, namespace]:
                counted[key] += 1
                wanted[key] += health.connections_of(obj.get("spec") or {})
        return counted, wanted


def _outline(obj: Object) -> object:
    metadata = obj["metadata"]
    return (metadata.get("uid"), metadata.get("generation"), metadata.get("annotations"), metadata.get("labels"))


def _wish(obj: Object) -> object:
    spec = obj.get("spec") or {}
    return spec.get("redisRef"), health.connections_of(spec)

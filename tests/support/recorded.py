"""A cluster that is nothing but a cache and a record of writes, and a pool of connections to one Redis: for the scaler."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Self

from bullpen.queue.keys import QueueKeys
from bullpen.redis.link import Link
from bullpen.redis.settings import RedisSettings
from bullpen.scaling import ScalingPolicy
from bullpen_operator.cache import Cache
from bullpen_operator.connections.lookups import Lookups
from bullpen_operator.connections.pool import Redis
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict, KubeError, NotFound
from bullpen_operator.kube.kinds import Key, Kind, Object
from bullpen_operator.scaling import Scaler, ScaleUnit, Target

NAMESPACE = "shop"


@dataclass(frozen=True)
class Write:
    """One write that arrived: of what, and when by the monotonic clock."""

    verb: str
    key: Key
    value: object
    at: float = field(default_factory=time.monotonic)


class RecordedKube:
    """Deployments and pods as dicts, versioned; tells the cache of each change as the informers would."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.writes: list[Write] = []
        self.failures: list[KubeError] = []
        """Raised by the next writes, one each."""
        self.delay = 0.0
        self.under_way = 0
        """Writes that have arrived and are not answered yet."""
        self.refuses_marks: KubeError | None = None
        """Raised at each write of an annotation."""
        self.told = True
        """Whether the cache hears of writes."""
        self.objects: dict[Key, Object] = {}
        self._versions = itertools.count(100)

    def put(self, kind: Kind, obj: Object) -> Object:
        """Set an object as somebody else would."""
        new = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(next(self._versions))}}
        self.objects[kinds.key_of(kind, new)] = new
        if self.told:
            self.cache.put(kind, new)
        return new

    def remove(self, key: Key) -> None:
        """Delete an object."""
        if self.objects.pop(key, None) is not None and self.told:
            self.cache.remove(key)

    def replicas(self, name: str) -> int:
        """Give what a Deployment is set to."""
        return self.objects[Key(kinds.DEPLOYMENT, NAMESPACE, f"{name}-worker")]["spec"]["replicas"]

    @property
    def scales(self) -> list[Write]:
        """The numbers that were written."""
        return [write for write in self.writes if write.verb == "scale"]

    def scales_of(self, name: str) -> list[int]:
        """The numbers that were written for one queue."""
        return [write.value for write in self.scales if write.key.name == f"{name}-worker"]

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object."""
        await asyncio.sleep(0)
        return self.objects.get(Key(kind, namespace, name))

    async def apply_scale(
        self, kind: Kind, namespace: str, name: str, replicas: int, resource_version: str = ""
    ) -> Object:
        """Set the replicas, unless the version is another."""
        key = Key(kind, namespace, name)
        self._arrive()
        self.writes.append(Write("scale", key, replicas))
        await self._take_time()
        obj = self.objects[key]
        if resource_version and obj["metadata"]["resourceVersion"] != resource_version:
            msg = f"{key}: version {resource_version} is not the latest"
            raise Conflict(msg, status=409)
        new = self.put(kind, {**obj, "spec": {**obj["spec"], "replicas": replicas}})
        return {"metadata": {"resourceVersion": new["metadata"]["resourceVersion"]}, "spec": {"replicas": replicas}}

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: dict[str, str | None]) -> Object:
        """Set annotations."""
        key = Key(kind, namespace, name)
        self._arrive()
        self.writes.append(Write("annotate", key, dict(annotations)))
        await self._take_time()
        if self.refuses_marks is not None:
            raise self.refuses_marks
        if key not in self.objects:
            msg = f"{key} is not there"
            raise NotFound(msg, status=404)
        obj = self.objects[key]
        merged = {**(obj["metadata"].get("annotations") or {}), **annotations}
        kept = {name: value for name, value in merged.items() if value is not None}
        return self.put(kind, {**obj, "metadata": {**obj["metadata"], "annotations": kept}})

    async def _take_time(self) -> None:
        self.under_way += 1
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.under_way -= 1

    def _arrive(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


class LocalRedis(Redis):
    """A Redis of the pool whose settings stand in a test."""

    def __init__(self, settings: RedisSettings, name: str = "local") -> None:
        super().__init__(
            RedisRef("redis://test", NAMESPACE, id=name),
            _NoSecrets(),
            Lookups(),
            changed=lambda _: None,
            random=lambda: 0.5,
            monotonic=time.monotonic,
        )
        self._plain = settings
        self.endpoints = _Plain()
        self.link = Link(
            settings, patient=True, name="bullpen:operator", timeout=3.0, on_state=self._on_state, random=lambda: 0.1
        )

    def blocking_link(self, name: str) -> Link:
        """Give a further link."""
        return Link(self._plain, patient=True, name=name, blocking=True, timeout=3.0, random=lambda: 0.1)


class _Plain:
    def secrets(self) -> tuple[str, ...]:
        return ()


class _NoSecrets:
    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return None


class OneRedis:
    """A pool that always gives the same."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.failure: Exception | None = None

    async def of(self, ref: object) -> Redis:
        """Give it."""
        if self.failure is not None:
            raise self.failure
        return self.redis


@dataclass
class CountingMeter:
    """Keeps what it is told."""

    wakes: list[float] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    polls: int = 0

    def scaled(self, key: Key, queue: str, direction: str, reason: object) -> None:
        """Keep it."""
        self.changes.append((direction, str(reason)))

    def woke(self, key: Key, queue: str, seconds: float) -> None:
        """Keep it."""
        self.wakes.append(seconds)

    def redis_polled(self, redis: str, seconds: float) -> None:
        """Count it."""
        self.polls += 1


def key_of(name: str) -> Key:
    """Give the key of a JobQueue."""
    return Key(kinds.JOBQUEUE, NAMESPACE, name)


def unit(name: str, policy: ScalingPolicy | None = None, **fields: object) -> ScaleUnit[str]:
    """Give a JobQueue to scale."""
    target = Target(kinds.DEPLOYMENT, NAMESPACE, f"{name}-worker")
    values: dict[str, object] = {
        "key": key_of(name),
        "uid": f"uid-{name}",
        "keys": QueueKeys("bull", name),
        "redis": "local",
        "policy": policy or ScalingPolicy(max_replicas=20),
        "target": target,
    }
    return ScaleUnit(**{**values, **fields})


def deployment(name: str, replicas: int = 0, **labels: str) -> Object:
    """Give a Deployment as the reconciler makes it."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{name}-worker",
            "namespace": NAMESPACE,
            "uid": f"deployment-{name}",
            "resourceVersion": "1",
            "labels": {kinds.LABEL_JOBQUEUE: name, **labels},
            "ownerReferences": [{"uid": f"uid-{name}"}],
        },
        "spec": {"replicas": replicas},
        "status": {},
    }


class Stage:
    """A scaler on one Redis, with a recorded cluster; use it as ``async with``."""

    def __init__(self, url: str) -> None:
        self.redis = LocalRedis(RedisSettings.of(url))
        self.pool = OneRedis(self.redis)
        self.cache = Cache()
        self.kube = RecordedKube(self.cache)
        self.meter = CountingMeter()
        self.leads = True
        self.changes: list[Key] = []
        self.lost: list[Key] = []
        self.scaler: Scaler[str] = self.new_scaler()
        self._task: asyncio.Task[None] | None = None

    def new_scaler(self) -> Scaler[str]:
        """Make a scaler of the same cluster."""
        return Scaler(
            self.kube,
            self.cache,
            self.pool,
            leading=lambda: self.leads,
            changed=self.changes.append,
            lost=self.lost.append,
            meter=self.meter,
        )

    def add(self, name: str, policy: ScalingPolicy | None = None, *, replicas: int = 0, **fields: object) -> None:
        """Have a JobQueue and its Deployment."""
        self.kube.put(kinds.DEPLOYMENT, deployment(name, replicas))
        self.scaler.put(unit(name, policy, **fields))

    async def __aenter__(self) -> Self:
        await self.redis.link.__aenter__()
        self._task = asyncio.create_task(self.scaler.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        await self.redis.close()

    async def end(self) -> None:
        """End the scaler as a crash would."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def restart(self, *names_and_units: ScaleUnit[str]) -> None:
        """End it, and start another that knows nothing."""
        await self.end()
        self.scaler = self.new_scaler()
        for one in names_and_units:
            self.scaler.put(one)
        self._task = asyncio.create_task(self.scaler.run())

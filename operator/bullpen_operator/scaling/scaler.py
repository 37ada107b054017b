"""The scaler: takes charge of JobQueues, observes their Redises, decides at every reading, and has it carried out.

Concurrency model: `Scaler.run` finds each charge its Redis, and owns an observer (`observer`) for each Redis that a charge
needs and, for each charge that has something to do, a task that does it, one at a time for a charge, so that nothing
overtakes itself. Deciding happens at once, in the observer's call: between a queue's waking and the write of its number no
task is waited for. All in one event loop; `put`, `drop` and `state` may be called at any time.

A charge is decided on at each reading, when one of its pods or its target changes, and when what it was told changes. Only
the operator that leads acts; the other observes and decides all the same, so that it can take over at once.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, Protocol, TypeVar

from bullpen.errors import BullpenError
from bullpen.scaling import Reason
from bullpen_operator.cache import Cache, Change
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import KubeError
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.scaling.carrying import Carrier, Outcome, Scales
from bullpen_operator.scaling.charge import Around, Charge, Todo
from bullpen_operator.scaling.decider import Memory
from bullpen_operator.scaling.looking import MEMORY_LIVES_MS, Sight
from bullpen_operator.scaling.observer import Observer, Server
from bullpen_operator.scaling.units import ScaleUnit, ScalingState, Target

logger = logging.getLogger("bullpen.scaler")

Ref = TypeVar("Ref")
Ref_contra = TypeVar("Ref_contra", contravariant=True)

FIND_AGAIN_SECONDS: Final = 5.0
REMEMBER_EVERY_MS: Final = 10_000
REMEMBER_ANEW_MS: Final = MEMORY_LIVES_MS // 2
"""What a quiet queue taught is kept again so often, or it would be forgotten over a weekend."""
CONFLICT_RETRY_MS: Final = 500
BROKEN_RETRY_MS: Final = 10_000
LOST_EVERY_MS: Final = 10_000
POD_NEWS_MS: Final = 100
"""A change of a pod has its queue read within so long; many at once, once."""


class Servers(Protocol[Ref_contra]):
    """The pool of connections (`bullpen_operator.connections.pool.Redises`)."""

    async def of(self, ref: Ref_contra) -> Server:
        """Give the Redis of a reference. Raises `BullpenError` where there is none."""
        ...


class ScalingMeter(Protocol):
    """What is counted of scaling. Nothing here blocks or raises."""

    def scaled(self, key: Key, queue: str, direction: Literal["up", "down"], reason: Reason) -> None:
        """Count a change of the number that was made."""
        ...

    def woke(self, key: Key, queue: str, seconds: float) -> None:
        """Count a waking: from the first event to the change of the number."""
        ...

    def redis_polled(self, redis: str, seconds: float) -> None:
        """Count a look at the queues of a Redis."""
        ...


@dataclass(eq=False)
class _Care(Generic[Ref]):
    """A charge, and where its observing and acting stand."""

    charge: Charge[Ref]
    observer: Observer | None = None
    acting: bool = False
    hold_until_ms: float = 0.0
    """Nothing is tried again before then, by the clock that never jumps: something failed."""
    todo: Todo | None = None
    decided_ms: float = 0.0
    """When that was decided, by the clock that never jumps."""
    woken_ms: float | None = None
    remembered: object = None
    remembered_ms: int = 0
    lost_ms: float = float("-inf")
    """When it was last told that the queue's settings are gone."""


@dataclass(eq=False)
class _Watch:
    observer: Observer
    task: "asyncio.Task[None]"
    keys: set[Key] = field(default_factory=set)


class Scaler(Generic[Ref]):
    """See the module.

    `changed` is told of each JobQueue whose state has something new for status, `lost` of each whose settings are gone from Redis,
    again and again while they are: somebody has to declare it anew.
    """

    def __init__(
        self,
        kube: Scales,
        cache: Cache,
        servers: Servers[Ref],
        *,
        leading: Callable[[], bool],
        changed: Callable[[Key], None],
        lost: Callable[[Key], None],
        meter: ScalingMeter,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1_000,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._servers = servers
        self._leading = leading
        self._changed = changed
        self._lost = lost
        self._meter = meter
        self._clock_ms = clock_ms
        self._carrier = Carrier(kube, cache, leading)
        self._cares: dict[Key, _Care[Ref]] = {}
        self._watches: dict[int, _Watch] = {}
        self._by_target: dict[Key, dict[Key, None]] = {}
        self._replicasets: dict[tuple[str, str], dict[str, Object]] = {}
        self._unfound: dict[Key, float] = {}
        self._find = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.decisions = 0
        for replicaset in cache.all(kinds.REPLICASET):
            self._index(replicaset, present=True)
        cache.subscribe(self._heard)

    # -- for the reconciler ------------------------------------------------------------------------------------------

    def put(self, unit: ScaleUnit[Ref]) -> None:
        """Take charge of a JobQueue, or follow its new spec from now on. The same again changes nothing."""
        care = self._cares.get(unit.key)
        if care is not None and care.charge.unit == unit:
            return
        if care is None or care.charge.unit.uid != unit.uid:
            self.drop(unit.key)
            care = self._cares[unit.key] = _Care(Charge(unit))
        before, care.charge.unit = care.charge.unit, unit
        self._unhook(before)
        if unit.target is not None:
            self._by_target.setdefault(unit.target.key, {})[unit.key] = None
        if before.target != unit.target:
            care.charge.written = None
        if care.observer is None or (before.redis, before.keys) != (unit.redis, unit.keys):
            self._leave(care)
            self._unfound[unit.key] = self._clock_ms()
            self._find.set()
        else:
            care.observer.add(unit.key, unit.keys, crew=_has_crew(unit))
            self._consider(care)

    def drop(self, key: Key) -> None:
        """Let go of a JobQueue; its replicas stay as they are. Idempotent."""
        care = self._cares.pop(key, None)
        self._unfound.pop(key, None)
        if care is not None:
            self._unhook(care.charge.unit)
            self._leave(care)

    def state(self, key: Key) -> ScalingState | None:
        """Give what is known and decided; None of a JobQueue that is not in our charge."""
        care = self._cares.get(key)
        return None if care is None else care.charge.state

    def renew(self) -> None:
        """Act from now on: we have become the one that leads. What waits to be done is done at once, then all are read anew."""
        for care in list(self._cares.values()):
            if care.todo is not None and not care.todo.nothing:
                self._consider(care)
        for key, care in list(self._cares.items()):
            if care.observer is not None:
                care.observer.nudge(key)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """The observers, one for each Redis."""
        return tuple(watch.observer for watch in self._watches.values())

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Scale until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await self._find_for_ever()
            finally:
                self._tasks = None  # what observers still tell while they end has nobody to do it

    async def _find_for_ever(self) -> None:
        while True:
            now_ms = self._clock_ms()
            for key in [key for key, at_ms in self._unfound.items() if at_ms <= now_ms]:
                await self._find_server(key)
            self._find.clear()
            next_ms = min(self._unfound.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_ms is None else max(0.0, next_ms - self._clock_ms()) / 1_000):
                    await self._find.wait()

    async def _find_server(self, key: Key) -> None:
        care = self._cares.get(key)
        if care is None:
            return
        unit = care.charge.unit
        try:
            server = await self._servers.of(unit.redis)
        except BullpenError as error:
            if self._cares.get(key) is care and care.charge.unit is unit:
                self._unfound[key] = self._clock_ms() + FIND_AGAIN_SECONDS * 1_000
                care.charge.unseen = str(error)
                self._consider(care)
            return
        if self._cares.get(key) is not care or care.charge.unit is not unit:
            return  # it changed meanwhile, and is looked for again
        self._unfound.pop(key, None)
        watch = self._watch(server)
        watch.keys.add(key)
        care.observer = watch.observer
        watch.observer.add(key, unit.keys, crew=_has_crew(unit))

    def _watch(self, server: Server) -> _Watch:
        watch = self._watches.get(id(server))
        if watch is None:
            assert self._tasks is not None  # noqa: S101 - called by a task of theirs
            observer = Observer(server, self, clock_ms=self._clock_ms)
            task = self._tasks.create_task(observer.run(), name=f"observer of {server.id}")
            watch = self._watches[id(server)] = _Watch(observer, task)
        return watch

    def _leave(self, care: _Care[Ref]) -> None:
        observer, care.observer = care.observer, None
        if observer is None:
            return
        key = care.charge.unit.key
        observer.drop(key)
        watch = self._watches[id(observer.server)]
        watch.keys.discard(key)
        if not watch.keys:
            del self._watches[id(observer.server)]
            watch.task.cancel()

    def _unhook(self, unit: ScaleUnit[Ref]) -> None:
        """Hear no more of a unit's target; another may name the same."""
        if unit.target is not None and (keys := self._by_target.get(unit.target.key)) is not None:
            keys.pop(unit.key, None)
            if not keys:
                del self._by_target[unit.target.key]

    # -- what observers tell -----------------------------------------------------------------------------------------

    def seen(self, key: Key, sight: Sight, waited_ms: float | None) -> None:
        """Decide on a reading."""
        care = self._cares.get(key)
        if care is not None:
            try:
                care.charge.see(sight)
            except Exception as error:  # as in `_consider`
                logger.exception("%s cannot be read", key)
                self._broke(care, error)
                return
            if not sight.owned and self._clock_ms() - care.lost_ms >= LOST_EVERY_MS:
                care.lost_ms = self._clock_ms()
                self._lost(key)
            if waited_ms is not None and care.woken_ms is None:
                care.woken_ms = self._clock_ms() - waited_ms
            self._consider(care)
            if not care.acting:
                care.woken_ms = None

    def unseen(self, key: Key, why: str) -> None:
        """Hold what runs: the queue cannot be read."""
        care = self._cares.get(key)
        if care is not None:
            care.charge.unseen = why
            self._consider(care)

    def polled(self, server: str, seconds: float, queues: int) -> None:  # noqa: ARG002 - an observer's listener
        """Count a look."""
        self._meter.redis_polled(server, seconds)

    # -- what the cache tells ----------------------------------------------------------------------------------------

    def _heard(self, change: Change) -> None:
        kind = change.key.kind
        obj = change.new or change.old
        if obj is None:
            return
        if kind == kinds.REPLICASET:
            self._index(obj, present=change.new is not None)
            return
        if kind == kinds.POD:
            name = kinds.labels_of(obj).get(kinds.LABEL_JOBQUEUE)
            keys: Iterable[Key] = (Key(kinds.JOBQUEUE, change.key.namespace, name),) if name else ()
        else:
            keys = self._by_target.get(change.key, ())
        for key in keys:
            care = self._cares.get(key)
            if care is None or care.observer is None:
                continue
            written = care.charge.written
            if change.new is None or written is None or not written.made(change.new):
                care.observer.look_again(key, care.observer.now_ms() + POD_NEWS_MS)

    def _index(self, replicaset: Object, *, present: bool) -> None:
        metadata = replicaset["metadata"]
        for owner in metadata.get("ownerReferences") or ():
            place = (metadata.get("namespace", ""), owner.get("uid", ""))
            if present:
                self._replicasets.setdefault(place, {})[metadata["name"]] = replicaset
            elif place in self._replicasets:
                self._replicasets[place].pop(metadata["name"], None)
                if not self._replicasets[place]:
                    del self._replicasets[place]

    def _around(self, unit: ScaleUnit[Ref]) -> Around:
        target = unit.target
        if target is None:
            return Around(None)
        obj = self._cache.find(target.key)
        if target.foreign or obj is None:
            return Around(obj)
        place = (target.namespace, obj["metadata"].get("uid", ""))
        return Around(
            obj,
            self._cache.pods_of(unit.key.namespace, unit.key.name),
            tuple(self._replicasets.get(place, {}).values()),
        )

    # -- deciding and acting -----------------------------------------------------------------------------------------

    def _now_ms(self, care: _Care[Ref]) -> int:
        return care.observer.now_ms() if care.observer is not None else time.time_ns() // 1_000_000

    def _consider(self, care: _Care[Ref]) -> None:
        charge = care.charge
        unit = charge.unit
        now_ms = self._now_ms(care)
        self.decisions += 1
        care.decided_ms = self._clock_ms()
        try:
            care.todo = charge.consider(self._around(unit), now_ms)
        except Exception as error:  # what one tenant wrote must not keep all others from being scaled
            logger.exception("%s cannot be decided on", unit.key)
            self._broke(care, error)
        observer = care.observer
        if observer is not None:
            observer.expect(unit.key, charge.horizon_ms)
            if charge.look_again_ms is not None:
                observer.look_again(unit.key, charge.look_again_ms)
        if charge.news(now_ms):
            self._changed(unit.key)
        is_due = care.todo is not None and not care.todo.nothing and self._clock_ms() >= care.hold_until_ms
        if care.acting or self._tasks is None or not (is_due or self._is_to_remember(care, now_ms)):
            return
        if self._leading():
            care.acting = True
            self._tasks.create_task(self._act(care, is_due=is_due), name=f"scale {unit.key}")

    def _broke(self, care: _Care[Ref], error: Exception) -> None:
        """Hold what runs of one queue, and say so: something about it is such as nobody foresaw."""
        care.todo = None
        care.charge.fail(f"the queue cannot be scaled: {type(error).__name__}: {error}")
        if care.charge.news(self._now_ms(care)):
            self._changed(care.charge.unit.key)

    def _is_to_remember(self, care: _Care[Ref], now_ms: int) -> bool:
        if care.observer is None or care.charge.unseen or care.charge.decision is None:
            return False
        since_ms = now_ms - care.remembered_ms
        is_time = not 0 <= since_ms < REMEMBER_EVERY_MS
        return is_time and (care.remembered != care.charge.memory.gist or since_ms >= REMEMBER_ANEW_MS)

    async def _act(self, care: _Care[Ref], *, is_due: bool) -> None:
        """Do what is to be done for a charge, until nothing is left, or it failed."""
        charge = care.charge
        try:
            while is_due and (todo := care.todo) is not None and not todo.nothing:
                unit, target = charge.unit, charge.unit.target
                if target is None or self._cares.get(unit.key) is not care:
                    return
                server = care.observer.server if care.observer is not None else None
                decision = charge.decision
                age_seconds = (self._clock_ms() - care.decided_ms) / 1_000
                outcome = await self._carrier.carry_out(unit, server, target, todo, age_seconds=age_seconds)
                if self._cares.get(unit.key) is not care:
                    return
                if outcome.written is not None and decision is not None:
                    self._note(care, todo, outcome, decision.reason)
                again = await self._after(care, target, todo, outcome)
                if care.todo is todo:
                    care.todo = None
                if again:
                    self._consider(care)
                is_due = self._clock_ms() >= care.hold_until_ms
            await self._remember(care)
        except Exception as error:  # as in `_consider`
            logger.exception("%s cannot be scaled", charge.unit.key)
            care.hold_until_ms = self._clock_ms() + BROKEN_RETRY_MS
            self._broke(care, error)
        finally:
            care.acting = False
            care.woken_ms = None

    async def _after(self, care: _Care[Ref], target: Target, todo: Todo, outcome: Outcome) -> bool:
        """Take what became of it. Gives whether to decide again at once."""
        charge = care.charge
        charge.refused = outcome.refused
        if outcome.written is not None:
            charge.wrote(outcome.written, self._now_ms(care))
            care.remembered_ms = 0  # whoever takes over now must know of it
            return True
        if outcome.conflict:
            try:
                obj = await self._kube.get(target.kind, target.namespace, target.name)
            except KubeError as error:
                logger.info("%s: cannot be read: %s", target.key, error)
                obj = None
            if obj is not None:
                charge.written = None  # what was read just now has it, or what came after it
                self._cache.put(target.kind, obj)
                known = self._cache.find(target.key)
                if known is not None and known["metadata"].get("resourceVersion") != todo.target.version:
                    return True
                # The cache takes it for older: the API server's versions went back, and all is about to be listed anew.
        if outcome.retry_ms is not None or outcome.conflict:
            retry_ms = outcome.retry_ms or CONFLICT_RETRY_MS
            care.hold_until_ms = self._clock_ms() + retry_ms
            if care.observer is not None:
                care.observer.look_again(charge.unit.key, self._now_ms(care) + retry_ms)
        return False

    def _note(self, care: _Care[Ref], todo: Todo, outcome: Outcome, reason: Reason) -> None:
        if outcome.written is None:
            return
        unit = care.charge.unit
        before, after = todo.target.replicas, outcome.written.replicas
        self._meter.scaled(unit.key, unit.keys.queue, "up" if after > before else "down", reason)
        if care.woken_ms is not None and after > before:
            self._meter.woke(unit.key, unit.keys.queue, (self._clock_ms() - care.woken_ms) / 1_000)
            care.woken_ms = None
        logger.info(
            "%s: %s → %s replicas: %s",
            unit.key,
            before,
            after,
            care.charge.state.message,
            extra={"jobqueue": unit.key.name, "namespace": unit.key.namespace, "reason": str(reason)},
        )

    async def _remember(self, care: _Care[Ref]) -> None:
        now_ms = self._now_ms(care)
        if care.observer is None or not self._is_to_remember(care, now_ms):
            return
        memory: Memory = care.charge.memory
        care.remembered_ms = now_ms
        if await self._carrier.remember(care.charge.unit, care.observer.server, memory.to_json()):
            care.remembered = memory.gist


def _has_crew(unit: ScaleUnit[Ref]) -> bool:
    return unit.target is not None and not unit.target.foreign

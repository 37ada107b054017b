"""Carries out what was decided for one JobQueue: orders in Redis, marks on pods, the number through the scale subresource.

The order is what keeps jobs safe. Growing: orders are lifted first, then the number goes up. Shrinking: orders are in
Redis and obeyed long before the number goes down (`retire` sees to that), and pods that are to go are marked as cheap before.
A step that fails ends the whole: what it left undone is seen again, and planned again. A shrink that is late is not made: what it
was decided on, that these pods are idle and take no job, holds for as long as their orders do; of somebody else's workers, that no
more jobs run than those that stay can take, for no time at all.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from bullpen.errors import BullpenError
from bullpen_operator.cache import Cache
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound, NotLeading, Unavailable
from bullpen_operator.kube.kinds import Key, Kind, Object
from bullpen_operator.scaling import protection
from bullpen_operator.scaling.charge import Todo
from bullpen_operator.scaling.looking import GiveOrders, Remember
from bullpen_operator.scaling.observer import ANSWER_SECONDS, Server
from bullpen_operator.scaling.pods import DELETION_COST
from bullpen_operator.scaling.protection import Pace
from bullpen_operator.scaling.targets import Written
from bullpen_operator.scaling.units import ScaleUnit, Target

logger = logging.getLogger("bullpen.scaler")

WRITES_AT_ONCE: Final = 10
"""Numbers that are written at a time. Each more would want a connection of its own, and making one costs more than a write."""
SHRINK_SECONDS: Final = 6.0
"""A shrink arrives so soon after its decision, or not at all: well within `retire.SAFE_MS`, for which its orders hold."""
RETRY_MS: Final = 1_000
REFUSED_RETRY_MS: Final = 10_000
UNMARKED_SECONDS: Final = 60.0
"""For so long no pod of a namespace is marked in which that was refused."""


class Scales(Protocol):
    """What the scaler asks of the API server (`bullpen_operator.kube.client.Kube`)."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object; None where there is none. Raises `KubeError`."""
        ...

    async def apply_scale(
        self, kind: Kind, namespace: str, name: str, replicas: int, resource_version: str = ""
    ) -> Object:
        """Set the replicas of a target of this version. Raises `Conflict`, and other `KubeError`."""
        ...

    async def annotate(self, kind: Kind, namespace: str, name: str, annotations: dict[str, str | None]) -> Object:
        """Set annotations, and remove those that are None. Raises `KubeError`."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    written: Written | None = None
    """The number that was written."""
    conflict: bool = False
    """Somebody else changed the target: it is to be read, and decided on, again."""
    retry_ms: int | None = None
    """After how long to try again what failed; None where nothing did."""
    refused: str = ""
    """Why the API server does not let us, in its words."""


class Carrier:
    """Does what was decided. Marks on pods are paced over all queues: see `protection`."""

    def __init__(
        self,
        kube: Scales,
        cache: Cache,
        leading: Callable[[], bool],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._leading = leading
        self._monotonic = monotonic
        self._writing = asyncio.Semaphore(WRITES_AT_ONCE)
        self._pace = Pace(protection.WRITES_PER_SECOND, protection.BURST)
        self._unmarked_until: dict[str, float] = {}

    async def carry_out(
        self, unit: ScaleUnit[object], server: Server | None, target: Target, todo: Todo, *, age_seconds: float = 0.0
    ) -> Outcome:
        """Do what was decided `age_seconds` ago. Nothing is written by an operator that does not lead."""
        if not self._leading():
            return Outcome()
        plan = todo.plan
        shrinks = plan.replicas is not None and plan.replicas < todo.target.replicas
        try:
            async with asyncio.timeout(SHRINK_SECONDS - age_seconds if shrinks else None):
                written = await self._number(unit, server, target, todo)
        except TimeoutError:
            return _failed(
                unit.key, Unavailable(f"{target.key}: the smaller number was not taken in time; decided anew")
            )
        except BullpenError as error:
            return _failed(unit.key, error)
        try:
            if written is not None and written.replicas > todo.target.replicas:
                await self._price(target, plan.costs)
            await self._mark(target, todo)
        except BullpenError as error:
            # The number stands, whatever becomes of the marks.
            return replace(_failed(unit.key, error), written=written, conflict=False)
        return Outcome(written=written)

    async def remember(self, unit: ScaleUnit[object], server: Server, memory: str) -> bool:
        """Keep what was learned, for whoever leads next. False where it could not be."""
        if not self._leading():
            return False
        try:
            await server.run(Remember(unit.keys, memory), timeout=ANSWER_SECONDS)
        except BullpenError as error:
            logger.info("%s: what was learned could not be kept: %s", unit.key, error)
            return False
        return True

    async def _number(
        self, unit: ScaleUnit[object], server: Server | None, target: Target, todo: Todo
    ) -> Written | None:
        plan, view = todo.plan, todo.target
        grows = plan.replicas is not None and plan.replicas > view.replicas
        if (plan.retire or plan.lift) and server is not None:
            try:
                await server.run(GiveOrders(unit.keys, plan.retire, plan.lift), timeout=ANSWER_SECONDS)
            except BullpenError:
                if not grows:
                    raise
                # More workers are wanted, whatever becomes of those that retire: their orders run out.
        if not grows:
            await self._price(target, plan.costs)
        if plan.replicas is None:
            return None
        async with self._writing:
            answer = await self._kube.apply_scale(
                target.kind, target.namespace, target.name, plan.replicas, view.version
            )
        return Written(view.uid, str(answer.get("metadata", {}).get("resourceVersion", "")), plan.replicas)

    async def _price(self, target: Target, costs: Mapping[str, str | None]) -> None:
        for name, cost in costs.items():
            await self._annotate(target, name, {DELETION_COST: cost})

    async def _mark(self, target: Target, todo: Todo) -> None:
        for name, busy in todo.marks.items():
            now = self._monotonic()
            if now < self._unmarked_until.get(target.namespace, now) or not self._pace.take(now):
                return
            await self._annotate(target, name, protection.annotations(busy=busy))

    async def _annotate(self, target: Target, pod: str, annotations: dict[str, str | None]) -> None:
        try:
            self._cache.put(kinds.POD, await self._kube.annotate(kinds.POD, target.namespace, pod, annotations))
        except NotFound:
            pass  # it has gone meanwhile
        except (Forbidden, Invalid) as error:
            # A mark is a courtesy to others; that it is refused must not keep a queue from its workers.
            self._unmarked_until[target.namespace] = self._monotonic() + UNMARKED_SECONDS
            logger.warning("pod %s/%s cannot be annotated: %s", target.namespace, pod, error)


def _failed(key: Key, error: BullpenError) -> Outcome:
    match error:
        case NotLeading():
            return Outcome()
        case Conflict():
            return Outcome(conflict=True)
        case Forbidden() | Invalid() | NotFound():
            logger.warning("%s cannot be scaled: %s", key, error)
            return Outcome(retry_ms=REFUSED_RETRY_MS, refused=str(error))
        case KubeError():
            logger.warning("%s: the API server does not answer: %s", key, error)
            return Outcome(retry_ms=RETRY_MS)
        case _:
            logger.warning("%s: orders to workers could not be given: %s", key, error)
            return Outcome(retry_ms=RETRY_MS)

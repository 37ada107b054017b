"""Carries out what was decided for one JobQueue: orders in Redis, marks on pods, the number through the scale subresource.

The order is what keeps jobs safe. Growing: orders are lifted first, then the number goes up. Shrinking: orders are in
Redis and obeyed long before the number goes down (`retire` sees to that), and pods that are to go are marked as cheap before.
A step that fails ends the whole: what it left undone is seen again, and planned again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from bullpen.errors import BullpenError
from bullpen_operator.cache import Cache
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound, NotLeading
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
RETRY_MS: Final = 1_000
REFUSED_RETRY_MS: Final = 10_000


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

    async def carry_out(self, unit: ScaleUnit[object], server: Server | None, target: Target, todo: Todo) -> Outcome:
        """Do it. Nothing is written by an operator that does not lead."""
        if not self._leading():
            return Outcome()
        try:
            outcome = await self._number(unit, server, target, todo)
            if not outcome.conflict:
                await self._mark(target, todo)
        except BullpenError as error:
            return _failed(unit.key, error)
        return outcome

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

    async def _number(self, unit: ScaleUnit[object], server: Server | None, target: Target, todo: Todo) -> Outcome:
        plan, view = todo.plan, todo.target
        grows = plan.replicas is not None and plan.replicas > view.replicas
        if (plan.retire or plan.lift) and server is not None:
            try:
                await server.run(GiveOrders(unit.keys, plan.retire, plan.lift), timeout=ANSWER_SECONDS)
            except BullpenError:
                if not grows:
                    raise
                # More workers are wanted, whatever becomes of those that retire: their orders run out.
        if plan.replicas is None:
            await self._price(target, plan.costs)
            return Outcome()
        if not grows:
            await self._price(target, plan.costs)
        async with self._writing:
            answer = await self._kube.apply_scale(
                target.kind, target.namespace, target.name, plan.replicas, view.version
            )
        written = Written(view.uid, str(answer.get("metadata", {}).get("resourceVersion", "")), plan.replicas)
        if grows:
            await self._price(target, plan.costs)
        return Outcome(written=written)

    async def _price(self, target: Target, costs: Mapping[str, str | None]) -> None:
        for name, cost in costs.items():
            await self._annotate(target, name, {DELETION_COST: cost})

    async def _mark(self, target: Target, todo: Todo) -> None:
        for name, busy in todo.marks.items():
            if not self._pace.take(self._monotonic()):
                return
            await self._annotate(target, name, protection.annotations(busy=busy))

    async def _annotate(self, target: Target, pod: str, annotations: dict[str, str | None]) -> None:
        try:
            self._cache.put(kinds.POD, await self._kube.annotate(kinds.POD, target.namespace, pod, annotations))
        except NotFound:
            pass  # it has gone meanwhile
        except Forbidden as error:
            # A mark is a courtesy to others; that it is refused must not keep a queue from its workers.
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

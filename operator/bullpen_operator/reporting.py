"""Writes the status of JobQueues: all of it, by one writer, at a bounded pace, each in its turn.

Whoever has news of a JobQueue says so (`put`, `touch`); the status is composed when its turn comes, from what is known then,
and written only when that is worth it (`status.due`). Trouble with Redis is told once it has lasted a few seconds: a
Redis that blinks would else cost two writes for each of its queues.

`run` owns a few tasks that write, at one pace. Events are recorded on the transitions that a written status shows.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from bullpen_operator import conditions, status
from bullpen_operator.cache import Cache
from bullpen_operator.conditions import Facts, Known
from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import KubeError, NotFound, NotLeading
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.kube.recorder import Recorder
from bullpen_operator.scaling.protection import Pace
from bullpen_operator.scaling.units import ScalingState, Target
from bullpen_operator.workqueue import WorkQueue

log = logging.getLogger("bullpen.operator.status")

WRITERS: Final = 4
"""Writes under way at the same time, so that a slow API server does not make the pace slower than it may be."""

GATHER_SECONDS: Final = 0.25
"""News of a JobQueue is gathered for so long before its status is composed."""

FIRST_LOOK_SECONDS: Final = 5.0
"""How long a status waits for the scaler's first look at the queue."""

TROUBLE_SECONDS: Final = 5.0
"""Trouble with Redis is told when it has lasted so long."""

EVENTS_PER_SECOND: Final = 1.0
EVENTS_AT_ONCE: Final = 30.0
"""How many events of changed numbers there are, over all JobQueues; the status tells of each."""


class States(Protocol):
    """What is asked of the scaler."""

    def state(self, key: Key) -> ScalingState | None:
        """Give what it knows of a JobQueue; None where that is not in its care."""
        ...


class Reporter:
    """Composes and writes statuses. `clock` is the event loop's, `now` the calendar's."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        states: States,
        recorder: Recorder,
        *,
        leads: Callable[[], bool],
        clock: Callable[[], float],
        random: Callable[[], float],
        now: Callable[[], dt.datetime],
        writes_per_second: float,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._states = states
        self._recorder = recorder
        self._leads = leads
        self._clock = clock
        self._now = now
        self._pace = 1 / writes_per_second
        self._next_write = clock()
        self._events = Pace(EVENTS_PER_SECOND, EVENTS_AT_ONCE)
        self._facts: dict[Key, Facts] = {}
        self._targets: dict[Key, Target] = {}
        self._trouble_since: dict[Key, float] = {}
        self._first_look: dict[Key, float] = {}
        self._queue: WorkQueue[Key] = WorkQueue(clock=clock, random=random, lane=lambda key: key.namespace)

    def put(self, key: Key, facts: Facts, target: Target | None) -> None:
        """Take what a reconcile found out."""
        self._facts[key] = facts
        if target is None:
            self._targets.pop(key, None)
        else:
            self._targets[key] = target
        self._queue.add(key)

    def facts(self, key: Key) -> Facts | None:
        """Give what the last reconcile found out."""
        return self._facts.get(key)

    def target(self, key: Key) -> Target | None:
        """Give what was last said to be scaled."""
        return self._targets.get(key)

    def known(self) -> Iterable[tuple[Key, Facts]]:
        """Give what is known of each JobQueue."""
        return tuple(self._facts.items())

    def touch(self, key: Key) -> None:
        """Look at the status anew soon: something that it tells of has changed. Cheap, at any rate."""
        if key in self._facts:
            self._queue.add(key, delay=GATHER_SECONDS)

    def renew(self) -> None:
        """Forget what reconciles found: this operator leads anew, and what it found before was of another time."""
        self._facts.clear()
        self._targets.clear()

    def forget(self, key: Key) -> None:
        """Forget a JobQueue that is gone."""
        self._facts.pop(key, None)
        self._targets.pop(key, None)
        self._trouble_since.pop(key, None)
        self._first_look.pop(key, None)
        self._queue.forget(key)

    async def run(self) -> None:
        """Write until cancelled."""
        await self._queue.run(self._report, WRITERS)

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _report(self, key: Key) -> None:
        try:
            await self._report_news(key)
        except Exception:  # one JobQueue of which something cannot be told must not keep all others from being told of
            log.exception("status_broke", extra={"jobqueue": str(key)})
            self._queue.failed(key)

    async def _report_news(self, key: Key) -> None:
        if self._news(key) is None:
            return
        await self._turn()
        news = self._news(key)  # of now: what came while it waited is in it
        if news is None:
            return
        obj, new = news
        try:
            written = await self._kube.apply_status(_patch(obj, new))
        except (NotLeading, NotFound):
            return
        except KubeError as error:
            log.warning("status_not_written", extra={"jobqueue": str(key), "error": str(error)})
            self._queue.failed(key)
            return
        self._queue.succeeded(key)
        self._cache.put(kinds.JOBQUEUE, written)
        self._tell(obj, obj.get("status") or {}, new)

    def _news(self, key: Key) -> tuple[Object, Object] | None:
        """Give the JobQueue and the status that is to be written now; None where none is, or not yet."""
        obj, facts = self._cache.find(key), self._facts.get(key)
        if obj is None or facts is None or not self._leads():
            return None
        if self._is_too_early(key):
            self._queue.add(key, delay=GATHER_SECONDS)
            return None
        before: Mapping[str, Any] = obj.get("status") or {}
        now = self._now()
        new = status.compose(self._known(key, facts), before, now)
        due = status.due(new, before, now)
        if due.now:
            return obj, new
        if due.after_seconds is not None:
            self._queue.add(key, delay=due.after_seconds)
        return None

    async def _turn(self) -> None:
        """Wait until another write may begin."""
        now = self._clock()
        at = max(now, self._next_write)
        self._next_write = at + self._pace
        await asyncio.sleep(at - now)

    def _is_too_early(self, key: Key) -> bool:
        """Whether the scaler is about to read the queue for the first time: what was known before a restart is still true."""
        state = self._states.state(key)
        if state is None or state.reading is not None or state.redis_trouble:
            self._first_look.pop(key, None)
            return False
        return self._clock() < self._first_look.setdefault(key, self._clock() + FIRST_LOOK_SECONDS)

    def _known(self, key: Key, facts: Facts) -> Known:
        scaling = self._states.state(key)
        target = self._targets.get(key)
        fleet = conditions.fleet_of(None if target is None else self._cache.find(target.key))
        if scaling is not None and target is not None and not fleet.exists and target.foreign:
            # A kind that is not watched: the scaler has read its scale.
            number = scaling.crew.replicas
            fleet = replace(fleet, exists=True, replicas=number, wanted=number, updated=number, available=number)
        return Known(facts, fleet, scaling, self._redis_down(key, scaling))

    def _redis_down(self, key: Key, scaling: ScalingState | None) -> str:
        if scaling is None or not scaling.redis_trouble:
            self._trouble_since.pop(key, None)
            return ""
        lasted = self._clock() - self._trouble_since.setdefault(key, self._clock())
        if lasted >= TROUBLE_SECONDS:
            return scaling.redis_trouble
        self._queue.add(key, delay=TROUBLE_SECONDS - lasted + GATHER_SECONDS)
        return ""

    def _tell(self, obj: Object, before: Mapping[str, Any], new: Object) -> None:
        """Record events for what became another: Ready, what stands behind it, and the number of replicas."""
        self._tell_number(obj, before.get("scaling") or {}, new.get("scaling") or {})
        old = {each["type"]: each for each in before.get("conditions") or ()}
        for each in new["conditions"]:
            name, was = each["type"], old.get(each["type"])
            if was is not None and (was["status"], was["reason"]) == (each["status"], each["reason"]):
                continue
            if name == "Ready":
                ready = each["status"] == "True"
                self._recorder.record(obj, "Normal" if ready else "Warning", each["reason"], each["message"])
            elif name == "Paused" and was is not None and "Unknown" not in {was["status"], each["status"]}:
                self._recorder.record(obj, "Normal", each["reason"], each["message"])

    def _tell_number(self, obj: Object, before: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        was, now = before.get("desiredReplicas", 0), new.get("desiredReplicas", 0)
        if now != was and self._events.take(self._clock()):
            note = f"{was} → {now} replicas: {new.get('message', '')}"
            self._recorder.record(obj, "Normal", "ScaleUp" if now > was else "ScaleDown", note, action="Scale")


def _patch(obj: Object, new: Object) -> Object:
    metadata = obj["metadata"]
    return {
        "apiVersion": kinds.JOBQUEUE.api_version,
        "kind": kinds.JOBQUEUE.kind,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
        "status": new,
    }

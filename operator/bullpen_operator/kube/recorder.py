"""Tells people what happened, as Events of the object that it happened to.

Only on transitions: whoever records calls `record` when something has become so, not each time that it is so. The same
again within ten minutes (object, reason, text) is counted in one Event (its `series`), not written anew. One task (`run`)
writes, so that no reconcile waits for it; what does not fit into its queue, or cannot be written, is logged and dropped.
"""

import asyncio
import datetime as dt
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Forbidden, KubeError, NotFound, NotLeading
from bullpen_operator.kube.kinds import Object

log = logging.getLogger("bullpen.operator.events")

CONTROLLER: Final = "bullpen.dev/operator"
LONGEST_NOTE: Final = 1024
"""Bytes; the API server's own limit."""
QUEUE_LENGTH: Final = 1000
SAME_FOR_SECONDS: Final = 600.0
_REMEMBERED: Final = 4096

Type = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class _Note:
    namespace: str
    regarding: tuple[tuple[str, str], ...]
    type: Type
    reason: str
    action: str
    note: str


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    at: float


class Recorder:
    """Writes Events. `clock` is monotonic, in seconds; `name` makes the part of an Event's name that tells it from others."""

    def __init__(
        self,
        kube: Kube,
        identity: str,
        *,
        clock: Callable[[], float],
        name: Callable[[], str],
        home: str = "default",
    ) -> None:
        self._kube = kube
        self._identity = identity
        self._clock = clock
        self._name = name
        self._home = home
        self._queue: asyncio.Queue[_Note] = asyncio.Queue(QUEUE_LENGTH)
        self._known: OrderedDict[_Note, _Series] = OrderedDict()

    def record(self, obj: Object, type: Type, reason: str, note: str, *, action: str = "Reconcile") -> None:
        """Note what became of the object. At once; it is written soon, or not at all."""
        metadata = obj["metadata"]
        regarding = {
            "apiVersion": obj.get("apiVersion", ""),
            "kind": obj.get("kind", ""),
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata.get("uid", ""),
        }
        pairs = tuple((name, value) for name, value in regarding.items() if value)
        # Events of what is in no namespace stand in `default`, as everybody's do.
        namespace = metadata.get("namespace") or self._home
        text = note.encode()[:LONGEST_NOTE].decode(errors="ignore")
        try:
            self._queue.put_nowait(_Note(namespace, pairs, type, reason, action, text))
        except asyncio.QueueFull:
            log.warning("event_dropped", extra={"reason": reason, "note": text})

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        while True:
            note = await self._queue.get()
            try:
                await self._write(note)
            except NotLeading:
                continue
            except Forbidden as error:  # a namespace that is being deleted takes no more
                log.info("event_refused", extra={"reason": note.reason, "error": str(error)})
            except KubeError as error:
                log.warning("event_not_written", extra={"reason": note.reason, "error": str(error)})

    async def _write(self, note: _Note) -> None:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        series = self._known.pop(note, None)
        if series is not None and self._clock() - series.at < SAME_FOR_SECONDS:
            series.count += 1
            series.at = self._clock()
            self._known[note] = series
            try:
                await self._kube.merge(
                    kinds.EVENT,
                    series.namespace,
                    series.name,
                    {"series": {"count": series.count, "lastObservedTime": now}},
                )
            except NotFound:
                self._known.pop(note, None)
            else:
                return
        name = f"{dict(note.regarding)['name']}.{self._name()}"
        await self._kube.create(
            {
                "apiVersion": kinds.EVENT.api_version,
                "kind": "Event",
                "metadata": {"name": name, "namespace": note.namespace},
                "eventTime": now,
                "reportingController": CONTROLLER,
                "reportingInstance": self._identity[:128],
                "action": note.action,
                "reason": note.reason,
                "type": note.type,
                "note": note.note,
                "regarding": dict(note.regarding),
            }
        )
        self._known[note] = _Series(name, note.namespace, 1, self._clock())
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

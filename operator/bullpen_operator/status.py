"""The status of a JobQueue: what it says, and when a change of it is worth a write. Pure.

Counts are a snapshot: they are written along with whatever else changes, else at most every 30 seconds, and only when
one of them came from zero, went to zero, or moved by a tenth, or when the job that was said to be the oldest has been gone for
so long that its age would mislead: by more than a minute, and more than half of it.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bullpen.queue.observation import LATEST_MS, Reading
from bullpen_operator import conditions
from bullpen_operator.conditions import Known
from bullpen_operator.kube.kinds import Object

COUNTS_EVERY_SECONDS: Final = 30.0
MOVED: Final = 0.1
"""Share by which a count must have moved to be written by itself."""

MISLEADING: Final = dt.timedelta(minutes=1)
"""By so much, and by more than it is old, may the oldest job be younger than the one that was written."""

COUNTS: Final = ("waiting", "prioritized", "delayed", "active", "completed", "failed", "paused")


@dataclass(frozen=True, slots=True)
class Due:
    """Whether a status is to be written: now, after so many seconds, or (None) not for what is known."""

    after_seconds: float | None

    @property
    def now(self) -> bool:
        """Whether it is now."""
        return self.after_seconds == 0


NOW: Final = Due(0)
NEVER: Final = Due(None)


def compose(known: Known, before: Mapping[str, Any], now: dt.datetime) -> Object:
    """Give the status that follows from what is known. `before` is the one there is: for the times of transitions."""
    facts, scaling = known.facts, known.scaling
    status: Object = {
        "observedGeneration": facts.generation,
        "conditions": conditions.write(
            conditions.judge(known), before.get("conditions") or (), generation=facts.generation, now=time_text(now)
        ),
    }
    if facts.spec is None:  # nothing of it is known in this life of the operator: what was told before stays told
        status |= {name: before[name] for name in ("replicas", "selector", "binding", "queue") if name in before}
    if known.fleet.exists:
        status["replicas"] = known.fleet.replicas
        status["selector"] = known.fleet.selector
    if facts.binding:
        status["binding"] = {"name": facts.binding}
    if facts.queue:
        status["queue"] = {"name": facts.queue, "prefix": facts.prefix}
    if scaling is not None and scaling.reading is not None:
        status["jobs"] = _jobs(scaling.reading)
        if scaling.reading.oldest_ms is not None:
            status["oldestJobTime"] = time_text(_time(scaling.reading.oldest_ms))
    else:  # not read in this life of the operator: what was read before is what is known
        status |= {name: before[name] for name in ("jobs", "oldestJobTime") if name in before}
    if scaling is not None and scaling.desired is not None:
        status["scaling"] = {
            "desiredReplicas": scaling.desired,
            "reason": scaling.reason,
            "message": scaling.message[: conditions.LONGEST_MESSAGE],
        }
        if scaling.decided_ms is not None:
            status["scaling"]["decidedTime"] = time_text(_time(scaling.decided_ms))
    elif "scaling" in before:
        status["scaling"] = before["scaling"]
    return status


def due(new: Mapping[str, Any], before: Mapping[str, Any], now: dt.datetime) -> Due:
    """Say whether the new status is worth a write over the one before, and when."""
    if _settled(new) != _settled(before):
        return NOW
    ours, theirs = new.get("jobs"), before.get("jobs")
    if ours is None or not (_moved(ours, theirs or {}) or _misleads(new, before, now)):
        return NEVER
    written = read_time((theirs or {}).get("observedTime"))
    age = COUNTS_EVERY_SECONDS if written is None else (now - written).total_seconds()
    return Due(min(COUNTS_EVERY_SECONDS, max(0.0, COUNTS_EVERY_SECONDS - age)))


def time_text(time: dt.datetime) -> str:
    """Write a time as Kubernetes does: in UTC, to the second."""
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: object) -> dt.datetime | None:
    """Read a time as Kubernetes writes it; None for what is none."""
    try:
        return dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _settled(status: Mapping[str, Any]) -> Object:
    """Give of a status what is worth a write whenever it changes: all but counts, times and figures."""
    kept = {name: value for name, value in status.items() if name not in {"jobs", "oldestJobTime", "scaling"}}
    kept["conditions"] = {
        each["type"]: (
            each["status"],
            each["reason"],
            each.get("observedGeneration"),
            "" if each["type"] in conditions.FIGURES else each["message"],
        )
        for each in status.get("conditions") or ()
    }
    scaling = status.get("scaling") or {}
    kept["scaling"] = (scaling.get("desiredReplicas"), scaling.get("reason"))
    return kept


def _moved(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    for name in COUNTS:
        ours, theirs = new.get(name, 0), old.get(name, 0)
        if (ours == 0) != (theirs == 0) or abs(ours - theirs) > MOVED * theirs:
            return True
    return False


def _misleads(new: Mapping[str, Any], old: Mapping[str, Any], now: dt.datetime) -> bool:
    oldest, told = read_time(new.get("oldestJobTime")), read_time(old.get("oldestJobTime"))
    return oldest is not None and told is not None and oldest - told > max(MISLEADING, now - oldest)


def _jobs(reading: Reading) -> Object:
    waiting = reading.waiting + reading.paused_waiting
    return {
        "waiting": 0 if reading.paused else waiting,
        "prioritized": reading.prioritized,
        "delayed": reading.delayed,
        "active": reading.active,
        "completed": reading.completed,
        "failed": reading.failed,
        "paused": waiting if reading.paused else 0,
        "observedTime": time_text(_time(reading.at_ms)),
    }


def _time(ms: int) -> dt.datetime:
    """Give a time; what comes from a server's clock may be none, and is the nearest that is one then."""
    return dt.datetime.fromtimestamp(min(max(ms, 0), LATEST_MS) // 1000, dt.UTC)
